"""The input pipeline of training."""
