"""Progress bars for long work. Domain code gets a `Progress` and never prints.

`Progress` is the interface of `tqdm.tqdm`: called with total, desc and unit, it returns a context manager
with `update(n)` and `set_postfix_str(text)`. The command line passes tqdm itself; the default is silent.
"""

from __future__ import annotations

from typing import Any, Protocol, Self


class Bar(Protocol):
    """A progress bar."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def update(self, n: int = 1) -> Any: ...
    def set_postfix_str(self, s: str = "") -> None: ...


class Progress(Protocol):
    """Creates a progress bar."""

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
    """A progress bar that shows nothing."""
    return _Silent()
