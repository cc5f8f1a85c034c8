"""`pergola run --reproduce N`: repeat the run of a version and check that it reaches the same decision.

Settings, split and the champion to compare with are those of the version. Nothing is released.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from pergola.components import code
from pergola.components import settings as config
from pergola.components.artifacts.data import Manifest
from pergola.components.artifacts.decision import HELD_BY_REQUEST, Decision
from pergola.components.artifacts.training import Export
from pergola.components.errors import InputError
from pergola.components.release import provenance
from pergola.components.release.provenance import Provenance
from pergola.components.settings import Settings

log = logging.getLogger(__name__)

_WEIGHTS = {
    True: "the weights are identical",
    False: "the weights differ",
    None: "its weights were not recorded",
}


@dataclass(frozen=True)
class Reproduction:
    """How a run compares with the run of the version that it reproduces."""

    version: int
    decision: str  # outcome of the version: "accepted", "held" or "rejected"
    same_decision: bool
    same_weights: bool | None  # byte by byte; None if those of the version were not recorded
    trained: bool  # False: the training of an earlier run was reused

    def summary(self) -> str:
        """One or two sentences."""
        model = _WEIGHTS[self.same_weights]
        if not self.trained:
            model += ". The model was not trained again, since nothing changed; --force scan redoes all steps"
        if self.same_decision:
            return f"REPRODUCED version {self.version}: {self.decision} again; {model}."
        return f"NOT REPRODUCED: version {self.version} was {self.decision}, this model was not; {model}."


@dataclass(frozen=True)
class OriginalVersion:
    """The version that a run reproduces, from its provenance."""

    place: Path
    origin: Provenance

    @classmethod
    def of(cls, place: Path) -> OriginalVersion:
        """From the folder with its provenance."""
        return cls(place, Provenance.load(place))

    def __str__(self) -> str:
        return f"{self.origin.model}/{self.origin.version}"

    @property
    def champion(self) -> int | None:
        """The version that this one was compared with."""
        return Decision.load(self.place).champion

    @property
    def was_held_by_request(self) -> bool:
        """Whether it was held although all rules of the gate passed."""
        return Decision.load(self.place).reasons == (HELD_BY_REQUEST,)

    def settings(self) -> Settings:
        """The settings of the version, with the name of its model."""
        found = config.load(self.place / provenance.SETTINGS)
        return dataclasses.replace(found, release=dataclasses.replace(found.release, name=self.origin.model))

    def check(self, manifest: Path) -> None:
        """Raises InputError if the images differ from those of the version; warns if the code differs."""
        if code.version() != self.origin.code:
            log.warning(
                "version %d was made with code %s, this is %s: the model may differ",
                self.origin.version, self.origin.code, code.version(),
            )  # fmt: skip
        then, now = Manifest.load(self.place), Manifest.load(manifest)
        if then.fingerprint == now.fingerprint:
            return
        before = provenance.ids(self.place)
        after = set(Manifest.table(manifest, ["id"])["id"])
        came, went = len(after - before), len(before - after)
        what = (
            f"{came:,} were added and {went:,} removed" if came or went else "some were moved or relabelled"
        )
        raise InputError(
            f"The images are not those of version {self.origin.version} of '{self.origin.model}': {what} "
            f"since. Give a copy of the original images ({self.origin.source}), or run without --reproduce."
        )

    def compared(self, decision: Decision, export: Export, *, trained: bool) -> Reproduction:
        """Compare a run with the run of the version.

        Weights are compared and not exports, which differ even with the same weights: TensorFlow numbers the
        functions of a process.
        """
        then, before = Decision.load(self.place), Export.load(self.place)
        recorded = before.weights_sha256
        return Reproduction(
            version=self.origin.version,
            decision=then.outcome,
            same_decision=then.outcome == decision.outcome,
            same_weights=recorded == export.weights_sha256 if recorded else None,
            trained=trained,
        )
