"""What native libraries write to the process's standard error, kept out of the way.

TensorFlow's C++ parts write dozens of lines below Python that no setting stops. They go to a log file
while a run works; words for people have a stream of their own (pipelines/local/progress.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def own_stderr() -> TextIO:
    """A stream to where standard error goes now, whatever happens to it later."""
    return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Append everything that is written to file descriptor 2 to `path`, this process's children's too."""
    sys.stderr.flush()
    before = os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        os.close(file)
