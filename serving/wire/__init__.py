"""Shared by client and server, without TensorFlow: protocol messages, tensor codec, model contract."""
