"""AsyncClient with the methods of Client, so that a test of one is a test of both."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Self

from pergola.serving.client import AsyncClient, Client


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """A loop that runs on a thread of its own until the tests end."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="event-loop-of-tests", daemon=True).start()
    return loop


def submit(coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
    """A future of what it returns in that loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, event_loop())


class InLoop:
    """Blocks the calling thread for each call, while the client itself runs in `event_loop`."""

    def __init__(self, *address: Any, **options: Any) -> None:
        self._client = AsyncClient(*address, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: submit(method(*arguments, **options)).result()

    def at(self, **spec: Any) -> InLoop:
        other = InLoop.__new__(InLoop)
        other._client = self._client.at(**spec)
        return other

    def predict_async(self, *arguments: Any, **options: Any) -> Future[Any]:
        return submit(self._client.predict(*arguments, **options))

    def predict_many(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        answers = self._client.predict_many(*arguments, **options)

        async def following() -> Any:
            return await anext(answers, None)

        try:
            while (answer := submit(following()).result()) is not None:
                yield answer
        finally:
            submit(answers.aclose()).result()


TRANSPORTS = (Client, InLoop)
