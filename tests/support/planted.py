"""Faults planted on purpose, models with known true probabilities, and embeddings of the real leaves."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

LEAVES = Path("../shared/data/leaves")


@dataclass(frozen=True)
class Images:
    """Images with their metadata; row i of each field is image i."""

    embeddings: np.ndarray  # float32 (N, D)
    ids: list[str]
    paths: list[str]
    labels: list[str]


def flipped(labels: list[str], share: float, *, seed: int) -> tuple[list[str], list[int]]:
    """Labels with a share of them changed to another class, and the indices of those."""
    rng = np.random.default_rng(seed)
    classes = sorted(set(labels))
    places = rng.choice(len(labels), round(share * len(labels)), replace=False)
    given = list(labels)
    for place in places:
        given[place] = str(rng.choice([name for name in classes if name != labels[place]]))
    return given, [int(place) for place in places]


def model(temperature: float, *, count: int = 4000, classes: int = 5, seed: int = 0):
    """Probabilities of a model that is overconfident by `temperature`, and labels from the true ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    truth = softmax(logits, axis=1)
    labels = (rng.random((count, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    return softmax(logits * temperature, axis=1), labels.clip(0, classes - 1)


@functools.cache
def leaves(weights: Path) -> Images:
    """The real leaves with MobileNetV2 vectors. Takes a minute."""
    from pergola.components.imaging.embeddings import embed_all, keras_embed

    files = sorted(LEAVES.rglob("*.jpg"))
    return Images(
        embeddings=embed_all((file.read_bytes() for file in files), keras_embed(weights)),
        ids=[hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
        paths=[file.relative_to(LEAVES).as_posix() for file in files],
        labels=[file.parent.name for file in files],
    )
