"""A step is done once: its key is the content of its inputs, its settings and its code.

A step writes into `<steps>/<name>/<key>.partial/`; when it returns, the folder is renamed to `<key>/` and
then `<key>.json` is written, which alone says that the step is complete. A run that is killed leaves a
partial folder: the next run hands it to the same step again (those that can continue do, the others start
over).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import digest, records
from pergola.components.workspace import read_json

KEY_DIGITS = 20
SMALL = 32_000_000  # bytes of an output that are read each time, in some 30 ms


@dataclass(frozen=True)
class Output:
    """What a step left."""

    step: str
    key: str
    folder: Path
    sha256: str  # of the folder's contents
    seconds: float  # how long the work took when it was done
    reused: bool


class Cache:
    """Outputs of steps in `root`, by key."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, step: str, key: str) -> Output | None:
        """A complete output, if its files are those that were written.

        Size and time of change are a shortcut for large outputs: where they differ, as in a copied workspace,
        the content decides. Small outputs are always read.
        """
        folder = self.root / step / key
        mark = folder.with_suffix(".json")
        record = read_json(mark)
        sha256, seconds = record.get("sha256"), record.get("seconds")
        if not isinstance(sha256, str) or not isinstance(seconds, int | float) or not folder.is_dir():
            return None
        stamps = _stamps(folder)
        differ = record.get("files") != stamps
        if differ or sum(size for size, _ in stamps.values()) <= SMALL:
            if digest.of_folder(folder) != sha256:
                return None
            if differ:
                records.write_atomic(mark, _text({**record, "files": stamps}))
        return Output(step, key, folder, sha256, float(seconds), reused=True)

    def is_sound(self, output: Output) -> bool:
        """Whether an output's content is what was written. Reads all of it, whatever the stamps say."""
        return output.folder.is_dir() and digest.of_folder(output.folder) == output.sha256

    def forget(self, output: Output) -> None:
        """Have a damaged output be made again."""
        output.folder.with_suffix(".json").unlink(missing_ok=True)

    def make(self, step: str, key: str, work: Callable[[Path], object], *, resumes: bool) -> Output:
        """The output that `work(folder)` writes.  resumes: it continues from what a killed run left."""
        folder = self.root / step / key
        partial, mark = folder.with_suffix(".partial"), folder.with_suffix(".json")
        mark.unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            os.rename(folder, partial)
        if not resumes:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        work(partial)
        seconds = time.monotonic() - begin
        os.rename(partial, folder)
        sha256 = digest.of_folder(folder)
        record = {"sha256": sha256, "seconds": round(seconds, 3), "files": _stamps(folder)}
        records.write_atomic(mark, _text(record))
        return Output(step, key, folder, sha256, seconds, reused=False)

    def prune(self, keep: Iterable[str]) -> None:
        """Delete outputs whose "<step>/<key>" is not in `keep`."""
        kept = set(keep)
        for folder in self.root.glob("*/*"):
            if f"{folder.parent.name}/{folder.stem}" in kept:
                continue
            if folder.is_dir():
                folder.with_suffix(".json").unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
            elif not folder.with_suffix("").is_dir():
                folder.unlink(missing_ok=True)


def key_of(inputs: Mapping[str, str], settings: Mapping[str, Any], **more: str) -> str:
    """A name for what a step's output depends on.

    inputs: artifact -> SHA-256.  settings: plain values.  more: code, and whatever else decides.
    """
    return digest.of_data({"inputs": dict(inputs), "settings": dict(settings), **more})[:KEY_DIGITS]


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of every file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"
