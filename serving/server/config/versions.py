"""Which versions of a model a folder holds, and which of them to load. No TensorFlow, no threads.

A version is a direct child of the base path whose name is a number; zeros in front are allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class Latest:
    """Serve the `count` highest versions."""

    count: int = 1


@dataclass(frozen=True)
class All:
    """Serve every version."""


@dataclass(frozen=True)
class Specific:
    """Serve these versions, and no other."""

    versions: frozenset[int]


VersionPolicy = Latest | All | Specific


def find(base_path: Path) -> dict[int, Path]:
    """The versions below a base path: number -> folder.

    Of two names for one number ("7" and "007") the first in alphabetical order wins. Raises OSError
    when the base path cannot be read.
    """
    found: dict[int, Path] = {}
    for child in sorted(base_path.iterdir()):
        if child.name.isascii() and child.name.isdigit() and int(child.name) <= MAX_VERSION:
            found.setdefault(int(child.name), child)
    return found


def choose(versions: Iterable[int], policy: VersionPolicy) -> set[int]:
    """The versions that a policy selects, among those that exist.

    >>> sorted(choose([1, 2, 10], Latest(2)))
    [2, 10]
    """
    present = set(versions)
    match policy:
        case Latest(count):
            return set(sorted(present)[-count:])
        case All():
            return present
        case Specific(desired):
            return present & desired


@dataclass(frozen=True)
class VersionPlan:
    """The next actions for one model: versions to load (highest first) and to unload (lowest first)."""

    load: tuple[int, ...]
    unload: tuple[int, ...]


def plan(desired: set[int], available: Iterable[int], known: Iterable[int]) -> VersionPlan:
    """Load before unload: an old version is unloaded only if a desired one is available, or none is desired.

    desired: versions to serve. available: those served now. known: every version that is
    loaded, being loaded, or that failed to load; it is not loaded again.
    """
    ready = set(available)
    load = tuple(sorted(desired - set(known), reverse=True))
    surplus = ready - desired
    may_unload = not desired or bool(ready & desired)
    return VersionPlan(load, tuple(sorted(surplus)) if may_unload else ())
