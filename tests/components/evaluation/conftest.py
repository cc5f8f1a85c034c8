"""Small real shards, without TensorFlow: grey PNGs whose brightness gives the class away."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pergola.components.artifacts.data import Manifest, Shards, Split, SplitShards
from pergola.components.data.tfrecord import example, record

LABELS = ("dark", "grey", "light")
LEVELS = (40, 120, 210)


@dataclass(frozen=True)
class Walk:
    """Folders as the steps before evaluate leave them."""

    shards: Path
    split: Path
    manifest: Path | None = None


def tfrecord(records: list[bytes]) -> bytes:
    return b"".join(record(data) for data in records)


def png(level: int, rng: np.random.Generator) -> bytes:
    pixels = np.clip(rng.normal(level, 12, (8, 8)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_walk(folder: Path, counts: dict[str, int]) -> Walk:
    """Shards and split of `counts[part]` images a class."""
    rng = np.random.default_rng(0)
    rows, parts = [], {}
    shards, split = folder / "shards", folder / "split"
    shards.mkdir(parents=True)
    for part, count in counts.items():
        found = [(png(LEVELS[label], rng), label) for _ in range(count) for label in range(3)]
        records = []
        for number, (image, label) in enumerate(found):
            id = hashlib.sha256(image).hexdigest()
            rows.append((id, f"{LABELS[label]}/{part}-{number}.png", LABELS[label], part, id))
            records.append(example({"image": image, "label": label, "id": id.encode()}))
        names = tuple(f"{part}-0000{i}-of-00002.tfrecord" for i in range(2))
        for i, name in enumerate(names):
            (shards / name).write_bytes(tfrecord(records[i::2]))
        parts[part] = SplitShards(names, len(found), dict.fromkeys(LABELS, count))
    Shards(LABELS, parts, 1, 8, 8, 8, 8, "0" * 64).save(shards)
    split.mkdir()
    pd.DataFrame(rows, columns=["id", "path", "label", "split", "group"]).to_parquet(split / "split.parquet")
    Split({part: 3 * n for part, n in counts.items()}, {}, "0" * 64).save(split)
    return Walk(shards, split, make_manifest(folder / "manifest", rows))


def make_manifest(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    """What the scan knows of the images; every other one is from camera "a"."""
    folder.mkdir()
    table = pd.DataFrame([row[:3] for row in rows], columns=["id", "path", "label"])
    looks = {"width": 8, "height": 8, "format": "PNG"}
    level = table["label"].map(dict(zip(LABELS, LEVELS, strict=True))).astype(float)
    camera = ["a" if place % 2 else "b" for place in range(len(rows))]
    table = table.assign(**looks, brightness=level, **{"list.camera": camera})
    table.to_parquet(folder / "manifest.parquet")
    Manifest("folder", len(rows), 0, LABELS, "0" * 64).save(folder)
    return folder


def saliency(images: list[bytes]) -> np.ndarray:
    """A model's heat maps: always the upper left corner."""
    maps = np.zeros((len(images), 2, 2), np.float32)
    maps[:, 0, 0] = 1
    return maps


def by_brightness(levels: tuple[int, ...] = LEVELS):
    """A model: the nearer the mean to a class's level, the likelier the class."""

    def predict(images: list[bytes]) -> np.ndarray:
        means = np.array([np.asarray(Image.open(io.BytesIO(image))).mean() for image in images])
        logits = -np.abs(means[:, None] - np.array(levels)[None, :]) / 20
        scores = np.exp(logits)
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)

    return predict


@pytest.fixture(scope="session")
def walk(tmp_path_factory) -> Walk:
    return make_walk(tmp_path_factory.mktemp("walk"), {"train": 12, "validation": 2, "test": 10})
