"""Watch a canary beside the stable version and say what to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InputError, StepError

if TYPE_CHECKING:
    from components.release.traffic import Release


def verdict(
    release: Release,
    model: str,
    *,
    stable_at: tuple[str, ...],
    canary_at: tuple[str, ...],
    canary_grpc: str | None,
    golden: Path | None,
    window: float,
) -> tuple[str, tuple[str, ...]]:
    """ "promote" or "withdraw", and why.

    Raises InputError when there is no canary or no address, StepError when the window does not tell.
    """
    from components import records
    from components.release import watch

    if release.canary is None:
        raise InputError("There is no canary to watch: pergola release canary N --share 10%.")
    if not stable_at or not canary_at:
        raise InputError("--watch wants --stable-at and --canary-at, the REST addresses of both tracks.")
    if (golden is None) != (canary_grpc is None):
        raise InputError("--golden and --canary-grpc belong together: give both or none.")
    settings = records.from_dict(watch.WatchSettings, {"window_s": window}, "pergola release promote --watch")
    found = watch.watch(
        lambda: (watch.scrape(stable_at, model), watch.scrape(canary_at, model)),
        (lambda: _golden(canary_grpc, model, release.canary, golden)) if golden and canary_grpc else None,
        settings,
    )
    if found.action == watch.WAIT:
        raise StepError(
            f"Nothing was changed: {' '.join(found.reasons)} Watch again, or send it more requests."
        )
    return found.action, found.reasons


def _golden(address: str | None, model: str, version: int | None, folder: Path) -> float:
    """Largest difference of a probability between what the canary answers and what it should."""
    from components.artifacts import GoldenRequests
    from components.release import golden
    from serving.client import Client
    from serving.client_errors import ClientError

    try:
        with Client(str(address), model=model, version=version) as client:
            return golden.ask(client, GoldenRequests.load(folder)).max_difference
    except golden.WrongAnswer:
        return float("inf")
    except ClientError as error:
        raise StepError(f"The canary at {address} was not asked: {error}") from None
