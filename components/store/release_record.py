"""Which published version is stable, which is canary, and its share: one small record a model.

Every change is a pure function from a `Release` to the next. Where it lies and how two writers are
kept apart is the business of components/store/model_store.py.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from pergola.components import records
from pergola.components.errors import InputError

STABLE, CANARY = LABELS = ("stable", "canary")


class Unreadable(InputError):
    """A release record that is no JSON: half of it was lost, or a person wrote it."""


@dataclass(frozen=True)
class Release:
    """What the servers of one model serve, as `<store>/<model>/release.json`."""

    stable: int | None = None  # the version that requests get; None serves nothing
    canary: int | None = None  # the version on trial
    share: float = 0.0  # of the requests that go to the canary, 0 to 1
    previous: int | None = None  # stable before this one: where a rollback goes
    generation: int = 0  # grows by one with each change


def to_json(release: Release) -> bytes:
    """The bytes of release.json."""
    return (json.dumps({"schema": "Release/1", **records.to_dict(release)}, indent=1) + "\n").encode()


def from_json(raw: bytes, where: str) -> Release:
    """What `to_json` wrote.  where: its address, for the error."""
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise Unreadable(
            f"{where} is not readable as JSON ({error}). Write it anew: pergola release stable N."
        ) from None
    if not isinstance(data, dict) or data.pop("schema", None) != "Release/1":
        raise InputError(f"{where} is no release record of this version of pergola (schema 'Release/1').")
    return records.from_dict(Release, data, where)


def make_stable(release: Release, version: int) -> Release:
    """`version` gets all requests; the stable one before it is remembered for a rollback."""
    if release.stable == version and release.canary is None:
        return release
    previous = release.previous if release.stable == version else release.stable
    canary = None if release.canary == version else release.canary
    return _next(
        release, stable=version, previous=previous, canary=canary, share=release.share if canary else 0.0
    )


def make_canary(release: Release, version: int, share: float) -> Release:
    """`version` gets `share` of the requests, 0 < share < 1, the stable one the rest."""
    if release.stable is None:
        raise InputError(
            "There is no stable version beside which a canary could run: pergola release stable N."
        )
    if release.stable == version:
        raise InputError(f"Version {version} is stable already. Name another version as canary.")
    if not 0 < share < 1:
        raise InputError(f"A canary's share lies between 0% and 100%, got {share:.0%}. 10% is a good start.")
    if (release.canary, release.share) == (version, share):
        return release
    return _next(release, canary=version, share=share)


def promote(release: Release) -> Release:
    """The canary becomes stable."""
    if release.canary is None:
        raise InputError("There is no canary to promote: pergola release canary N --share 10%.")
    return make_stable(release, release.canary)


def withdraw(release: Release, version: int | None = None) -> Release:
    """`version` (the canary unless named) gets no requests any more.

    A stable version gives way to the one before it, or to nothing when there is none.
    """
    target = release.canary if version is None else version
    if target is None:
        raise InputError("There is no canary to withdraw. Name the version: pergola release withdraw N.")
    if target == release.canary:
        return _next(release, canary=None, share=0.0)
    if target == release.stable:
        return _next(release, stable=release.previous, previous=None, canary=None, share=0.0)
    if target == release.previous:
        return _next(release, previous=None)
    raise InputError(f"Version {target} is neither stable ({release.stable}) nor canary ({release.canary}).")


def rollback(release: Release) -> Release:
    """The version before the stable one is stable again; a canary is withdrawn as well."""
    if release.previous is None:
        why = f"No version before {release.stable} is known."
        if release.stable is None:
            why = "Nothing is stable, so no version is before it."
        raise InputError(f"{why} Name one: pergola release stable N.")
    return _next(release, stable=release.previous, previous=None, canary=None, share=0.0)


def _next(release: Release, **changes: int | float | None) -> Release:
    return dataclasses.replace(release, generation=release.generation + 1, **changes)  # type: ignore[arg-type]
