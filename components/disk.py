"""What a file system refuses, in one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pergola.components.errors import InputError, StepError


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn a read-only place into an InputError and a full disk into a StepError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            path = error.filename or place
            raise InputError(f"'{path}' may not be written: name another place, or allow it.") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StepError(f"The disk of '{place}' is full: free some space and run again.") from error
        raise
