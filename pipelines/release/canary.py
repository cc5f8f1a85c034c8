"""Canary analysis: compare a canary with the stable version, then promote or withdraw it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.errors import InputError, StepError

if TYPE_CHECKING:
    from pergola.components.store.release_record import Release


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
    """ "promote" or "withdraw", and the reasons.

    Raises InputError if there is no canary or no address, StepError if the window was inconclusive.
    """
    from pergola.components import records
    from pergola.components.store import canary_analysis

    if release.canary is None:
        raise InputError("There is no canary to watch. Start one: pergola release canary N --share 10%.")
    if not stable_at or not canary_at:
        raise InputError("--watch needs --stable-at and --canary-at, the REST addresses of both tracks.")
    if (golden is None) != (canary_grpc is None):
        raise InputError("--golden and --canary-grpc must be given together. Give both or neither.")
    settings = records.from_dict(
        canary_analysis.WatchSettings, {"window_s": window}, "pergola release promote --watch"
    )
    found = canary_analysis.watch(
        lambda: (canary_analysis.scrape(stable_at, model), canary_analysis.scrape(canary_at, model)),
        (lambda: _golden(canary_grpc, model, release.canary, golden)) if golden and canary_grpc else None,
        settings,
    )
    if found.action == canary_analysis.WAIT:
        raise StepError(
            f"Nothing was changed: {' '.join(found.reasons)} Watch again, or send it more requests."
        )
    return found.action, found.reasons


def _golden(address: str | None, model: str, version: int | None, folder: Path) -> float:
    """Largest absolute difference between probabilities of the canary and those expected."""
    from pergola.components.artifacts.evaluation import GoldenRequests
    from pergola.components.release import golden
    from pergola.serving.client import Client
    from pergola.serving.client.errors import ClientError

    try:
        with Client(str(address), model=model, version=version) as client:
            return golden.ask(client, GoldenRequests.load(folder)).max_difference
    except golden.WrongAnswer:
        return float("inf")
    except ClientError as error:
        raise StepError(f"The canary at {address} did not answer the golden requests: {error}") from None
