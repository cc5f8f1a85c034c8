import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from pergola.components import digest
from pergola.components.artifacts.data import SPLITS, Shards
from pergola.components.artifacts.training import Export, Training
from pergola.components.data import shard_reader
from pergola.components.errors import InputError
from pergola.components.imaging import decode
from pergola.components.stats import costs
from pergola.components.stats.temperature import Temperature, apply_temperature, choose_temperature
from pergola.components.training import export, warmup
from pergola.components.training.export import ExportSettings
from pergola.components.training.input.images import ImageShape
from pergola.components.training.models import architectures, layers
from pergola.components.training.models.architectures import ModelSettings
from pergola.components.training.models.batch_norm_folding import fold_batch_norm
from pergola.components.training.models.statistics import Statistics, measure
from pergola.serving.wire import contract
from tests.components.training.conftest import LABELS, as_png, labelled_image

STATISTICS = Statistics((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))


def network(fused=False, seed=0):
    """A network with every weight drawn, the statistics of its normalisation included."""
    plan = architectures.Plan("resnet_fast", "a test", 8, 8, 3, 3, 8)
    built = architectures.build(plan, ModelSettings(dropout=0.0), STATISTICS, fused=fused)
    rng = np.random.default_rng(seed)
    built.set_weights([drawn(rng, weight.shape) for weight in built.get_weights()])
    return built


def drawn(rng, shape):
    if len(shape) > 1:
        return rng.normal(0.0, (2.0 / np.prod(shape[:-1])) ** 0.5, shape)
    return rng.uniform(0.5, 1.5, shape)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    network().save(folder / "model.keras")
    Training("resnet_fast", "a test", LABELS, 8, 8, 3, 1, 1, 1, ({"loss": 1.0},), "float32", 0).save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(trained, shards_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    return export.export(trained, shards_folder, out, ExportSettings(calibrate=False)), out


@pytest.fixture(scope="module")
def weighed(trained, shards_folder, tmp_path_factory):
    """With a temperature, and with costs: to answer "left" wrongly costs much, a person costs 0.3."""
    folder = tmp_path_factory.mktemp("weighed")
    costs = "true,predicted,cost,ask a person\n*,*,1,0.3\nleft,*,50,\n"
    export.export(trained, shards_folder, folder, ExportSettings(costs=costs))
    return folder / "saved_model"


class Server:
    """Runs signatures as TensorFlow Serving does: a version 1 session that checks no shapes."""

    def __init__(self, folder):
        import tensorflow as tf

        self.session = tf.compat.v1.Session(graph=tf.Graph())
        loaded = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], str(folder))
        self.signatures = loaded.signature_def

    def __call__(self, signature, value):
        definition = self.signatures[signature]
        (given,) = definition.inputs.values()

        def output(name):
            return self.session.graph.get_tensor_by_name(name)._as_tf_output()

        self.session._extend_graph()
        names = list(definition.outputs)
        values = self.session._call_tf_sessionrun(
            None,
            {output(given.name): np.asarray(value)},
            [output(definition.outputs[name].name) for name in names],
            [],
            None,
        )
        return dict(zip(names, values, strict=True))


@pytest.fixture(scope="module")
def server(exported):
    return Server(exported[1] / "saved_model")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(7)
    return np.stack([labelled_image(label, rng) for label in (0, 1, 2, 0)])


def expected(images):
    import keras

    return keras.ops.softmax(network().predict_on_batch(images.astype(np.float32))).numpy()


def _maps_size():
    maps, _ = export._last_maps(fold_batch_norm(network()))
    return maps.shape[1:3]


def test_export_keeps_the_contract(server, exported):
    from tensorflow.core.framework import types_pb2 as types

    record, out = exported
    assert record == Export.load(out) and record.labels == LABELS
    assert record.sha256 == digest.of_folder(out / "saved_model")
    found = {
        name: (
            {key: (value.dtype, [d.size for d in value.tensor_shape.dim]) for key, value in s.inputs.items()},
            {
                key: (value.dtype, [d.size for d in value.tensor_shape.dim])
                for key, value in s.outputs.items()
            },
        )
        for name, s in server.signatures.items()
        if not name.startswith("__")
    }
    answer = {
        "probabilities": (types.DT_FLOAT, [-1, 3]),
        "label": (types.DT_STRING, [-1]),
        "probability": (types.DT_FLOAT, [-1]),
    }
    width = network().get_layer("logits").input.shape[-1]
    assert found == {
        contract.SERVING_DEFAULT: ({"image": (types.DT_STRING, [-1])}, answer),
        contract.TENSOR: ({"image": (types.DT_UINT8, [-1, -1, -1, 3])}, answer),
        contract.EMBEDDING: (
            {"image": (types.DT_STRING, [-1])},
            {"embedding": (types.DT_FLOAT, [-1, width])},
        ),
        contract.SALIENCY: (
            {"image": (types.DT_STRING, [-1])},
            {"saliency": (types.DT_FLOAT, [-1, *_maps_size()])},
        ),
        contract.LABELS: (
            {"index": (types.DT_INT64, [-1])},
            {"label": (types.DT_STRING, [-1]), "max_pixels": (types.DT_INT64, [-1])},
        ),
    }


