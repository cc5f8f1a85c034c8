"""The registry of runs and model versions. EDGE: MLflow."""
