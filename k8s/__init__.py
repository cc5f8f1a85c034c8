"""Manifests for serving and pipelines on Kubernetes, and what applies them."""
