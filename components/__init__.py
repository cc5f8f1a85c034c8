"""What each step of the pipeline does: data, training, evaluation, release."""

import os

if __name__ != "pergola.components":
    raise ImportError(
        f"Import 'pergola.components', not '{__name__}': pergola's packages have one import name."
    )

# TensorFlow reads this when it is imported. By itself it leaves oneDNN off on CPUs without AVX-512, where
# training then takes up to 1.8 times as long (docs/training-performance.md).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
