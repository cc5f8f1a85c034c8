"""Golden requests: test images with the answers that a server of the evaluated model has to give.

What is expected comes from the data and the settings as far as possible, not from the model: labels from the
shards, decisions from the costs. A model that names its classes wrongly does not confirm itself.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import TEST
from pergola.components.artifacts.evaluation import GoldenRequest, GoldenRequests, plain
from pergola.components.data.shard_reader import read_images
from pergola.components.errors import StepError
from pergola.components.evaluation.scoring import Scores
from pergola.components.stats.costs import Costs, expected_costs
from pergola.serving.wire import contract

Reply = Callable[[list[bytes]], Mapping[str, npt.NDArray[Any]]]

KNOWN = (contract.PROBABILITIES, contract.PROBABILITY, contract.LABEL, contract.DECISION)
# Relative change of a probability between two machines, such as one with a GPU and one without. Actions whose
# expected costs such changes can swap are equally good.
NOISE = 0.02


def golden_requests(
    test: Scores,
    labels: tuple[str, ...],
    shards_folder: Path,
    most: int,
    preferred_bytes: int,
    *,
    costs: Costs | None = None,
    reply: Reply | None = None,
) -> GoldenRequests:
    """At most `most` images with the model's answers: one per class in turn, the lowest ids first.

    reply: encoded images -> all outputs of the default signature; None: other outputs are not recorded.
    Raises StepError for an output that is not one finite value, or text, per image.
    """
    index = {id: i for i, id in enumerate(test.ids)}
    sizes = {p.id: len(p.image) for p in read_images(shards_folder, TEST)}
    chosen = _choose(test, sizes, most, preferred_bytes)
    images = {p.id: p.image for p in read_images(shards_folder, TEST, frozenset(chosen))}
    replies = [reply([images[id]]) if reply else {} for id in chosen]
    requests = tuple(
        GoldenRequest(
            image=base64.b64encode(images[id]).decode("ascii"),
            probabilities=tuple(float(p) for p in test.probabilities[index[id]]),
            label=labels[int(test.predicted[index[id]])],
            decisions=_decisions(test.probabilities[index[id]], costs) if costs else (),
            outputs={name: _value(name, array) for name, array in found.items() if name not in KNOWN},
        )
        for id, found in zip(chosen, replies, strict=True)
    )
    return GoldenRequests(labels=labels, requests=requests, outputs=tuple(sorted(replies[0])))


def _choose(test: Scores, sizes: dict[str, int], most: int, preferred_bytes: int) -> list[str]:
    """Ids, one per class in turn; within a class small images first, then by id."""
    queues: dict[int, list[str]] = {}
    for id, label in sorted(
        zip(test.ids, test.labels, strict=True),
        key=lambda row: (sizes[row[0]] > preferred_bytes, row[0]),
    ):
        queues.setdefault(int(label), []).append(id)
    longest = max(len(queue) for queue in queues.values())
    turns = [queues[label][turn : turn + 1] for turn in range(longest) for label in sorted(queues)]
    return [id for turn in turns for id in turn][:most]


def _decisions(probabilities: npt.NDArray[np.float32], costs: Costs) -> tuple[str, ...]:
    """The cheapest action for an image, and those that are as cheap within NOISE."""
    known = probabilities[: len(costs.labels)].astype(np.float64)
    expected = expected_costs(known[None], costs)[0]
    matrix = np.array(costs.matrix)
    swing = known @ np.abs(matrix - matrix[:, [expected.argmin()]])
    close = expected - expected.min() <= NOISE * swing
    return tuple(action for action, is_close in zip(costs.actions, close, strict=True) if is_close)


def _value(name: str, array: npt.NDArray[Any]) -> Any:
    """The output of one image as plain data."""
    found = np.asarray(array)
    if found.shape[:1] != (1,) or (found.dtype.kind == "f" and not np.isfinite(found).all()):
        raise StepError(
            f"The model's output '{name}' has shape {found.shape} for one image and the values "
            f"{str(found.ravel()[:3].tolist())[:100]}, expected one row of finite values. Remove it from the "
            "signature, or train again."
        )
    return plain(found.tolist())[0]
