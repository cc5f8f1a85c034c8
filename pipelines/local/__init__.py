"""The pipeline in one process."""
