"""Published versions that hold an image: those of 0.1.0 kept training images as warm-up requests."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pergola.components.evaluation.drift.redaction import count_records
from pergola.components.store.model_store import open_store
from pergola.components.training.warmup import EXTRA, FILE
from pergola.components.workspace import Workspace

_WARMUP = f"{EXTRA}/{FILE}"


@dataclass(frozen=True)
class HoldingModel:
    """A model with an image in its warm-up requests. It cannot change, so a person has to delete it."""

    model: str
    version: int | None  # None for a copy among the registry's files
    place: str  # folder or address


def holding_models(workspace: Workspace, ids: Collection[str], store: str | None) -> list[HoldingModel]:
    """Every such model of the workspace, its registry and a model store. Raises StoreError."""
    found = []
    for path in sorted(workspace.models.glob(f"*/*/{_WARMUP}")):
        if count_records(path, ids):
            folder = path.parent.parent
            version = int(folder.name) if folder.name.isdecimal() else None
            found.append(HoldingModel(folder.parent.name, version, str(folder)))
    for path in sorted(workspace.root.glob(f"mlartifacts/*/artifacts/model-*/{_WARMUP}")):
        if count_records(path, ids):
            found.append(HoldingModel("", None, str(path.parent.parent)))
    return found + (list(_in_store(store, ids)) if store else [])


def _in_store(uri: str, ids: Collection[str]) -> Iterator[HoldingModel]:
    store = open_store(uri)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / FILE
        for model in store.models():
            for version in store.versions(model):
                if store.fetch_file(model, version, _WARMUP, path) and count_records(path, ids):
                    yield HoldingModel(model, version, f"{store.uri}/{model}/{version}")
