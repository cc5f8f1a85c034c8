"""Whether a data set belongs to the model whose name it takes, judged by what is in it, not by its path."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pergola.components.artifacts.data import Manifest
from pergola.components.artifacts.training import Export
from pergola.components.errors import InputError
from pergola.components.formatting import count
from pergola.components.release import provenance
from pergola.components.workspace import Workspace

FEW_IMAGES = 0.01  # of the smaller data set: fewer shared images are chance, such as empty files
FEW_CLASSES = 0.5  # of the model's classes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What a data set has in common with the one that a version was trained on."""

    version: int
    images: int
    of_images: int  # of the smaller data set
    classes: int
    of_classes: int  # of the model

    @property
    def images_are_others(self) -> bool:
        """Whether next to no image is shared."""
        return self.images < FEW_IMAGES * self.of_images

    @property
    def is_another_data_set(self) -> bool:
        """Whether next to nothing is shared."""
        return self.images_are_others and self.classes < FEW_CLASSES * self.of_classes


def shared(workspace: Workspace, model: str, manifest: Path) -> Shared | None:
    """What these images share with the newest version of a model; None without one, or if all is the same."""
    numbers = (int(place.name) for place in (workspace.versions / model).glob("[0-9]*"))
    version = max(numbers, default=0)
    place = workspace.version(model, version)
    if not (place / provenance.IMAGES).is_file():
        return None
    now = Manifest.load(manifest)
    if Manifest.load(place).fingerprint == now.fingerprint:
        return None
    before, known = provenance.ids(place), Export.load(place).labels
    ids = set(Manifest.table(manifest, ["id"])["id"])
    common = len(ids & before)
    return Shared(version, common, min(len(ids), len(before)), len({*known} & {*now.labels}), len(known))


def check_belongs(workspace: Workspace, model: str, manifest: Path) -> None:
    """Raises InputError when the data set shares next to nothing with the model of this name."""
    found = shared(workspace, model, manifest)
    if found is None or not found.images_are_others:
        return
    if found.is_another_data_set:
        raise InputError(
            f"There is already a model '{model}', and this is another data set: it shares "
            f"{count(found.images, 'image')} and {found.classes} of {found.of_classes} classes with version "
            f"{found.version}. Give its model another name with --set release.name=NAME, or, if this "
            "model is meant to change so much, set release.allow_contract_changes=true."
        )
    log.warning(
        "next to no image of this data set (%d) is one that version %d of '%s' was trained on, but the "
        "classes are its own. If it is another data set, name its model: --set release.name=NAME",
        found.images, found.version, model,
    )  # fmt: skip
