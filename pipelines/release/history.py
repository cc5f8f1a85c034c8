"""`pergola releases`: which version was live when, by whom and why."""

from __future__ import annotations

import datetime
from typing import Any

from pergola.components import records
from pergola.components.errors import InputError
from pergola.components.store import release_record
from pergola.components.store.release_record import Release, ReleaseEvent


def listed(model: str, release: Release) -> tuple[dict[str, Any], str]:
    """All changes, oldest first, as data and as text."""
    events = [records.to_dict(event) for event in release.history]
    data = {"model": model, "stable": release.stable, "canary": release.canary, "history": events}
    lines = [_line(event) for event in release.history]
    if release.generation and not release.history:
        lines = [f"Version {release.stable} is stable; pergola 0.1.0 kept no history."]
    return data, "\n".join([model, *(f"  {line}" for line in lines or ["Nothing was released yet."])])


def live_at(model: str, release: Release, at: str) -> tuple[dict[str, Any], str]:
    """What was live at a time, as data and as text. Raises InputError for what is not a time."""
    when = release_record.utc(_seconds(at))
    event = release_record.live_at(release, when)
    data = {
        "model": model,
        "at": when,
        "stable": event.stable if event else None,
        "canary": event.canary if event else None,
        "event": records.to_dict(event) if event else None,
    }
    if event is None:
        return data, f"{model} at {when}: no release is recorded up to then."
    live = f"version {event.stable} was live" if event.stable else "nothing was live"
    canary = f", version {event.canary} had {event.share:.0%} of the requests" if event.canary else ""
    return data, f"{model} at {when}: {live}{canary}.\n  {_line(event)}"


def _line(event: ReleaseEvent) -> str:
    return f"{event.at}  {event.what}, by {event.who}" + (f": {event.why}" if event.why else "")


def _seconds(text: str) -> float:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"--at expects a time such as 2026-11-01T12:00, or 2026-11-01T12:00Z for UTC. Got '{text}'."
        ) from None
