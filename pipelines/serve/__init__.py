"""A workspace served on this machine: `pergola serve`, what it exposes, and `pergola predict`."""
