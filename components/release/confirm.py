"""Confirm a published version: a server answers its golden requests; then it becomes the champion.

Two functions, since on a cluster two pods do it: the first loads the model and decodes images, and has no
secrets; the second holds those of the registry.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.artifacts.evaluation import GoldenRequests
from pergola.components.artifacts.release import Confirmation, FinalTest, Publication
from pergola.components.errors import StepError
from pergola.components.release import golden as golden_requests
from pergola.components.release.golden import WrongAnswer
from pergola.components.store.publish import verify_published, withdraw

if TYPE_CHECKING:
    from pergola.components.release.champions import Champions
    from pergola.components.release.registry.registry import Registry
    from pergola.serving.client import Client

log = logging.getLogger(__name__)


def try_published(
    opening: AbstractContextManager[Client],
    golden: GoldenRequests,
    publication: Publication,
    base: Path,
    *,
    max_difference: float,
    timeout_s: float = 60.0,
) -> FinalTest:
    """Verify the published version and send it the golden requests. Needs no registry.

    opening: gives a client of a server that watches `base`, for the published model: of the smoke test's own
    server (SmokeTestServer.serve) or of a running `pergola serve`. It is entered once the files are verified.
    A version that is damaged, not available in time or answers differently has a problem; nothing is raised.
    """
    model, version = publication.model, publication.version
    try:
        verify_published(base, publication)
        with opening as client:
            difference = served_difference(client.at(version=version), golden, version, timeout_s)
    except Exception as error:  # whatever it is: this version must not become the champion
        log.info("version %d of %s failed its final test", version, model, exc_info=True)
        return FinalTest(model, version, str(error).rstrip(".") or type(error).__name__)
    differs = f"its probabilities differ by up to {difference:.2g}, {max_difference:g} is allowed"
    return FinalTest(model, version, differs if difference > max_difference else "", difference)


def promote_or_withdraw(
    test: FinalTest, publication: Publication, base: Path, registry: Registry | Champions
) -> Confirmation:
    """Make a published version the champion, if it passed its final test and is still what was published.

    Loads no model and decodes no image. Raises StepError for a version that failed. It is then withdrawn from
    the folder and the registry, and the champion does not change. A version that is already the champion is
    not withdrawn.
    """
    model, version = publication.model, publication.version
    if (test.model, test.version) != (model, version):
        raise StepError(
            f"The final test is of version {test.version} of '{test.model}', not of {version} of '{model}'."
        )
    problem = test.problem or _damage(base, publication)
    if problem:
        raise _withdrawn(problem, publication, base, registry)
    previous = registry.promote(model, version)
    return Confirmation(model, version, previous, test.max_difference)


def _damage(base: Path, publication: Publication) -> str:
    try:
        verify_published(base, publication)
    except Exception as error:
        return str(error).rstrip(".")
    return ""


def _withdrawn(
    problem: str, publication: Publication, base: Path, registry: Registry | Champions
) -> StepError:
    """Withdraws a version, unless it is the champion, and says so."""
    model, version = publication.model, publication.version
    champion = registry.champion(model)
    if champion is not None and champion.version == version:
        return StepError(
            f"Version {version} of '{model}' is the champion and remains it, but could not be confirmed "
            f"again: {problem}. See the server's log."
        )
    withdraw(base, model, version)
    registry.withdraw(model, version)
    now = f"Version {champion.version} remains the champion." if champion else "There is no champion."
    return StepError(
        f"Version {version} of '{model}' was published but could not be confirmed, so it was withdrawn: "
        f"{problem}. {now}"
    )


def served_difference(client: Client, golden: GoldenRequests, version: int, timeout_s: float) -> float:
    """Largest difference of a served probability from the golden one. Waits for the version."""
    client.wait_until_available(timeout_s=timeout_s)
    answers = golden_requests.ask(client, golden)
    if answers.version != version:
        raise WrongAnswer(f"version {answers.version} answered instead of {version}")
    return answers.max_difference