def test_export_gives_the_outputs_of_the_network(server, images):
    answer = server(contract.SERVING_DEFAULT, [as_png(image) for image in images])
    wanted = expected(images)
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5)
    assert [label.decode() for label in answer["label"]] == [LABELS[k] for k in wanted.argmax(1)]
    np.testing.assert_allclose(answer["probability"], wanted.max(1), atol=1e-5)
    tensor = server(contract.TENSOR, images)
    np.testing.assert_allclose(tensor["probabilities"], answer["probabilities"], atol=1e-6)


def test_export_resizes_tensors_as_it_resizes_files(server):
    large = labelled_image(1, np.random.default_rng(0), side=30)
    by_file = server(contract.SERVING_DEFAULT, [as_png(large)])["probabilities"]
    by_tensor = server(contract.TENSOR, large[None])["probabilities"]
    np.testing.assert_allclose(by_file, by_tensor, atol=1e-6)
    small = decode.resize(large, 8, 8).numpy()
    np.testing.assert_allclose(by_file, expected(small[None]), atol=1e-5)


def test_export_applies_exif_orientation(server):
    image = Image.fromarray(labelled_image(0, np.random.default_rng(0), side=16))
    plain, turned = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    image.save(plain, "JPEG", quality=95, subsampling=0)
    image.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", quality=95, subsampling=0, exif=exif)
    answers = server(contract.SERVING_DEFAULT, [plain.getvalue(), turned.getvalue()])["probabilities"]
    np.testing.assert_allclose(answers[0], answers[1], atol=0.02)


@pytest.mark.parametrize(
    ("largest", "setting", "wanted"),
    [(64, 0, 1 << 24), (20_000_000, 0, 20_000_000), (1 << 28, 0, 1 << 27), (20_000_000, 900, 900)],
)
def test_export_chooses_the_limit_on_pixels_from_the_training_images(shards_folder, largest, setting, wanted):
    shards = dataclasses.replace(Shards.load(shards_folder), max_pixels=largest)
    assert ExportSettings(max_pixels=setting).limit(shards) == wanted


def test_export_takes_the_longest_side_of_older_shards(shards_folder):
    shards = dataclasses.replace(Shards.load(shards_folder), max_pixels=0, max_side=5000)
    assert ExportSettings().limit(shards) == 25_000_000


def test_export_refuses_larger_images_and_tells_its_limit(server, exported):
    import tensorflow as tf

    assert exported[0].max_pixels == 1 << 24
    assert list(server(contract.LABELS, np.array([1, 2]))["max_pixels"]) == [1 << 24] * 2
    header = bytearray(as_png(np.zeros((9, 9, 3), np.uint8)))
    header[16:24] = (4097).to_bytes(4, "big") * 2
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 16777216 pixels"):
        server(contract.SERVING_DEFAULT, [bytes(header)])


def test_export_names_and_embeds(server, images):
    assert list(server(contract.LABELS, np.array([2, 0]))["label"]) == [b"middle", b"bottom"]
    embedding = server(contract.EMBEDDING, [as_png(images[0])])["embedding"]
    assert embedding.shape[0] == 1 and np.isfinite(embedding).all() and np.ptp(embedding) > 0


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        (contract.SERVING_DEFAULT, [b"no image"]),
        (contract.SERVING_DEFAULT, [b""]),
        (contract.SERVING_DEFAULT, [b"\xff\xd8\xff\xe0"]),
        (contract.SERVING_DEFAULT, np.zeros((0,), object)),
        (contract.SERVING_DEFAULT, b"a scalar"),
        (contract.TENSOR, np.zeros((8, 8, 3), np.uint8)),
        (contract.TENSOR, np.zeros((8, 3), np.uint8)),
        (contract.TENSOR, np.zeros((1, 1, 8, 8, 3), np.uint8)),
        (contract.TENSOR, np.zeros((1, 8, 8, 4), np.uint8)),
        (contract.TENSOR, np.zeros((1, 0, 8, 3), np.uint8)),
        (contract.TENSOR, np.zeros((0, 8, 8, 3), np.uint8)),
        (contract.LABELS, np.array([3])),
        (contract.LABELS, np.array([-1])),
    ],
)
def test_export_rejects_bad_input_and_keeps_working(server, images, signature, value):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError):
        server(signature, value)
    assert server(contract.TENSOR, images)["probabilities"].shape == (4, 3)


