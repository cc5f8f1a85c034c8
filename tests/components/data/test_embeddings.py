"""Vectors of images: known answers, bad answers of the network, real weights."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from pergola.components.errors import InputError, StepError
from pergola.components.imaging import embeddings
from tests.support import images

WEIGHTS = Path("../shared/data/weights")
NETWORKS = {
    "MobileNetV2": WEIGHTS / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    "MobileNet": WEIGHTS / "mobilenet_2_5_224_tf_no_top.h5",
}


def mean_colour(encoded: list[bytes]) -> np.ndarray:
    return np.array([[len(data), data[0]] for data in encoded], np.float32)


def test_embed_all_keeps_the_order_over_batches():
    found = embeddings.embed_all((bytes([i]) * (i + 1) for i in range(7)), mean_colour, batch_size=3)
    assert found.tolist() == [[i + 1, i] for i in range(7)]
    assert found.dtype == np.float32


def test_embed_all_refuses_wrong_shapes_nan_and_nothing():
    with pytest.raises(StepError, match=r"shape \(1, 2\) for 3 images"):
        embeddings.embed_all([b"a", b"b", b"c"], lambda batch: np.zeros((1, 2), np.float32))
    with pytest.raises(StepError, match="finite"):
        embeddings.embed_all([b"a"], lambda batch: np.full((1, 2), np.nan, np.float32))
    with pytest.raises(InputError, match="no images"):
        embeddings.embed_all([], mean_colour)


def test_plain_embed_knows_an_edge_by_its_angle():
    side = np.zeros((64, 64), np.uint8)
    side[:, 32:] = 255
    vectors = embeddings.plain_embed([images.png(side), images.png(side.T)])
    assert vectors.shape == (2, 1956)
    shapes = vectors[:, :1764].reshape(2, 7, 7, 4, 9).sum(axis=(1, 2, 3))
    assert np.argsort(shapes[0])[-2:].tolist() == [0, 8]  # a gradient across lies between the first and last
    assert shapes[1].argmax() == 4  # and one down in the middle


def test_plain_embed_holds_the_colours():
    red = np.zeros((10, 20, 3), np.uint8)
    red[..., 0] = 255
    vector = embeddings.plain_embed([images.png(red)])[0]
    assert np.abs(vector[:1764]).max() == 0
    assert vector[1764:].reshape(-1, 3).mean(axis=0).tolist() == [1, -1, -1]


def test_plain_embed_lays_alike_images_together():
    encoded = [images.png(images.pixels(label, i)) for label in range(3) for i in range(8)]
    vectors = embeddings.plain_embed(encoded)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2) + 1e9 * np.eye(24)
    assert np.mean(distances.argmin(axis=1) // 8 == np.arange(24) // 8) > 0.8


@pytest.mark.parametrize("shape", [(200, 10), (12, 40)])  # more images than dimensions, and fewer
def test_principal_gives_what_scikit_learn_gives(shape):
    rng = np.random.default_rng(0)
    data = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 5
    ours = embeddings.principal(data, 4)
    theirs = PCA(4).fit_transform(data)
    theirs /= np.sqrt((theirs**2).sum(axis=1).mean())
    assert np.allclose(np.abs(ours), np.abs(theirs), atol=1e-4)


def test_principal_of_fewer_directions_than_asked_for_has_zeros():
    assert embeddings.principal(np.ones((5, 3)), 2).tolist() == np.zeros((5, 2)).tolist()
    assert embeddings.principal(np.ones((3, 5)), 4).tolist() == np.zeros((3, 4)).tolist()
    points = np.outer([0, 1, 2], np.ones(8))  # on a line
    found = embeddings.principal(points, 4)
    assert found.shape == (3, 4) and np.allclose(found[:, 0] * [1, 0, 1], found[:, 0], atol=1e-6)
    assert np.abs(found[:, 0]).max() > 0.5 and np.abs(found[:, 1:]).max() < 1e-5


def test_principal_gives_each_direction_one_sign():
    """The largest number of a direction is positive, whatever the sign that a kernel of BLAS gives it."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 10)) @ rng.normal(size=(10, 10))
    directions, *_ = np.linalg.lstsq(data - data.mean(axis=0), embeddings.principal(data, 4), rcond=None)
    assert (directions.max(axis=0) > -directions.min(axis=0)).all()
    mirrored = embeddings.principal(-data, 4)  # the same directions, so all points lie on the other side
    assert np.allclose(mirrored, -embeddings.principal(data, 4), atol=1e-5)


def test_keras_embed_refuses_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="'ResNet9' is unknown"):
        embeddings.keras_embed(tmp_path / "w.h5", "ResNet9")
    with pytest.raises(InputError, match=r"w\.h5 are missing"):
        embeddings.keras_embed(tmp_path / "w.h5")


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs the weights in ../shared/data/weights")
@pytest.mark.parametrize(("network", "width"), [("MobileNetV2", 1280), ("MobileNet", 256)])
def test_keras_embed_reads_real_weights(network, width):
    embed = embeddings.keras_embed(NETWORKS[network], network)
    encoded = [images.jpeg(images.pixels(i % 3, i, size=64)) for i in range(4)]
    found = embed(encoded)
    assert found.shape == (4, width) and found.std() > 0.1
    other = next(path for name, path in NETWORKS.items() if name != network)
    with pytest.raises(InputError, match=f"not those of {network}"):
        embeddings.keras_embed(other, network)
