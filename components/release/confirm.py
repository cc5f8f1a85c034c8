"""The last step: a published version is served and gives the golden answers; then it is the champion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.artifacts.evaluation import GoldenRequests
from pergola.components.artifacts.release import Confirmation, Publication
from pergola.components.errors import StepError
from pergola.components.release import golden as golden_requests
from pergola.components.release.golden import WrongAnswer
from pergola.components.store.publish import withdraw

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
    """Ask a server for the published version, then move the champion's alias to it.

    client: of any server that watches `base`, asking the model that was published: the smoke test's own
    (Smoke tests.serve), or that of a running `pergola serve`.
    Raises StepError when the version is not there in time or answers otherwise; it is withdrawn then,
    from the folder and in the registry, and the champion stays what it was. A version that is the champion
    already is not withdrawn.
    """
    model, version = publication.model, publication.version
    try:
        difference = served_difference(client.at(version=version), golden, version, timeout_s)
        if difference > max_difference:
            raise WrongAnswer(
                f"its probabilities are up to {difference:.2g} away, allowed is {max_difference:g}"
            )
    except Exception as error:
        champion = registry.champion(model)
        if champion is not None and champion.version == version:
            raise StepError(
                f"Version {version} of '{model}' is the champion and stays it, but could not be confirmed "
                f"again: {error}. Look at the server's log."
            ) from error
        withdraw(base, model, version)
        registry.withdraw(model, version)
        now = f"Version {champion.version} stays the champion." if champion else "There is no champion."
        raise StepError(
            f"Version {version} of '{model}' was published but could not be confirmed, so it was withdrawn: "
            f"{error}. {now}"
        ) from error
    previous = registry.promote(model, version)
    return Confirmation(model=model, version=version, previous=previous, max_difference=difference)


def served_difference(client: Client, golden: GoldenRequests, version: int, timeout_s: float) -> float:
    """How far a server's answers are from the golden ones. Waits for the version; see golden.ask."""
    client.wait_until_available(timeout_s=timeout_s)
    answers = golden_requests.ask(client, golden)
    if answers.version != version:
        raise WrongAnswer(f"version {answers.version} answered, wanted {version}")
    return answers.max_difference
