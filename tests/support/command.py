"""The pergola command in a process of its own, as from a shell."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "pergola.pipelines.commands.cli")


def pergola(*arguments: object, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    """Run a command until it exits."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s)


def pergola_json(*arguments: object, timeout_s: float = 900) -> Any:
    """The JSON output of a command, which must succeed."""
    done = pergola(*arguments, "--json", timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kill_when(arguments: tuple[object, ...], is_time: Callable[[], bool], timeout_s: float = 300) -> None:
    """Start a command and kill it with SIGKILL, its children too, as soon as `is_time` says so."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ends = time.monotonic() + timeout_s
    while not is_time():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < ends, "the time to kill never came"
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@contextmanager
def serving(workspace: Path, *flags: str, timeout_s: float = 120) -> Iterator[dict[str, Any]]:
    """`pergola serve` on free ports; gives the content of serve.json. SIGTERM must stop it with 0."""
    arguments = ["serve", "--workspace", str(workspace), "--port", "0", "--rest-port", "0", *flags]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    place = workspace / "serve.json"
    ends = time.monotonic() + timeout_s
    try:
        while not place.exists():
            assert process.poll() is None and time.monotonic() < ends, "the server did not start"
            time.sleep(0.1)
        yield json.loads(place.read_text())
    finally:
        process.terminate()
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
