"""`pergola run --like N`: the run of a version once more, to see that it comes to the same decision.

Settings and split are those of the version, its rival is that of the time, and nothing is released.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from pergola.components import code
from pergola.components import settings as config
from pergola.components.artifacts.data import Manifest
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.training import Export
from pergola.components.errors import InputError
from pergola.components.release import provenance
from pergola.components.release.provenance import Provenance
from pergola.components.settings import Settings

log = logging.getLogger(__name__)

_WEIGHTS = {
    True: "the weights are the same, byte by byte",
    False: "the weights differ",
    None: "what its weights were is not known",
}


@dataclass(frozen=True)
class Again:
    """How a run compares with that of the version that it is like."""

    version: int
    decision: str  # of the version: "accepted" or "rejected"
    same_decision: bool
    same_weights: bool | None  # byte by byte; None where those of the version were not noted
    trained: bool  # in this run, and not taken from an earlier one

    def words(self) -> str:
        """One or two sentences."""
        model = _WEIGHTS[self.same_weights]
        if not self.trained:
            model += ". They were not trained again, since nothing changed: --force scan does all anew"
        if self.same_decision:
            return f"REPRODUCED version {self.version}: {self.decision} as then; {model}."
        return f"NOT REPRODUCED: version {self.version} was {self.decision}, this one is not; {model}."


@dataclass(frozen=True)
class Like:
    """A version to be made again, by its dossier."""

    place: Path
    origin: Provenance

    @classmethod
    def of(cls, place: Path) -> Like:
        """From the folder of a dossier."""
        return cls(place, Provenance.load(place))

    def __str__(self) -> str:
        return f"{self.origin.model}/{self.origin.version}"

    @property
    def champion(self) -> int | None:
        """The version that this one was compared with."""
        return Decision.load(self.place).champion

    def settings(self) -> Settings:
        """Those of the version, under its model's name."""
        found = config.load(self.place / provenance.SETTINGS)
        return dataclasses.replace(found, release=dataclasses.replace(found.release, name=self.origin.model))

    def check(self, manifest: Path) -> None:
        """Raises InputError when the images are not those of the version; warns when the code is not."""
        if code.version() != self.origin.code:
            log.warning(
                "version %d was made by the code %s, this is %s: the model may differ",
                self.origin.version, self.origin.code, code.version(),
            )  # fmt: skip
        then, now = Manifest.load(self.place), Manifest.load(manifest)
        if then.fingerprint == now.fingerprint:
            return
        before = provenance.ids(self.place)
        after = set(Manifest.table(manifest, ["id"])["id"])
        came, went = len(after - before), len(before - after)
        what = f"{came:,} came and {went:,} went" if came or went else "some were moved or labelled anew"
        raise InputError(
            f"The images are not those of version {self.origin.version} of '{self.origin.model}': {what} "
            f"since. Name a copy of what they were ({self.origin.source}), or run without --like."
        )

    def compared(self, decision: Decision, export: Export, *, trained: bool) -> Again:
        """How a run came out beside the version's.

        Two exports of the same weights differ in their bytes: TensorFlow numbers the functions of a process.
        """
        then, before = Decision.load(self.place), Export.load(self.place)
        noted = before.weights_sha256
        return Again(
            version=self.origin.version,
            decision="accepted" if then.accepted else "rejected",
            same_decision=then.accepted == decision.accepted,
            same_weights=noted == export.weights_sha256 if noted else None,
            trained=trained,
        )
