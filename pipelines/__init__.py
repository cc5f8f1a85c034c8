"""In which order things happen: on a laptop, on Kubeflow, from the command line."""
