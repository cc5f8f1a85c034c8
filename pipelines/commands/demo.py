"""`scripts/demo`: train, release, serve and predict on scikit-learn's handwritten digits.

Uses the commands that a user would type; each is printed before it runs.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pergola.components.workspace import Workspace
from pergola.pipelines.commands.demo_data import SPOILT, write_digits
from pergola.serving.tools.process import ChildProcess, child_environment, python_command

FOLDER = Path("pergola-demo")
WAIT_S = 90.0


def main() -> int:
    """Run the demo in ./pergola-demo; returns the exit status."""
    begin = time.monotonic()
    digits, workspace = FOLDER / "digits", Workspace(FOLDER / "work")
    count = write_digits(digits)
    _say(f"{count:,} handwritten digits in {digits}, and {len(SPOILT)} files damaged on purpose:")
    for name, fault in SPOILT.items():
        _say(f"  {name}: {fault}")
    workspace.create()
    with _server(workspace) as server:
        status = _pergola("run", str(digits), "--workspace", _shown(workspace.root))
        if status == 0:
            _wait_for(workspace, server)
            images = [str(sorted((digits / label).glob("0*.png"))[7]) for label in ("2", "7", "9")]
            status = _pergola("predict", *images, "--workspace", _shown(workspace.root))
    _say(
        f"\nDone in {time.monotonic() - begin:.0f} s. Next, your images: pergola run DATASET, pergola serve."
    )
    return status


@contextmanager
def _server(workspace: Workspace) -> Iterator[ChildProcess]:
    """`pergola serve`, started before there is a model: it loads models as they are published."""
    arguments = ["serve", "--workspace", _shown(workspace.root), "--port", "0", "--rest-port", "0"]
    _say(f"\n$ pergola {shlex.join(arguments)} &")
    with ChildProcess(python_command("pergola.pipelines.commands.cli", *arguments)) as server:
        yield server


def _wait_for(workspace: Workspace, server: ChildProcess) -> None:
    ends = time.monotonic() + WAIT_S
    while time.monotonic() < ends and server.poll() is None:
        if workspace.server():
            return
        time.sleep(0.1)
    raise SystemExit(f"The server did not start within {WAIT_S:.0f} s; see its messages above.")


def _pergola(*arguments: str) -> int:
    _say(f"\n$ pergola {shlex.join(arguments)}")
    command = python_command("pergola.pipelines.commands.cli", *arguments)
    return subprocess.run(command, env=child_environment()).returncode


def _shown(path: Path) -> str:
    """The path relative to the current folder, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
