"""Kinds of models beside the suite's own, of TF1 and TF2: Keras and TFLite."""

import numpy as np

from tests.support import models


def test_a_keras_model_is_served(start, tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,), name="rows"), keras.layers.Dense(2, "softmax")])
    model.export(str(tmp_path / "m" / "1"), verbose=False)
    server, wire, _ = start(f"--model_base_path={tmp_path / 'm'}")
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = server.get("/v1/models/default/metadata").json()["metadata"]["signature_def"]["signature_def"]
    (name,) = found["serving_default"]["inputs"]
    (got,) = wire.outputs("default", {name: rows}).values()
    np.testing.assert_allclose(got, np.asarray(model(rows)), rtol=1e-5)
    reply = server.post("/v1/models/default:predict", {"instances": rows.tolist()})
    np.testing.assert_allclose(reply.json()["predictions"], got, rtol=1e-5)


def test_a_tflite_model_is_served_where_it_is_preferred(start, tmp_path):
    import tensorflow as tf

    folder = models.half_plus_two(tmp_path / "m")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
    (folder / "model.tflite").write_bytes(converter.convert())
    (folder / "saved_model.pb").write_bytes(b"not looked at")
    server, wire, _ = start(f"--model_base_path={tmp_path / 'm'}", "--prefer_tflite_model")
    assert wire.outputs("default", {"x": [1.0]})["y"].tolist() == [2.5]
    assert wire.predict("default", {"z": [1.0]}).code == "INVALID_ARGUMENT"
    reply = server.post("/v1/models/default:predict", {"instances": [1.0]})
    assert reply.json() == {"predictions": [2.5]}
    signature = server.get("/v1/models/default/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert signature["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
