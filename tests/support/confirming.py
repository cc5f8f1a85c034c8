"""What the steps final_test and confirm do, one after the other."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pergola.components.artifacts.evaluation import GoldenRequests
from pergola.components.artifacts.release import Confirmation, Publication
from pergola.components.release.confirm import promote_or_withdraw, try_published
from pergola.components.release.registry.registry import Registry
from pergola.serving.client.client import Client


def confirm_with(
    client: Client, golden: GoldenRequests, publication: Publication, base: Path, registry: Registry,
    **options: float,
) -> Confirmation:  # fmt: skip
    """With a client that is open and stays so."""
    return confirm_by(nullcontext(client), golden, publication, base, registry, **options)


def confirm_by(
    opening: AbstractContextManager[Client], golden: GoldenRequests, publication: Publication, base: Path,
    registry: Registry, **options: float,
) -> Confirmation:  # fmt: skip
    """With a client that is opened for it."""
    test = try_published(opening, golden, publication, base, **options)
    return promote_or_withdraw(test, publication, base, registry)
