"""Artifacts of a release: registration, publication, final test, confirmation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class Registration(Record):
    """A model version in the registry. Its number is *the one number* everywhere."""

    FILE: ClassVar[str] = "registration.json"

    model: str
    version: int
    mlflow_run: str
    sha256: str  # of the SavedModel


@dataclass(frozen=True)
class Publication(Record):
    """A version in the folder that servers watch: <base>/<model>/<version>/."""

    FILE: ClassVar[str] = "publication.json"

    model: str
    version: int
    sha256: str


@dataclass(frozen=True)
class FinalTest(Record):
    """Whether a server gave the golden answers with a published version."""

    FILE: ClassVar[str] = "final_test.json"

    model: str
    version: int
    problem: str = ""  # why not; empty: it did
    max_difference: float = 0.0  # of a probability from the golden one, if it answered


@dataclass(frozen=True)
class Confirmation(Record):
    """A published version that a server confirmed and that is now the champion."""

    FILE: ClassVar[str] = "confirmation.json"

    model: str
    version: int
    previous: int | None  # the previous champion
    max_difference: float
    signed: bool = False  # whether it has a signature; False in records of a pergola before 0.2


@dataclass(frozen=True)
class Champion(Record):
    """The version that a candidate has to beat. ANSWERS beside it are those of the anchor, where known."""

    FILE: ClassVar[str] = "champion.json"
    ANSWERS: ClassVar[str] = "anchor.parquet"  # id str, predicted str: what the anchor called each image

    version: int | None  # None: there is none to compare with
    sha256: str = ""  # of its SavedModel, as registered
    anchor: int | None = None  # an earlier version that the candidate must not lose to either; None: none


@dataclass(frozen=True)
class Delivery(Record):
    """What became of a confirmed version, in one sentence."""

    FILE: ClassVar[str] = "delivery.json"

    message: str