def test_export_contains_warmup_requests_that_it_answers(server, exported, shards_folder):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    path = exported[1] / "saved_model" / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    requests = [log.predict_log.request for log in logs]
    assert [request.inputs["image"].tensor_shape.dim[0].size for request in requests] == list(warmup.BATCHES)
    for request in requests:
        assert request.model_spec.signature_name == contract.SERVING_DEFAULT
        batch = tf.make_ndarray(request.inputs["image"])
        assert server(contract.SERVING_DEFAULT, batch)["label"].shape == batch.shape


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_warmup_images_are_readable_by_the_graph_in_every_format_of_a_data_set(format, channels):
    shape = (20, 30, channels)
    image = warmup.synthetic_image(shape, format)
    assert image == warmup.synthetic_image(shape, format)
    assert decode.load_batch(np.array([image], object), *shape[:2], channels).shape == (1, *shape)


def test_warmup_requests_hold_no_image_of_the_data_set_and_are_like_it(exported, shards_folder):
    """A published version never changes: an image in it could never be removed from it."""
    data = (exported[1] / "saved_model" / "assets.extra" / warmup.FILE).read_bytes()
    shards = Shards.load(shards_folder)
    images = [one.image for split in SPLITS for one in shard_reader.read_images(shards_folder, split)]
    assert images and not any(image in data for image in images)
    assert warmup.file_formats(shards_folder, shards.splits["train"]) == ["PNG"]
    shape = (shards.median_height, shards.median_width, shards.channels)
    assert data.count(warmup.synthetic_image(shape, "PNG")) == sum(warmup.BATCHES)


@pytest.mark.slow
def test_export_divides_logits_by_the_temperature_of_the_validation_split(
    weighed, server, images, shards_folder
):
    validation = list(shard_reader.read_images(shards_folder, "validation"))
    plain = server(contract.SERVING_DEFAULT, [one.image for one in validation])["probabilities"]
    wanted = choose_temperature(plain, np.array([one.label for one in validation]))
    fitted = Temperature.load(weighed / "assets.extra")
    assert fitted.value == pytest.approx(wanted.value, rel=1e-3) and abs(fitted.value - 1) > 0.05
    assert fitted.num_images == len(validation)
    cool = Server(weighed)
    raw = server(contract.TENSOR, images)
    files = cool(contract.SERVING_DEFAULT, [as_png(image) for image in images])
    for answer in (files, cool(contract.TENSOR, images)):
        expected = apply_temperature(raw["probabilities"], fitted.value)
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
        assert list(answer["label"]) == list(raw["label"])  # the likeliest class stays


def test_export_returns_the_cheapest_decision(weighed, images):
    held = costs.Costs.load(weighed / "assets.extra")
    rng = np.random.default_rng(0)
    many = np.concatenate([images, rng.integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)])
    answer = Server(weighed)(contract.TENSOR, many)
    wanted = [held.actions[action] for action in costs.decide(answer["probabilities"], held)]
    assert [decision.decode() for decision in answer["decision"]] == wanted
    assert costs.ASK in wanted


def test_export_rejects_costs_for_other_classes(trained, shards_folder, tmp_path):
    wrong = ExportSettings(costs="true,predicted,cost\nbirch,*,1\n")
    with pytest.raises(InputError, match=r"export\.costs, line 2: 'birch' is not a class"):
        export.export(trained, shards_folder, tmp_path, wrong)
    assert not list(tmp_path.iterdir())


