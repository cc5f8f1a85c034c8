"""Manifests for serving and pipelines on Kubernetes, and the code that applies them."""

if __name__ != "pergola.k8s":
    raise ImportError(f"Import 'pergola.k8s', not '{__name__}': pergola's packages have one import name.")
