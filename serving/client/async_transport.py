"""Runs the client's flows in an event loop, over a channel of grpc.aio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from pergola.serving.client.effects import (
    END,
    Answer,
    Attempt,
    Effect,
    Flow,
    IsConnected,
    Next,
    Pause,
    Start,
    WaitFor,
    Work,
)
from pergola.serving.client.errors import InvalidInput
from pergola.serving.client.rpc import closed


class AsyncTransport:
    """For one event loop, that of the first call: there the channel is opened, which cannot leave it."""

    def __init__(self, open_channel: Callable[[Any], grpc.aio.Channel], max_in_flight: int) -> None:
        if max_in_flight < 1:
            raise InvalidInput(f"max_in_flight is {max_in_flight}, expected at least 1.")
        self._open_channel, self._max_in_flight = open_channel, max_in_flight
        self._room, self._closing = asyncio.Semaphore(max_in_flight), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stubs: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop keeps only weak references

    async def run(self, flow: Flow[Answer]) -> Answer:
        """The flow's result. A cancelled task cancels its call."""
        self.enter()
        resume, value = flow.send, None
        try:
            while True:
                effect = resume(value)
                try:
                    resume, value = flow.send, await self._perform(effect)
                except Exception as error:
                    resume, value = flow.throw, error
        except StopIteration as done:
            return done.value
        finally:
            flow.close()

    def enter(self) -> None:
        """Raise InvalidInput in any event loop but the first."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidInput(
                "This client belongs to the event loop that used it first, and was called in another one. "
                "Create one client for each loop (asyncio.run starts a new loop each time), or use a Client."
            )

    async def close(self) -> None:
        """Cancel the calls in flight and close the connection."""
        self._closing.set()
        if self._channel is not None:
            await self._channel.close()

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Attempt():
                return await self._send(effect)
            case Pause():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(effect.seconds):
                        await self._closing.wait()
            case IsConnected():
                return self._is_connected()
            case Start():
                return self._start(effect.flow)
            case WaitFor():
                await asyncio.wait(effect.futures, return_when=asyncio.FIRST_COMPLETED)
            case Next(items):
                return await anext(items, END) if isinstance(items, AsyncIterator) else next(items, END)
            case Work():
                return await asyncio.to_thread(effect.function)

    async def _send(self, attempt: Attempt) -> bytes:
        """The reply's bytes. Waits for room before, which counts in the call's timeout."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + attempt.timeout_s
        try:
            async with asyncio.timeout(attempt.timeout_s):
                await self._room.acquire()
        except TimeoutError:
            raise attempt.crowded_out(self._max_in_flight) from None
        try:
            if self._closing.is_set():
                raise closed()
            timeout_s = max(ends - loop.time(), 0.0)
            call = self._stub(attempt.path)(attempt.payload, timeout=timeout_s, metadata=attempt.metadata)
            reply: bytes = await call
            return reply
        except asyncio.CancelledError:
            if self._closing.is_set() and not _is_being_cancelled():  # by close()
                raise attempt.cancelled() from None
            raise
        finally:
            self._room.release()

    def _stub(self, path: str) -> Any:
        """Bytes in, bytes out, as in BlockingTransport."""
        if self._channel is None:
            self._channel = self._open_channel(grpc.aio)
        if path not in self._stubs:
            self._stubs[path] = self._channel.unary_unary(path, None, None)
        return self._stubs[path]

    def _start(self, flow: Flow[Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.run(flow))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # so that asyncio does not log one that nobody asked for

    def _is_connected(self) -> bool:
        return self._channel is None or self._channel.get_state() is grpc.ChannelConnectivity.READY


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
