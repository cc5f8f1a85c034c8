"""A client of TensorFlow Serving for asyncio, that needs no TensorFlow.

    import pergola

    async with pergola.AsyncClient("dns:///leaves.models.svc:8500", model="leaves") as client:
        answer = await client.classify_images(["a.jpg", "b.png"])
        answer.labels, answer.probability, answer.version

It makes the calls of Client, with the same deadlines, retries and errors; see it for arguments and results.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pergola.serving.client.answers import OrderedAnswers
from pergola.serving.client.async_transport import AsyncTransport
from pergola.serving.client.channel import Connection
from pergola.serving.client.effects import iterate, take
from pergola.serving.client.protocol import ModelProtocol
from pergola.serving.client.results import (
    Classification,
    Metadata,
    Prediction,
    ServedModel,
    VersionStatus,
)
from pergola.serving.client.retry import Retry
from pergola.serving.wire import contract

if TYPE_CHECKING:
    from pergola.serving.client.request_log import ClientLog


class AsyncClient:
    """A client of one served model for one event loop. Close it, or use it in an `async with` block.

    The arguments are those of Client, and:
    max_in_flight: how many calls are at the server at a time; more wait for their turn, within their timeout.
    Cancelling a task cancels its call. A second event loop is refused with InvalidInput. Images are read and
    the log is written in worker threads; a function that gives the token runs in the loop, so keep it short.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        connection: Connection | None = None,
        log: ClientLog | None = None,
        token: str | Callable[[], str] | None = None,
        max_in_flight: int = 100,
    ) -> None:
        self._protocol = ModelProtocol(
            address, model, version, label, timeout_s, retry, connection, log, token
        )
        self._transport = AsyncTransport(self._protocol.open_channel, max_in_flight)

    async def __aenter__(self) -> Self:
        self._transport.enter()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel the calls in flight and close the connection."""
        self._transport.enter()
        self._protocol.close()
        await self._transport.close()

    def at(self, *, model: str | None = None, version: int | None = None, label: str | None = None) -> Self:
        """The same client for another model, version or label, over the same connection.

        Closing either closes both.
        """
        other = copy.copy(self)
        other._protocol = self._protocol.at(model, version, label)
        return other

    async def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> Prediction:
        """See Client.predict. Many at a time: asyncio.gather, a TaskGroup, or `predict_many`."""
        return await self._transport.run(self._protocol.predict(inputs, signature, outputs, timeout_s))

    async def predict_many(
        self,
        requests: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        in_flight: int = 16,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Prediction]:
        """See Client.predict_many. For `async for`; with contextlib.aclosing where you leave that early."""
        answers = OrderedAnswers(
            self._protocol,
            partial(take, iterate(requests)),
            in_flight=in_flight,
            timeout_s=timeout_s,
            signature=signature,
            outputs=outputs,
        )
        try:
            while (answer := await self._transport.run(answers.next())) is not None:
                yield answer
        finally:
            answers.close()

    async def classify_images(
        self,
        images: Iterable[Any] | AsyncIterable[Any],
        *,
        batch_size: int = 32,
        in_flight: int = 4,
        timeout_s: float | None = None,
    ) -> Classification:
        """See Client.classify_images."""
        from pergola.serving.client.classify import classify

        flow = classify(self._protocol, images, batch_size, in_flight, timeout_s)
        return await self._transport.run(flow)

    async def status(self, *, timeout_s: float | None = None) -> tuple[VersionStatus, ...]:
        """See Client.status."""
        return await self._transport.run(self._protocol.status(timeout_s))

    async def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """See Client.metadata."""
        return await self._transport.run(self._protocol.metadata(timeout_s))

    async def reload(self, models: Iterable[ServedModel], *, timeout_s: float | None = None) -> None:
        """See Client.reload."""
        await self._transport.run(self._protocol.reload(models, timeout_s))

    async def wait_until_available(self, *, timeout_s: float | None = None, poll_s: float = 0.1) -> int:
        """See Client.wait_until_available."""
        return await self._transport.run(self._protocol.wait_until_available(timeout_s, poll_s))
