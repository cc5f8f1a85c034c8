"""What a release leaves: registration, publication, confirmation."""

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
class Confirmation(Record):
    """A published version is served, gives the golden answers, and is the champion now."""

    FILE: ClassVar[str] = "confirmation.json"

    model: str
    version: int
    previous: int | None  # the champion before
    max_difference: float
