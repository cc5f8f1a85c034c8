import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pergola.components.artifacts.data import Shards, SplitShards
from pergola.components.errors import InputError
from pergola.components.imaging import pretrained
from pergola.components.training import keras_file, precision
from pergola.components.training.models.architectures import ModelSettings, Plan, build, choose, is_depthwise
from pergola.components.training.models.baselines import BASELINES
from pergola.components.training.models.catalogue import own_input
from pergola.components.training.models.statistics import Statistics, measure
from tests.components.training.conftest import LABELS


def shards(height=32, width=32, channels=3, num_train=1000, num_labels=10):
    labels = LABELS if num_labels == 3 else tuple(f"label {k}" for k in range(num_labels))
    parts = {part: SplitShards((), num_train, {}) for part in ("train", "validation", "test")}
    return Shards(labels, parts, channels, height, width, 1, max(height, width), "f")


def network(name, side, channels, classes=10, settings=None, fused=False):
    settings = settings or ModelSettings(architecture=name)
    plan = Plan(name, "a test", side, side, channels, classes, 64)
    return build(plan, settings, Statistics((0.0,) * channels, (1.0,) * channels), fused=fused)


def kinds(model):
    return [layer.__class__.__name__ for layer in model.layers if layer.name not in ("image", "scale")]


@pytest.mark.parametrize(
    ("name", "side", "channels", "parameters"),
    [
        ("mlp", 32, 3, 312_860),
        ("cnn1", 32, 3, 3_283_356),
        ("cnn2", 32, 3, 6_578_652),
        ("cnn_pool", 32, 3, 434_652),
        ("cnn_dropout", 32, 3, 434_652),
        ("cnn_batchnorm", 32, 3, 435_036),
        ("dense", 28, 1, 286_210),
        ("fashion_cnn", 28, 1, 1_413_834),
        ("minimal_cnn", 28, 1, 34_826),
        ("dropout_cnn", 28, 1, 34_826),
        ("batchnorm_cnn", 64, 3, 230_186),
    ],
)
def test_baselines_have_the_parameters_of_its_sources(name, side, channels, parameters):
    assert network(name, side, channels).count_params() == parameters


CONVOLVED, POOLED, HEAD = ["Conv2D"], ["Conv2D", "MaxPooling2D"], ["Flatten", "Dense", "Dense", "Dense"]
NORMALISED = ["Conv2D", "BatchNormalization"]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mlp", HEAD),
        ("cnn1", [*CONVOLVED, *HEAD]),
        ("cnn2", [*CONVOLVED * 2, *HEAD]),
        ("cnn_pool", [*POOLED * 2, *HEAD]),
        ("cnn_dropout", [*[*POOLED, "Dropout"] * 2, *HEAD]),
        ("cnn_batchnorm", [*[*NORMALISED, "MaxPooling2D", "Dropout"] * 2, *HEAD]),
        ("dense", ["Flatten", "Dense", "Dense"]),
        ("fashion_cnn", [*POOLED, *[*CONVOLVED, *POOLED] * 2, "Flatten", *["Dense", "Dropout"] * 2, "Dense"]),
        ("minimal_cnn", [*POOLED * 2, "Flatten", "Dense"]),
        ("dropout_cnn", [*POOLED * 2, "Flatten", "Dropout", "Dense"]),
        ("batchnorm_cnn", [*[*NORMALISED * 2, "MaxPooling2D"] * 2, "Flatten", "Dropout", "Dense"]),
    ],
)
def test_baselines_have_the_layers_of_its_sources_in_order(name, layers):
    assert kinds(network(name, *own_input(name)[1:])) == layers


@pytest.mark.parametrize(
    ("side", "channels", "filters", "parameters"),
    [
        (8, 1, [8, 128, 128], 160_298),
        (28, 1, [8, 64, 64, 256, 256, 256, 256], 1_968_170),
        (32, 3, [24, 64, 64, 256, 256, 256, 256], 1_977_642),
        (128, 3, [64, 64, 64, 256, 256, 256, 256], 2_005_450),
    ],
)
def test_resnet_fast_widens_as_the_image_gets_smaller(side, channels, filters, parameters):
    own = network("resnet_fast", side, channels)
    assert own.count_params() == parameters
    assert [layer.filters for layer in own.layers if layer.__class__.__name__ == "Conv2D"] == filters


def test_resnet_fast_has_its_layers_in_order():
    narrow = ["Conv2D", "MaxPooling2D", "BatchNormalization", "Activation"]
    stage = [*narrow, "Conv2D", "BatchNormalization", "Activation", "Add"]
    assert kinds(network("resnet_fast", 32, 3)) == [
        "Conv2D", "Activation", *stage * 3,
        "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Concatenate", "Dropout", "Dense",
    ]  # fmt: skip


