"""TF-Serving's messages under names of our own, so that they share a process with TensorFlow's.

The wire format knows field numbers and types, not names: a request made of these is a request to
any TF-Serving. `scripts/protos` makes the *_pb2 files from the .proto files beside them;
tests/serving/test_protos.py holds every field against tensorflow-serving-api's.
"""
