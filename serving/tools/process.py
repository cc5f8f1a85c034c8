"""Child processes that end with this process, and that import nothing from the current directory.

with ChildProcess(python_command("pergola.serving.server.app", "--port=8500"), output=log) as child:
    child.wait(10)
"""

from __future__ import annotations

import logging
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

log = logging.getLogger(__name__)

_WATCHDOG = Path(__file__).with_name("watchdog.py")


class ChildProcess:
    """A started process in a session of its own. It is stopped with this process, however this one ends.

    output: where it writes; None for this process's own output.  folder: deleted once the process has ended.
    env: variables to add.  Raises OSError when the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes] | None = None,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._folder = folder
        self._watchdog = _start_watchdog(folder)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                env=child_environment(env),
                cwd=cwd,
                start_new_session=True,
            )
        except BaseException:
            self._clean_up()
            raise
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(b"%d\n" % self._process.pid)
        self._watchdog.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process number."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Exit status, once it has ended. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, and SIGKILL when that takes too long. Deletes the folder."""
        if self.poll() is None:
            self._process.terminate()
            try:
                self.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("process pid=%d did not stop within %g s and was killed", self.pid, timeout_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, at once. Deletes the folder."""
        self._process.kill()
        self._process.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        self._watchdog.kill()
        self._watchdog.communicate()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module's `__main__` with this interpreter."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment(
    added: Mapping[str, str] | None = None, outer: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """This process's environment, in which Python finds this pergola and never the current directory."""
    paths = [str(Path(path).absolute()) for path in outer.get("PYTHONPATH", "").split(os.pathsep) if path]
    root = str(Path(__file__).absolute().parents[3])  # of the package that runs this
    if root not in (*paths, *site.getsitepackages(), site.getusersitepackages()):
        paths.insert(0, root)  # a checkout that was imported by way of the current directory
    return {**outer, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", **(added or {})}


def _start_watchdog(folder: Path | None) -> subprocess.Popen[bytes]:
    command: list[Any] = [sys.executable, "-I", "-S", _WATCHDOG, folder or ""]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
