"""A Kubeflow Pipelines server: connecting to it, runs, schedules."""
