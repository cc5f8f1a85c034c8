"""Checkpoints of a training, written atomically: after a kill at any moment little work is lost.

state.npz          variables of the network, the optimiser and the metrics, and the state as JSON
best-00007.npz     weights of the best epoch so far
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pergola.components import records

_STATE = "state.npz"


@dataclass(frozen=True)
class State:
    """The progress of a training, without the variables."""

    fingerprint: str  # of data and settings: a checkpoint of another run is not used
    step: int = 0  # completed, over all epochs
    accumulate: int = 1  # gradient accumulation steps per batch, because a whole one did not fit into memory
    history: tuple[Mapping[str, float], ...] = ()
    best_epoch: int = 0  # 1-based; 0: none yet
    seconds: float = field(default=0.0)  # of training, in all attempts

    def with_epoch(self, metrics: Mapping[str, float], *, is_best: bool) -> State:
        """This state after one more epoch."""
        best = len(self.history) + 1 if is_best else self.best_epoch
        return replace(self, history=(*self.history, metrics), best_epoch=best)


class Checkpoint:
    """A folder with the last state and the best weights. Only one of several workers writes."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self._folder, self._writes = folder, writes

    def load(self, fingerprint: str) -> tuple[State, list[NDArray[Any]]] | None:
        """The last state and its variables; None without a readable checkpoint of this run."""
        try:
            with open(self._folder / _STATE, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                data = json.loads(str(file["state"]))
                if data.get("fingerprint") != fingerprint:
                    return None
                variables = [file[f"v{k}"] for k in range(len(file.files) - 1)]
        except (FileNotFoundError, ValueError, KeyError, OSError, zipfile.BadZipFile):
            return None
        state = records.from_dict(State, data, str(self._folder / _STATE))
        return (
            (state, variables) if self._best_path(state.best_epoch).exists() or not state.best_epoch else None
        )

    def save(self, state: State, variables: Sequence[Any]) -> None:
        """Replace the last state, then delete weights that are no longer the best."""
        if not self._writes:
            return
        text = json.dumps(records.to_dict(state))
        arrays = {f"v{k}": np.asarray(value) for k, value in enumerate(variables)}
        _write(self._folder / _STATE, {"state": np.array(text), **arrays})
        for path in self._folder.glob("best-*.npz"):
            if path != self._best_path(state.best_epoch):
                path.unlink(missing_ok=True)

    def save_best(self, epoch: int, weights: Sequence[NDArray[Any]]) -> None:
        """Save the weights of an epoch. The state that refers to it must be saved next."""
        if self._writes:
            _write(self._best_path(epoch), {f"v{k}": value for k, value in enumerate(weights)})

    def load_best(self, epoch: int) -> list[NDArray[Any]]:
        """The weights that `save_best` saved."""
        with np.load(self._best_path(epoch), allow_pickle=False) as file:
            return [file[f"v{k}"] for k in range(len(file.files))]

    def remove(self) -> None:
        """Delete the checkpoint after training."""
        if not self._writes:
            return
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)
        if self._folder.exists():
            os.rmdir(self._folder)

    def _best_path(self, epoch: int) -> Path:
        return self._folder / f"best-{epoch:05d}.npz"


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)
    records.write_atomic(path, content.getvalue())
