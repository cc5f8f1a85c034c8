"""What a server counts, under the stock server's names, and the page that Prometheus reads."""

from __future__ import annotations

from serving.errors import Code


class Outcome:
    """How a request ended."""

    code = Code.OK


class _Request:
    def __enter__(self) -> Outcome:
        return Outcome()

    def __exit__(self, *error: object) -> None: ...


class Monitor:
    """Counts nothing yet."""

    def request(self, model: str, api: str, entrypoint: str) -> _Request:
        return _Request()

    def ran(self, model: str, version: int, api: str, seconds: float) -> None: ...
    def examples(self, model: str, count: int) -> None: ...
