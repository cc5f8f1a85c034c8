"""In which order things happen: on a laptop, on Kubeflow, from the command line."""

if __name__ != "pergola.pipelines":
    raise ImportError(
        f"Import 'pergola.pipelines', not '{__name__}': pergola's packages have one import name."
    )
