"""The release record of a model: which version is stable, which is canary, with which share, and since when.

Every change is a pure function from one `Release` to the next. components/store/model_store.py stores it,
adds each change to its history, and handles concurrent writers.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import socket
import time
from dataclasses import dataclass

from pergola.components import records
from pergola.components.errors import InputError

STABLE, CANARY = LABELS = ("stable", "canary")
_STATE = ("stable", "canary", "share", "generation")  # in a record and in each change of its history
USER_VARIABLE = "PERGOLA_USER"  # who is named in the history, instead of user@host


class Unreadable(InputError):
    """A release record that is damaged: truncated, with a changed byte, or edited by hand."""


@dataclass(frozen=True)
class ReleaseEvent:
    """A change of a release record, and which versions were released from then on."""

    at: str  # UTC: "2026-11-01T12:00:00Z"
    who: str  # user@host, or what PERGOLA_USER said
    what: str  # "stable 2 (was 1)"
    why: str
    stable: int | None
    canary: int | None
    share: float
    generation: int  # of the record after it


@dataclass(frozen=True)
class Release:
    """The versions that servers of one model serve, in `<store>/<model>/release.json`."""

    stable: int | None = None  # the version for all other requests; None: nothing is served
    canary: int | None = None  # the version on trial
    share: float = 0.0  # share of requests for the canary, 0 to 1
    previous: int | None = None  # the previous stable version, the target of a rollback
    generation: int = 0  # increases by one with each change
    history: tuple[ReleaseEvent, ...] = ()  # oldest first; only ever appended to


def to_json(release: Release) -> bytes:
    """The bytes of release.json."""
    return (json.dumps({"schema": "Release/1", **records.to_dict(release)}, indent=1) + "\n").encode()


def from_json(raw: bytes, where: str) -> Release:
    """The record from the bytes of release.json.  where: its address, for error messages.

    Raises Unreadable for a damaged one, InputError for one of another version of pergola.
    """
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise _unreadable(f"{where} is not readable as JSON ({error})") from None
    schema = data.pop("schema", None) if isinstance(data, dict) else None
    if schema != "Release/1":
        raise InputError(
            f"{where} is not a release record of this version of pergola (schema 'Release/1'). "
            "Use the pergola that wrote it. Delete it if it is damaged."
        )
    try:
        release = records.from_dict(Release, data, where.rpartition("/")[2])
    except InputError as error:
        raise _unreadable(f"{where} is damaged ({str(error).rstrip('.')})") from None
    if release.history and not _is_last(release.history[-1], release):
        raise _unreadable(f"{where} is damaged: its last change is of other versions than it releases")
    return release


def with_event(before: Release, after: Release, *, who: str, why: str, at_s: float) -> Release:
    """`after`, with the change from `before` in its history.  at_s: seconds since 1970.

    Times never decrease, even where the clocks of two writers differ.
    """
    last = before.history[-1].at if before.history else ""
    event = ReleaseEvent(
        at=max(utc(at_s), last),
        who=who,
        what=_difference(before, after),
        why=why,
        stable=after.stable,
        canary=after.canary,
        share=after.share,
        generation=after.generation,
    )
    return dataclasses.replace(after, history=(*before.history, event))


def live_at(release: Release, at: str) -> ReleaseEvent | None:
    """The last change up to a time ("2026-11-01T12:00:00Z"); None if none is recorded."""
    return next((event for event in reversed(release.history) if event.at <= at), None)


def current_user() -> str:
    """Who makes a change: $PERGOLA_USER, otherwise user@host."""
    if named := os.environ.get(USER_VARIABLE, ""):
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in /etc/passwd
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def utc(seconds: float) -> str:
    """A time as a history has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def make_stable(release: Release, version: int) -> Release:
    """`version` gets all requests; the previous stable version is kept for a rollback."""
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
        raise InputError("A canary needs a stable version beside it: pergola release stable N.")
    if release.stable == version:
        raise InputError(f"Version {version} is already stable. Choose another version as the canary.")
    if not 0 < share < 1:
        raise InputError(f"A canary's share must be between 0% and 100%. Got {share:.0%}. Start with 10%.")
    if (release.canary, release.share) == (version, share):
        return release
    return _next(release, canary=version, share=share)


def promote(release: Release) -> Release:
    """The canary becomes stable."""
    if release.canary is None:
        raise InputError("There is no canary to promote: pergola release canary N --share 10%.")
    return make_stable(release, release.canary)


def withdraw(release: Release, version: int | None = None) -> Release:
    """`version` (default: the canary) no longer gets requests.

    A stable version is replaced by the previous one, or by nothing if there is none.
    """
    target = release.canary if version is None else version
    if target is None:
        raise InputError("There is no canary to withdraw. Specify the version: pergola release withdraw N.")
    if target == release.canary:
        return _next(release, canary=None, share=0.0)
    if target == release.stable:
        return _next(release, stable=release.previous, previous=None, canary=None, share=0.0)
    if target == release.previous:
        return _next(release, previous=None)
    raise InputError(f"Version {target} is neither stable ({release.stable}) nor canary ({release.canary}).")


def rollback(release: Release) -> Release:
    """The previous stable version is stable again; a canary is withdrawn as well."""
    if release.previous is None:
        why = f"No version before {release.stable} is known."
        if release.stable is None:
            why = "Nothing is stable, so there is no previous version."
        raise InputError(f"{why} Specify a version: pergola release stable N.")
    return _next(release, stable=release.previous, previous=None, canary=None, share=0.0)


def _unreadable(problem: str) -> Unreadable:
    return Unreadable(f"{problem}. Write a new one: pergola release stable N.")


def _is_last(event: ReleaseEvent, release: Release) -> bool:
    """Whether a change led to this state."""
    return all(getattr(event, name) == getattr(release, name) for name in _STATE)


def _difference(before: Release, after: Release) -> str:
    """What changed, in a few words."""
    found = []
    if after.stable != before.stable:
        was = f" (was {before.stable})" if before.stable is not None else ""
        found.append(("nothing is stable" if after.stable is None else f"stable {after.stable}") + was)
    if after.canary is not None and (after.canary, after.share) != (before.canary, before.share):
        found.append(f"canary {after.canary} with {after.share:.0%}")
    elif before.canary is not None and after.canary is None and before.canary != after.stable:
        found.append(f"canary {before.canary} withdrawn")
    return ", ".join(found) or f"version {before.previous} is no longer the target of a rollback"


def _next(release: Release, **changes: int | float | None) -> Release:
    return dataclasses.replace(release, generation=release.generation + 1, **changes)  # type: ignore[arg-type]
