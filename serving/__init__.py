"""TF-Serving's protocol: a server, and a client that needs no TensorFlow."""
