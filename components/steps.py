"""Every step: load, call the domain, save. Paths in, paths out, no decisions.

Each artifact is a folder (see components/artifacts.py). Heavy imports happen inside the functions,
which is also how components/code.py knows what a step depends on.
"""

from __future__ import annotations


def scan() -> None: ...
def train() -> None: ...
def export() -> None: ...
