"""A client of TensorFlow Serving that needs no TensorFlow."""
