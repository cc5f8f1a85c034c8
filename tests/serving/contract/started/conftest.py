"""Servers that a test starts itself, with flags of its own: ours, or the binary that is named.

Ours runs in this process where that is enough, which saves TensorFlow's import.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import grpc
import pytest

from tests.support.servers import ROOT, LiveServer, ServerProcess, in_process
from tests.support.wire import Wire

OURS = (sys.executable, "-m", "pergola.serving.server.app")


class Started(NamedTuple):
    """A server, how to talk to it, and what it has logged so far."""

    server: LiveServer
    wire: Wire
    log: Callable[[], str]


class DidNotStart(Exception):
    """A server gave up; the text is what it said."""


@pytest.fixture
def binary() -> str | None:
    """The stock server's binary, None for ours."""
    named = os.environ.get("PERGOLA_TF_SERVING")
    if named and ":" in named:
        pytest.skip("a server that runs already cannot be started with other flags")
    return named


@pytest.fixture
def start(binary, tmp_path, caplog) -> Iterator[Callable[..., Started]]:
    """start(*flags, credentials=None, process=False); all are stopped at the end of the test."""
    with ExitStack() as stack:

        def started(
            *flags: str, credentials: grpc.ChannelCredentials | None = None, process: bool = False
        ) -> Started:
            if process or binary:
                folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
                try:
                    server = stack.enter_context(ServerProcess(folder, *flags, binary=binary))
                except RuntimeError as error:
                    raise DidNotStart(str(error)) from None
                log = server.text
            else:
                server, log = _here(stack, flags), lambda: caplog.text
            return Started(server, stack.enter_context(Wire(server.address, credentials)), log)

        yield started


def _here(stack: ExitStack, flags: tuple[str, ...]) -> LiveServer:
    from pergola.serving.server.config.errors import ServingError

    try:
        server = stack.enter_context(in_process(*flags))
    except (ServingError, OSError) as error:
        raise DidNotStart(str(error)) from None
    return LiveServer("localhost", server.grpc_port, server.rest_port)


@pytest.fixture
def run(binary) -> Callable[..., subprocess.CompletedProcess]:
    """run(*flags) of a server that shall end by itself."""

    def finished(*flags: str, timeout_s: float = 60) -> subprocess.CompletedProcess:
        command = (binary,) if binary else OURS
        return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)

    return finished