@pytest.mark.parametrize(("channels", "scaling"), [(1, "zscore"), (3, "zscore"), (3, "unit")])
def test_resnet_fast_whitens_patches_of_the_training_images(channels, scaling):
    import keras

    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (64, 4, 4, channels)).repeat(3, axis=1).repeat(3, axis=2)
    images = np.clip(rough + rng.normal(0, 20, rough.shape), 0, 255).astype(np.uint8)
    model = ModelSettings(architecture="resnet_fast", scaling=scaling)
    plan = Plan("resnet_fast", "a test", 12, 12, channels, 10, 16)
    own = build(plan, model, measure(images), fused=True)
    layer = own.get_layer("whiten")
    assert not layer.trainable
    outputs = keras.Model(own.input, layer.output).predict_on_batch(images.astype(np.float32))
    outputs = outputs[:, :-1, :-1]  # the last row and column of a tiny image see padding
    half = outputs.reshape(-1, outputs.shape[-1])[:, : 4 * channels]
    np.testing.assert_allclose(outputs[..., 4 * channels :], -outputs[..., : 4 * channels], atol=1e-4)
    covariance = np.cov(half.T)
    np.testing.assert_allclose(covariance, np.eye(4 * channels), atol=0.12)


@pytest.mark.parametrize(
    ("shape", "every", "apart"),
    [((5, 9, 33, 3), 1, 1), ((3, 2, 2, 1), 1, 1), ((1500, 8, 8, 3), 2, 1), ((2, 70, 100, 3), 1, 2)],
)
def test_statistics_are_those_of_all_pixels_and_of_patches_from_all_over(shape, every, apart):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = measure(images)
    np.testing.assert_allclose(found.mean, images.mean((0, 1, 2)))
    np.testing.assert_allclose(found.deviation, images.std((0, 1, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(images[::every], (2, 2), (1, 2))
    patches = np.moveaxis(windows[:, ::apart, ::apart], 3, -1).reshape(-1, 4 * shape[-1])
    np.testing.assert_allclose(found.patches, np.cov(patches.T, bias=True), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", [*BASELINES, "resnet_fast", "conv"])
@pytest.mark.parametrize("side", [4, pytest.param(9, marks=pytest.mark.slow)])
def test_networks_take_images_of_any_size_and_can_be_saved_and_loaded(name, side, tmp_path):
    import keras

    model = network(name, side, 1, classes=3)
    batch = np.random.default_rng(0).integers(0, 255, (2, side, side, 1)).astype(np.float32)
    logits = np.asarray(model(batch, training=False))
    assert logits.shape == (2, 3) and logits.dtype == np.float32
    keras_file.save(model, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(np.asarray(loaded(batch, training=False)), logits)


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_blocks": 2, "conv_pool": "average", "conv_dense": (32, 16)},
        {"conv_separable": True, "conv_pool": "global", "conv_activation": "silu"},
        {"conv_residual": True, "conv_attention": True, "conv_normalize": False, "conv_dense": ()},
        {"conv_blocks": 4, "conv_filters": 4, "conv_kernel": 5, "conv_dropout": 0.0},
    ],
)
def test_conv_is_built_from_its_settings(changes):
    settings = dataclasses.replace(ModelSettings(architecture="conv", conv_filters=8), **changes)
    model = network("conv", 16, 3, classes=3, settings=settings)
    found = kinds(model)
    convolution = "SeparableConv2D" if settings.conv_separable else "Conv2D"
    assert found.count(convolution) >= 2 * settings.conv_blocks
    assert ("BatchNormalization" in found) == settings.conv_normalize
    assert ("Multiply" in found) == settings.conv_attention and ("Add" in found) == settings.conv_residual
    assert found.count("Dense") == len(settings.conv_dense) + 1
    assert model(np.zeros((1, 16, 16, 3), np.float32), training=False).shape == (1, 3)


def test_conv_of_two_classes_ends_in_one_sigmoid_unit():
    model = network("conv", 8, 1, classes=2)
    assert model.get_layer("logits").units == 1
    logits = model.predict_on_batch(np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 1)).astype(np.float32))
    assert logits.shape == (3, 2) and (logits[:, 0] == 0).all() and (logits[:, 1] != 0).all()


def test_choose_gives_its_reason():
    plan = choose(ModelSettings(), shards(num_train=1234))
    assert plan.architecture == "resnet_fast" and "1234 images in 10 classes" in plan.why
    assert choose(ModelSettings(architecture="mlp"), shards()).why == "set by model.architecture"


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((8, 8), (8, 8)),
        ((28, 28), (28, 28)),
        ((224, 224), (128, 128)),
        ((300, 600), (88, 184)),
        ((3, 5), (4, 5)),
    ],
)
def test_choose_sets_the_input_size_from_the_images(size, wanted):
    plan = choose(ModelSettings(), shards(*size))
    assert (plan.height, plan.width) == wanted
    assert choose(ModelSettings(image_size=20), shards(*size)).height == 20


