"""Confirm a published version: a server answers its golden requests; then it becomes the champion."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.artifacts.evaluation import GoldenRequests
from pergola.components.artifacts.release import Confirmation, Publication
from pergola.components.errors import StepError
from pergola.components.release import golden as golden_requests
from pergola.components.release.golden import WrongAnswer
from pergola.components.store.publish import verify_published, withdraw

if TYPE_CHECKING:
    from pergola.components.release.registry import Registry
    from pergola.serving.client.client import Client


def confirm(
    client: Client,
    golden: GoldenRequests,
    publication: Publication,
    base: Path,
    registry: Registry,
    *,
    max_difference: float,
    timeout_s: float = 60.0,
) -> Confirmation:
    """What `confirm_by` does, with a client that is open and stays so."""
    opened = nullcontext(client)
    return confirm_by(
        opened, golden, publication, base, registry, max_difference=max_difference, timeout_s=timeout_s
    )


def confirm_by(
    opening: AbstractContextManager[Client],
    golden: GoldenRequests,
    publication: Publication,
    base: Path,
    registry: Registry,
    *,
    max_difference: float,
    timeout_s: float = 60.0,
) -> Confirmation:
    """Verify the published version, send it the golden requests, then make it the champion.

    opening: gives a client of a server that watches `base`, for the published model: of the smoke test's own
    server (SmokeTestServer.serve) or of a running `pergola serve`. It is entered once the files are verified.
    Raises StepError if the version is damaged, not available in time or answers differently. It is then
    withdrawn from the folder and the registry, and the champion does not change. A version that is already
    the champion is not withdrawn.
    """
    model, version = publication.model, publication.version
    try:
        verify_published(base, publication)
        with opening as client:
            difference = served_difference(client.at(version=version), golden, version, timeout_s)
        if difference > max_difference:
            raise WrongAnswer(
                f"its probabilities differ by up to {difference:.2g}, {max_difference:g} is allowed"
            )
    except Exception as error:
        champion = registry.champion(model)
        if champion is not None and champion.version == version:
            raise StepError(
                f"Version {version} of '{model}' is the champion and remains it, but could not be confirmed "
                f"again: {str(error).rstrip('.')}. See the server's log."
            ) from error
        withdraw(base, model, version)
        registry.withdraw(model, version)
        now = f"Version {champion.version} remains the champion." if champion else "There is no champion."
        raise StepError(
            f"Version {version} of '{model}' was published but could not be confirmed, so it was withdrawn: "
            f"{str(error).rstrip('.')}. {now}"
        ) from error
    previous = registry.promote(model, version)
    return Confirmation(model=model, version=version, previous=previous, max_difference=difference)


def served_difference(client: Client, golden: GoldenRequests, version: int, timeout_s: float) -> float:
    """Largest difference of a served probability from the golden one. Waits for the version."""
    client.wait_until_available(timeout_s=timeout_s)
    answers = golden_requests.ask(client, golden)
    if answers.version != version:
        raise WrongAnswer(f"version {answers.version} answered instead of {version}")
    return answers.max_difference
