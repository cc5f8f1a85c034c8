import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pergola.components.training.models.architectures import ModelSettings, Plan, build
from pergola.components.training.models.statistics import Statistics
from tests.components.training.conftest import labelled_image

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
import numpy as np
import keras
from pergola.components.training.models.architectures import ModelSettings, Plan, build
from pergola.components.training.models.statistics import Statistics

name, file = sys.argv[1:]
data = np.load(file)
plan = Plan(name, "a test", 8, 8, 3, 3, 8)
keras.utils.set_random_seed(0)
network = build(plan, ModelSettings(architecture=name, conv_filters=8),
                Statistics((90.0,) * 3, (70.0,) * 3), fused=True)
network.compile(keras.optimizers.AdamW(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
history = network.fit(data["images"], data["labels"], batch_size=16, epochs=6, verbose=0).history
logits = network.predict(data["images"], verbose=0)
weights = {f"w{k}": w for k, w in enumerate(network.get_weights())}
np.savez(file + ".trained.npz", logits=logits, **weights)
print(json.dumps({"backend": keras.backend.backend(), "loss": history["loss"]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("jax"), reason="no jax: scripts/setup bench")
@pytest.mark.parametrize("name", ["resnet_fast", "conv", "cnn_batchnorm"])
def test_networks_train_under_jax_and_are_the_same_networks(name, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = np.stack([labelled_image(label, rng) for label in labels]).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, name, str(tmp_path / "data.npz")], cwd=ROOT,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["backend"] == "jax"
    assert answer["loss"][-1] < 0.7 * answer["loss"][0]

    trained = np.load(tmp_path / "data.npz.trained.npz")
    plan = Plan(name, "a test", 8, 8, 3, 3, 8)
    here = build(plan, ModelSettings(architecture=name, conv_filters=8),
                 Statistics((90.0,) * 3, (70.0,) * 3), fused=False)  # fmt: skip
    here.set_weights([trained[f"w{k}"] for k in range(len(trained.files) - 1)])
    np.testing.assert_allclose(here.predict_on_batch(images), trained["logits"], atol=1e-3)