def test_export_saliency_is_grad_cam(server, images):
    """Grad-CAM by finite differences: what a small rise of each feature map does to the best logit."""
    import keras

    seen = server(contract.SALIENCY, [as_png(image) for image in images])["saliency"]
    folded = fold_batch_norm(network())
    maps, head = export._last_maps(folded)
    values = keras.Model(folded.input, maps)(images.astype(np.float32)).numpy()
    base = head(values).numpy()
    best, step = base.argmax(1), 1e-2
    slopes = np.empty((len(values), values.shape[-1]))
    for channel in range(values.shape[-1]):
        moved = values.copy()
        moved[..., channel] += step
        slopes[:, channel] = (head(moved).numpy() - base)[np.arange(len(base)), best] / step
    wanted = np.maximum((values * slopes[:, None, None]).sum(-1), 0)
    wanted /= np.maximum(wanted.max(axis=(1, 2), keepdims=True), 1e-9)
    np.testing.assert_allclose(seen, wanted, atol=0.02)
    assert seen.max() == pytest.approx(1)


def test_last_maps_skips_feature_maps_inside_a_branch():
    from keras import Model, layers

    given = layers.Input((8, 8, 3))
    whole = layers.Conv2D(4, 3, strides=2, padding="same")(given)  # all that follows comes from here
    branch = layers.Conv2D(4, 4)(layers.Conv2D(4, 3, padding="same")(whole))
    joined = layers.Add()([branch, layers.AveragePooling2D(4)(whole)])
    scores = layers.Dense(3)(layers.Flatten()(joined))
    maps, head = export._last_maps(Model(given, scores))
    assert maps is whole and head.output.shape == (None, 3)
    assert export._last_maps(Model(given, layers.Dense(3)(layers.Flatten()(given)))) is None


def test_fold_batch_norm_changes_no_output(images):
    plain = network(seed=3)
    folded = fold_batch_norm(plain)
    assert not [layer for layer in folded.layers if layer.__class__.__name__ == "BatchNormalization"]
    batch = images.astype(np.float32)
    np.testing.assert_allclose(folded.predict_on_batch(batch), plain.predict_on_batch(batch), atol=1e-4)


def test_fold_batch_norm_crosses_max_pooling_unless_a_gain_is_negative(images):
    batch = images.astype(np.float32)
    plain = network(seed=4)
    behind = next(layer for layer in plain.layers if layer.__class__.__name__ == "BatchNormalization")
    assert behind.input._keras_history.operation.__class__.__name__ == "MaxPooling2D"
    rng = np.random.default_rng(0)
    gain, shift, mean, variance = (rng.uniform(0.5, 2.0, behind.gamma.shape) for _ in range(4))
    for sign, left in ((1.0, 0), (-1.0, 1)):
        behind.set_weights([sign * gain, shift, mean, variance])
        folded = fold_batch_norm(plain)
        kinds = [layer.__class__.__name__ for layer in folded.layers]
        assert kinds.count("BatchNormalization") == left
        np.testing.assert_allclose(
            folded.predict_on_batch(batch), plain.predict_on_batch(batch), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_fused_layer_has_the_outputs_and_gradients_of_a_plain_one(training):
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    values = tf.constant(rng.normal(size=(2, 3, 3, 5)), tf.float32)
    weights = rng.uniform(0.5, 2.0, (4, 5)).astype(np.float32)  # scale, offset, mean, variance

    def outputs_and_gradient(fused):
        layer = layers.batch_norm(fused)
        layer.build(values.shape)
        layer.set_weights(weights)
        layer.trainable = False
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = layer(values, training=training)
            total = tf.reduce_sum(outputs**3)
        return outputs, tape.gradient(total, values)

    assert keras.backend.backend() == "tensorflow"
    for fused, plain in zip(outputs_and_gradient(True), outputs_and_gradient(False), strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-5)


def test_fused_layers_have_the_weights_and_outputs_of_plain_ones(images):
    fused, plain = network(fused=True, seed=3), network(seed=3)
    assert [w.shape for w in fused.weights] == [w.shape for w in plain.weights]
    batch = images.astype(np.float32)
    np.testing.assert_allclose(fused.predict_on_batch(batch), plain.predict_on_batch(batch), atol=1e-4)
    np.testing.assert_allclose(fused(batch, training=True), plain(batch, training=True), atol=1e-3)
    for mine, keras_own in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=0.02)  # variance over N - 1 against over N


def test_measure_gives_mean_and_deviation_of_each_channel():
    shape = ImageShape(4, 4, 2, "stretch")
    values = np.zeros((3, shape.height, shape.width, 2), np.uint8)
    values[0, ..., 0] = 30
    statistics = measure(values)
    assert statistics.mean == (10.0, 0.0)
    assert statistics.deviation == (pytest.approx(14.142, abs=1e-3), 1.0)
