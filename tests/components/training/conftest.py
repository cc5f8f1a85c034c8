"""Small real shards: 8-pixel images of three classes that a tiny network can classify."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pergola.components.artifacts.data import SPLITS, Shards, SplitShards
from pergola.components.data import tfrecord
from pergola.components.training.fit import TrainSettings
from pergola.components.training.models.architectures import ModelSettings

# Keras 3.15 converts its variables in a way that NumPy 2.4 deprecates.
KERAS_OWN = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"

LABELS = ("bottom", "left", "middle")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(KERAS_OWN))


def labelled_image(label: int, rng: np.random.Generator, side: int = 8, channels: int = 3) -> np.ndarray:
    """A bright bar at the bottom, at the left, or across the middle, on noise."""
    image = rng.integers(0, 80, (side, side, channels))
    half = side // 2
    where = [np.s_[half + 1 :, :], np.s_[:, : half - 1], np.s_[half - 1 : half + 1, 1:-1]][label]
    image[where] = rng.integers(170, 255, image[where].shape)
    return image.astype(np.uint8)


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def write_shards(
    folder: Path,
    *,
    counts: dict[str, tuple[int, ...]] | None = None,
    side: int = 8,
    channels: int = 3,
    seed: int = 0,
) -> Shards:
    """Write shards with `counts` images in each split and class."""
    counts = counts or {"train": (16, 16, 16), "validation": (6, 6, 6), "test": (6, 6, 6)}
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part in SPLITS:
        labels = rng.permutation([k for k, count in enumerate(counts[part]) for _ in range(count)])
        name = f"{part}-00000-of-00001.tfrecord"
        with open(folder / name, "wb") as file:
            for number, label in enumerate(labels):
                features = {
                    "image": as_png(labelled_image(label, rng, side, channels)),
                    "label": int(label),
                    "id": f"{number:064x}".encode(),
                }
                file.write(tfrecord.record(tfrecord.example(features)))
        parts[part] = SplitShards((name,), len(labels), dict(zip(LABELS, counts[part], strict=True)))
    shards = Shards(LABELS, parts, channels, side, side, side, side, f"{counts}{side}{channels}{seed}")
    shards.save(folder)
    return shards


@pytest.fixture(scope="session")
def shards_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder)
    return folder


@pytest.fixture
def tiny() -> ModelSettings:
    return ModelSettings(architecture="resnet_fast", width=8)


@pytest.fixture
def short() -> TrainSettings:
    return TrainSettings(epochs=8, batch_size=16, precision="float32", learning_rate=0.01)
