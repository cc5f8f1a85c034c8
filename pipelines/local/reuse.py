"""A step is done once: its key is the content of its inputs, its settings and its code.

A step writes into `<steps>/<name>/<key>.partial/`; when it returns, the folder is renamed to
`<key>/` and then `<key>.json` is written, which alone says that the step is whole. A run that is
killed leaves a partial folder: the next run hands it to the same step again (those that can go on
do, the others start over).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pergola.components import code, digest, records
from pergola.pipelines.workspace import read_json

KEY_DIGITS = 20


@dataclass(frozen=True)
class Output:
    """What a step left."""

    step: str
    key: str
    folder: Path
    sha256: str  # of the folder's contents
    seconds: float  # how long the work took when it was done
    reused: bool


@dataclass
class Steps:
    """Runs steps, or finds that they were run.

    done: what this run has, in order.  forced: set once a step is to be redone; all after it are too.
    """

    root: Path
    force_from: str | None = None
    on_start: Callable[[str], None] = lambda step: None
    on_end: Callable[[Output], None] = lambda output: None
    done: dict[str, Output] = field(default_factory=dict)
    forced: bool = False

    def run(
        self,
        step: str,
        work: Callable[[Path], object],
        *,
        inputs: Mapping[str, str | None],
        settings: object = None,
        resumes: bool = False,
        name: str | None = None,
        still: Callable[[], bool] = lambda: True,
    ) -> Output:
        """The output of a step, made now by `work(folder)` or reused.

        inputs: name -> SHA-256 of what goes in.  settings: a frozen dataclass.
        resumes: `work` goes on from a partial folder; otherwise it gets an empty one.
        still: whether what the step did outside of its folder is still there.
        name: under which the output is filed when one step function runs twice, else the step's.
        """
        name = name or step
        self.forced = self.forced or name == self.force_from
        key = self.key(step, inputs, settings)
        found = None if self.forced or not still() else self.find(name, key)
        self.on_start(name)
        output = found or self._make(name, key, work, inputs, resumes and not self.forced)
        self.done[name] = output
        self.on_end(output)
        return output

    def key(self, step: str, inputs: Mapping[str, str | None], settings: object) -> str:
        """What a step's output depends on, as one name."""
        plain = records.to_dict(settings) if settings is not None else {}
        data = {"inputs": dict(inputs), "settings": plain, "code": code.of_step(step)}
        return digest.of_data(data)[:KEY_DIGITS]

    def find(self, name: str, key: str) -> Output | None:
        """A whole output made before, if its files are still those that were written."""
        folder = self.root / name / key
        record = read_json(folder.with_suffix(".json"))
        if not record or record.get("files") != _listing(folder):
            return None
        return Output(name, key, folder, record["sha256"], record["seconds"], reused=True)

    def _make(
        self,
        name: str,
        key: str,
        work: Callable[[Path], object],
        inputs: Mapping[str, str | None],
        resumes: bool,
    ) -> Output:
        folder = self.root / name / key
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
        record = {
            "sha256": sha256,
            "seconds": round(seconds, 3),
            "inputs": dict(inputs),
            "files": _listing(folder),
        }
        records.write_atomic(mark, json.dumps(record, indent=1) + "\n")
        return Output(name, key, folder, sha256, seconds, reused=False)


def prune(root: Path, keep: set[str]) -> None:
    """Delete outputs whose "<step>/<key>" is not in `keep`."""
    for folder in root.glob("*/*"):
        if f"{folder.parent.name}/{folder.stem}" in keep:
            continue
        if folder.is_dir():
            folder.with_suffix(".json").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        elif not folder.with_suffix("").is_dir():
            folder.unlink(missing_ok=True)


def _listing(folder: Path) -> dict[str, Any]:
    """Size and time of change of every file: enough to see that nobody touched them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found
