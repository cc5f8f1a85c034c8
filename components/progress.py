"""How long work shows how far it is. Domain code gets a `Progress` and never prints.

`Progress` is what `tqdm.tqdm` is: called with total, desc and unit it gives a context manager with
`update(n)` and `set_postfix_str(text)`. The command line passes tqdm itself; the default is silent.
"""

from __future__ import annotations

from typing import Any, Protocol, Self


class Bar(Protocol):
    """A bar that grows."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def update(self, n: int = 1) -> Any: ...
    def set_postfix_str(self, s: str = "") -> None: ...


class Progress(Protocol):
    """Makes a bar."""

    def __call__(
        self, *, total: int | None = None, desc: str = "", unit: str = "it", initial: int = 0
    ) -> Bar: ...


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...
    def update(self, n: int = 1) -> None: ...
    def set_postfix_str(self, s: str = "") -> None: ...


def silent(*, total: int | None = None, desc: str = "", unit: str = "it", initial: int = 0) -> Bar:
    """A bar that nobody sees."""
    return _Silent()
