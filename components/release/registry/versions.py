"""A model version in the registry, and the MLflow tags that describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CHAMPION = "champion"  # the alias

RUN_ID, FINGERPRINT = "pergola.run_id", "pergola.data_fingerprint"  # tags of a run
RUN_KEY = "pergola.run"
SHA256 = "pergola.sha256"
EXPORT_KEY = "pergola.export_key"
PREVIOUS = "pergola.previous_champion"
STATUS = "pergola.status"
DECISION = "pergola.decision"

REGISTERED, PUBLISHED, WITHDRAWN = "registered", "published", "withdrawn"


@dataclass(frozen=True)
class RegisteredVersion:
    """A model version in the registry."""

    model: str
    version: int
    run: str  # MLflow's run id
    sha256: str  # of the SavedModel
    export_key: str  # the pipeline's key of the export it came from; empty when unknown
    status: str  # "registered", "published", "withdrawn"
    previous: int | None  # the champion before this version was promoted
    champion: bool


def of_tags(
    model: str, version: int, run: str, tags: Mapping[str, str], *, champion: bool
) -> RegisteredVersion:
    """A version from its MLflow tags."""
    return RegisteredVersion(
        model=model,
        version=version,
        run=run,
        sha256=tags.get(SHA256, ""),
        export_key=tags.get(EXPORT_KEY, ""),
        status=tags.get(STATUS, ""),
        previous=previous_of(tags),
        champion=champion,
    )


def previous_of(tags: Mapping[str, str]) -> int | None:
    """The champion before this version, from its tags."""
    text = tags.get(PREVIOUS, "")
    return int(text) if text.isdecimal() else None
