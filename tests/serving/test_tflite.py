"""TFLite models."""

import numpy as np
import pytest
import tensorflow as tf

from pergola.serving.server.config.errors import LoadFailed, RuntimeFailure
from pergola.serving.server.core import tflite
from tests.support import models


def convert(folder, keys=("serving_default",)) -> None:
    """Write model.tflite into a version folder, of the SavedModel in it."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(keys))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    (folder / tflite.FILE).write_bytes(converter.convert())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("lite")
    convert(models.half_plus_two(base))
    return base


def test_a_tflite_model_runs_by_its_signature(base):
    model = tflite.load(base / "1", num_interpreters=2)
    signature = model.signatures["serving_default"]
    for values in ([1.0], [1.0, 2.0, 5.0]):
        feeds = {signature.inputs["x"]: np.array(values, np.float32)}
        got = model.run(feeds, [signature.outputs["y"]])[0]
        assert got.tolist() == [v / 2 + 2 for v in values]
    with pytest.raises(RuntimeFailure):
        model.run({signature.inputs["x"]: np.array(["a"], object)}, [signature.outputs["y"]])
    model.close()


def test_a_damaged_tflite_model_is_refused(tmp_path):
    (tmp_path / tflite.FILE).write_bytes(b"garbage")
    with pytest.raises(LoadFailed, match=r"model\.tflite cannot be loaded"):
        tflite.load(tmp_path)
