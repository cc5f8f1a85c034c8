import pytest

from pergola.components.training.models import architectures
from pergola.components.training.models.architectures import ModelSettings, Plan
from pergola.components.training.models.baselines import BASELINES
from pergola.components.training.models.catalogue import COUNTS, NAMES, Counts, catalogue, own_input
from pergola.components.training.models.flops import PER_WEIGHT, flops
from pergola.components.training.models.statistics import Statistics


def count(name: str) -> Counts:
    """Build the network with random weights and count: seconds for the pretrained families."""
    import keras

    height, width, channels = own_input(name)
    plan = Plan(name, "asked for", height, width, channels, 10, 64)
    nothing = Statistics((0.0,) * channels, (1.0,) * channels)
    network = architectures.build(plan, ModelSettings(architecture=name), nothing, fused=False)
    last = network.layers[-1]
    num_features, units = last.kernel.shape
    counted = Counts(
        network.count_params() - last.count_params(),
        flops(network) - PER_WEIGHT * num_features * units,
        num_features,
    )
    keras.utils.clear_session()
    return counted


def test_catalogue_counts_match_hand_calculation():
    (mlp, pool, mobile) = catalogue(("mlp", "cnn_pool", "mobilenet_025"))
    assert (mlp.height, mlp.width, mlp.channels) == (32, 32, 3) and mlp.num_parameters == 312_860
    assert mlp.flops == 2 * (3072 * 100 + 100 * 50 + 50 * 10)
    convolutions = 32 * 32 * (3 * 3 * 3 * 32) + 16 * 16 * (3 * 3 * 32 * 64)
    assert pool.flops == 2 * (convolutions + 8 * 8 * 64 * 100 + 100 * 50 + 50 * 10)
    assert mobile.height == 224 and mobile.takes_weights
    assert mobile.flops == pytest.approx(2 * 41e6, rel=0.02)  # Howard et al., 2017: 41 million mult-adds


def test_catalogue_has_every_architecture_at_the_input_size_of_its_source():
    assert set(BASELINES) < set(NAMES) and "auto" not in NAMES
    assert own_input("fashion_cnn") == (28, 28, 1) and own_input("xception") == (299, 299, 3)


SMALL = ("resnet_fast", "cnn_batchnorm", "fashion_cnn", "mobilenet_025")


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_catalogue_has_the_figures_of_the_built_network(name):
    assert count(name) == COUNTS[name]


def test_catalogue_counts_the_one_unit_of_conv_for_two_classes():
    (two,), (three,) = (catalogue(("conv",), num_classes=number) for number in (2, 3))
    assert three.num_parameters - two.num_parameters == 2 * 129


def test_flops_of_separable_convolutions_are_those_of_their_two_parts():
    import keras

    network = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.SeparableConv2D(6, 3, padding="same")])
    assert flops(network) == 2 * 8 * 8 * (3 * 3 * 4 + 4 * 6)
