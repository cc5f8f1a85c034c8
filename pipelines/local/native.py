"""Redirects what native libraries write to stderr to a log file.

TensorFlow's C++ code writes dozens of lines that no setting turns off. During a run they go to a log file;
progress and warnings have a stream of their own (pipelines/local/progress.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def own_stderr() -> TextIO:
    """A stream to the current stderr that a later redirection does not affect."""
    return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Append everything written to file descriptor 2 to `path`, also by child processes."""
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
