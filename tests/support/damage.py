"""Damage to files: what a bad disk, a bad copy or a bad person does to them."""

from __future__ import annotations

import os
from pathlib import Path


def flip(path: Path, *, quietly: bool = False) -> None:
    """Flip one bit in the middle of a file. quietly: its time of change stays, as when a disk decays."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if quietly:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
