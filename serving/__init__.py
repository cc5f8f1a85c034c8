"""TF-Serving's protocol: a server, and a client that needs no TensorFlow."""

import os

if __name__ != "pergola.serving":
    raise ImportError(f"Import 'pergola.serving', not '{__name__}': pergola's packages have one import name.")

# gRPC 1.7x hands each answer from a thread of its own to the one that waits for it; the older way, where the
# thread that waits reads the socket itself, takes 0.3 ms less a request (docs/serving-performance.md). gRPC
# reads this when it is first imported; what a process has set itself stays.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")
