"""A kind of model beside the suite's own, of TF1 and TF2: Keras."""

import numpy as np


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
