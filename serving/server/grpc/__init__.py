"""The gRPC port."""
