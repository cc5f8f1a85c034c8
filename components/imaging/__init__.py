"""From encoded bytes to the network's input, and to vectors."""
