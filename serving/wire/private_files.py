"""Files that only their owner can read: logs hold images and messages of other people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def open_private(path: Path) -> BinaryIO:
    """The file, opened to append and with access for its owner alone; so is its folder if it is new."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
    os.fchmod(file.fileno(), 0o600)
    return file


def rotate(path: Path, max_bytes: int) -> None:
    """Move the content of a larger file to `<path>.1`. Others keep appending to the file itself.

    What they write while it is copied is lost.
    """
    import shutil

    if not path.exists() or path.stat().st_size <= max_bytes:
        return
    older = path.with_name(path.name + ".1")
    older.unlink(missing_ok=True)
    with open(path, "rb") as source, open_private(older) as target:
        source.seek(-max_bytes, os.SEEK_END)
        shutil.copyfileobj(source, target)
    os.truncate(path, 0)
