"""What client and server share: the protocol's messages, one tensor codec, the contract of a pergola
model."""
