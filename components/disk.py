"""Errors of the file system as one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pergola.components.errors import InputError, StepError


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn missing write permission or file locks into an InputError and a full disk into a StepError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            path = error.filename or place
            raise InputError(
                f"'{path}' cannot be written: choose another folder, or grant write permission."
            ) from error
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise InputError(
                f"'{place}' is on a file system without file locks (flock), which keep two runs apart: "
                "choose a folder on another, such as a local disk."
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StepError(f"The disk of '{place}' is full: free some space and run again.") from error
        raise