def without_top(name, side):
    import keras

    family = pretrained.FAMILIES[name]
    return getattr(keras.applications, family.constructor)(
        include_top=False, weights=None, input_shape=(side, side, 3), **family.options
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    source = without_top("mobilenet_025", 32)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    source.save_weights(path)
    return path, source


def test_pretrained_weights_are_loaded_from_a_file(weights):
    path, source = weights
    settings = ModelSettings(architecture="mobilenet_025", weights=str(path))
    model = network("mobilenet_025", 64, 1, settings=settings, fused=True)
    for layer in ("conv1", "conv_dw_1", "conv_pw_13", "conv_pw_13_bn"):
        mine, theirs = (net.get_layer(layer).get_weights() for net in (model, source))
        np.testing.assert_array_equal(mine[0], theirs[0])
    assert model.get_layer("scale").__class__.__name__ == "Rescaling"


def test_pretrained_weights_of_another_architecture_are_refused(weights):
    settings = ModelSettings(architecture="mobilenet_v2", weights=str(weights[0]))
    with pytest.raises(InputError, match=r"does not fit 'mobilenet_v2' without its top"):
        network("mobilenet_v2", 32, 3, settings=settings, fused=True)


REAL_WEIGHTS = Path(__file__).parents[4] / "shared" / "data" / "weights"


@pytest.mark.skipif(not REAL_WEIGHTS.is_dir(), reason="no ../shared/data/weights beside the repository")
def test_pretrained_weights_of_imagenet_are_recognised_and_used():
    path = next(REAL_WEIGHTS.glob("mobilenet_2_5*.h5"))
    settings = ModelSettings(weights=str(path))
    plan = choose(settings, shards(224, 300))
    assert plan.architecture == "mobilenet_025" and "weights of mobilenet_025" in plan.why
    assert (plan.height, plan.width) == (192, 256)
    wrong = ModelSettings(architecture="mobilenet_v2", weights=str(path))
    with pytest.raises(InputError, match=r"holds weights of 'mobilenet_025', wanted 'mobilenet_v2'"):
        network("mobilenet_v2", 32, 3, settings=wrong, fused=True)
    model = network("mobilenet_025", 32, 3, settings=settings, fused=True)
    deviations = [np.std(w) for w in model.get_layer("conv_pw_13").get_weights()]
    assert deviations[0] < 0.1


def test_pretrained_weights_that_are_missing_or_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="is no file"):
        choose(ModelSettings(weights=str(tmp_path / "none.h5")), shards())
    (tmp_path / "text.h5").write_text("not weights")
    with pytest.raises(InputError, match="is no HDF5 file"):
        choose(ModelSettings(weights=str(tmp_path / "text.h5")), shards())
    with pytest.raises(InputError, match="takes no pretrained weights"):
        choose(ModelSettings(architecture="mlp", weights="some.h5"), shards())
    with pytest.raises(InputError, match="at least 75"):
        choose(ModelSettings(architecture="inception_v3", image_size=32), shards())


def test_networks_to_train_have_fused_normalisation_and_the_same_weights(weights):
    settings = ModelSettings(architecture="mobilenet_025", weights=str(weights[0]))
    plain = network("mobilenet_025", 32, 3, settings=settings)
    fused = network("mobilenet_025", 32, 3, settings=settings, fused=True)
    assert "FusedBatchNormalization" in kinds(fused) and "BatchNormalization" not in kinds(fused)
    plain.set_weights(fused.get_weights())
    batch = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(
        fused.predict_on_batch(batch), plain.predict_on_batch(batch), rtol=1e-3, atol=1e-4
    )


def tensorflow_devices(kind):
    import tensorflow as tf

    return tf.config.list_physical_devices(kind)


def test_depthwise_networks_are_trained_in_float32_on_a_cpu():
    plan = choose(ModelSettings(architecture="mobilenet_v2"), shards())
    assert is_depthwise(plan)
    assert not is_depthwise(choose(ModelSettings(architecture="resnet50"), shards()))
    if not tensorflow_devices("GPU"):
        assert precision.choose("auto", depthwise=True)[0] == "float32"
    assert precision.choose("mixed_bfloat16", depthwise=True)[0] == "mixed_bfloat16"


def test_trainable_unfreezes_the_last_layers_and_never_normalisation(weights):
    model = network("mobilenet_025", 32, 3)
    assert pretrained.trainable(model, 0.0, "logits") == []
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"logits"}
    unfrozen = pretrained.trainable(model, 0.2, "logits")
    assert [layer.name for layer in unfrozen][-1] == "conv_pw_13" and 4 <= len(unfrozen) <= 7
    assert not [v for v in model.trainable_variables if "_bn" in v.path]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(pretrained.FAMILIES))
def test_every_pretrained_family_is_built_and_takes_its_own_weights(name, tmp_path):
    side = pretrained.FAMILIES[name].least_side
    source = without_top(name, side)
    names = {layer.name for layer in source.layers}
    assert [other for other, family in pretrained.FAMILIES.items() if family.mark in names] == [name]
    source.save_weights(tmp_path / "own.weights.h5")
    settings = ModelSettings(architecture=name, weights=str(tmp_path / "own.weights.h5"))
    model = network(name, side, 1, classes=3, settings=settings, fused=True)
    width = model.get_layer("logits").input.shape[-1]
    assert model.count_params() == source.count_params() + 3 * (width + 1)
    assert model.predict_on_batch(np.full((1, side, side, 1), 99, np.float32)).shape == (1, 3)
