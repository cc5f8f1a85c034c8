"""What becomes of a workspace that an older pergola made. See docs/upgrading.md.

Layout 1 is that of 0.1.0, layout 2 today's. What a person or a server depends on is kept: published models,
the registry, provenance, feedback, drift checks, records of runs. Steps are done again, since their code is
another.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pergola.components import digest, records

BACKUP = "backup-of-layout-{layout}"


def upgrade(root: Path, layout: int) -> None:
    """Bring a workspace to the layout of this version, one layout after the other.

    Each file is copied to backup-of-layout-N before it is changed. Can be repeated: what a kill left half
    done is done again from the backup's state.
    """
    while step := UPGRADES.get(layout):
        step(root, root / BACKUP.format(layout=layout))
        layout += 1
        records.write_atomic(root / "pergola.json", json.dumps({"layout": layout}) + "\n")


def _from_1(root: Path, backup: Path) -> None:
    """Files and columns got today's names; the last split of a model is kept in state/."""
    for old in sorted(root.glob("versions/*/*/pictures.parquet")):
        _keep(old, root, backup)
        _rename_columns(old, old.with_name("images.parquet"))
        old.unlink()
    for old in sorted(root.glob("versions/*/*/split.parquet")):
        _keep(old, root, backup)
        _rename_columns(old, old)
    for old in sorted(root.glob("drift/*/*/looks.json")):
        _keep(old, root, backup)
        history = {"schema": "DriftHistory/1", "checks": _read(old).get("looks", [])}
        records.write_atomic(old.with_name("checks.json"), json.dumps(history, indent=1) + "\n")
        old.unlink()
    for folder in sorted(root.glob("feedback/*")):
        _rename_images(folder, root, backup)
    for name, key, split in _last_splits(root):
        target = root / "state" / name / f"split-{key}"
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(split, partial)
            _rename_columns(partial / "split.parquet", partial / "split.parquet")
            partial.replace(target)
    if (root / "pergola.json").is_file():
        _keep(root / "pergola.json", root, backup)


def _rename_columns(table: Path, target: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(table)
    names = [{"part": "split", "kept_out": "excluded"}.get(name, name) for name in rows.column_names]
    partial = target.with_name(f".{target.name}.partial")
    renamed = rows.rename_columns(names).replace_schema_metadata(rows.schema.metadata)
    pq.write_table(renamed, partial)
    partial.replace(target)


def _rename_images(folder: Path, root: Path, backup: Path) -> None:
    labels, images = folder / "labels.csv", folder / "images"
    if (folder / "pictures").is_dir() and not images.exists():
        (folder / "pictures").replace(images)
    if labels.is_file():
        text = labels.read_text(encoding="utf-8")
        changed = "".join(_moved(line) for line in text.splitlines(keepends=True))
        if changed != text:
            _keep(labels, root, backup)
            records.write_atomic(labels, changed)


def _moved(line: str) -> str:
    """A row of the list, with the folder's new name."""
    for start in ("pictures/", '"pictures/'):
        if line.startswith(start):
            return start.replace("pictures", "images") + line[len(start) :]
    return line


def _last_splits(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Of each model and each setting of the split, that of the last run: name, key, folder."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(root.glob("runs/*/run.json")):
        record = _read(file)
        if record.get("like"):
            continue
        model = (record.get("result") or {}).get("model")
        key = record.get("steps", {}).get("split", {}).get("key")
        settings = record.get("settings", {}).get("split")
        folder = root / "steps" / "split" / str(key)
        if model and settings and (folder / "split.json").is_file():
            found[model, digest.of_data(settings)[:20]] = folder
    for (model, key), folder in found.items():
        yield model, key, folder


def _keep(file: Path, root: Path, backup: Path) -> None:
    """A copy of a file as it was, the first time only."""
    copy = backup / file.relative_to(root)
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        records.write_atomic(copy, file.read_bytes())


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


UPGRADES: dict[int, Callable[[Path, Path], None]] = {1: _from_1}
