"""Images named in lists with a path and a label for each and, optionally, a split.

Further columns go into the manifest as texts, for results by slice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pergola.components import outside_text
from pergola.components.artifacts.data import INFO, TRAIN, WARNING, Finding
from pergola.components.data.sources.labels import check_labels
from pergola.components.data.sources.lists import columns as list_columns
from pergola.components.data.sources.lists import table as tables
from pergola.components.data.sources.lists.files import FilesByName
from pergola.components.data.sources.settings import ScanSettings
from pergola.components.data.sources.source import Entry, Stamp, read_regular
from pergola.components.data.sources.split_names import SPLIT_NAMES, exact_split
from pergola.components.errors import InputError
from pergola.components.formatting import count as counted

_OWN = ("path", "label", "split")

ListFile = tuple[Path, str | None]  # a list, and the split of all of its images


@dataclass(frozen=True)
class ListSource:
    """Lists. Their paths are relative to their own folders, or absolute; the manifest's to `root`."""

    root: Path
    lists: tuple[ListFile, ...]
    scratch: Path
    kind: str = "list"
    columns: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    path_column: str = ""
    label_column: str = ""
    by_name: bool = False  # files are found by their names below the folder of their list
    by_folder: bool = False  # the outermost folder of a path gives the split

    @classmethod
    def open(
        cls, lists: Sequence[ListFile], root: Path, scratch: Path, settings: ScanSettings,
        kind: str = "list", folders_give_split: bool = False,
    ) -> ListSource:  # fmt: skip
        """Raises InputError for missing columns, empty labels, unknown splits, duplicate or missing files.

        folders_give_split: where the lists give none, and the paths begin with train/, test/.
        """
        lists, root = tuple((file.absolute(), split) for file, split in lists), root.absolute()
        source = cls(
            root, lists, scratch, kind, path_column=settings.path_column, label_column=settings.label_column
        )
        table, findings = source._table()
        check_labels(table["label"].unique().to_pylist(), source._shown)
        missing = source._missing(table)
        if len(missing) > table.num_rows / 2:
            source = replace(source, by_name=True)
            table, findings = source._table()
            missing = source._missing(table)
        source._refuse_missing(missing, table.num_rows)
        found = _without_split(table)
        if found and folders_give_split:
            source = replace(source, by_folder=True)
            table, findings = source._table()
        elif found:
            findings = (*findings, found)
        return replace(source, columns=tuple(table.column_names[len(_OWN) :]), findings=findings)

    def entries(self) -> Iterator[Entry]:
        """Every row of the lists, in order of path."""
        for path, label, split, *extra in _rows(self._table()[0]):
            stamp = self._stamp(path)
            reason = None if stamp else self._why_not(path)
            yield Entry(
                path, label, split, stamp or (0, 0, 0), stamp[0] if stamp else 0, reason, tuple(extra)
            )

    def read(self, path: str) -> bytes:
        return read_regular(self.root / path)

    @property
    def _shown(self) -> Path:
        return self.lists[0][0] if len(self.lists) == 1 else self.root

    def _stamp(self, path: str) -> Stamp | None:
        """None for what is not a file: it is gone, a folder, a device, a pipe."""
        try:
            info = os.stat(self.root / path)
        except (OSError, ValueError):
            return None
        return (info.st_size, info.st_mtime_ns, info.st_ctime_ns) if stat.S_ISREG(info.st_mode) else None

    def _why_not(self, path: str) -> str:
        return "it is not a regular file" if self._exists(path) else "it is gone"

    def _exists(self, path: str) -> bool:
        try:
            return os.path.exists(self.root / path)
        except ValueError:
            return False

    def _missing(self, table: Any) -> list[str]:
        return [path for path, *_ in _rows(table) if not self._exists(path)]

    def _refuse_missing(self, missing: list[str], num_rows: int) -> None:
        if missing:
            raise InputError(
                f"'{self._shown}' names {len(missing)} of {num_rows} files that do not exist, the "
                f"first '{missing[0]}': paths are relative to the folder of the list."
            )

    def _table(self) -> tuple[Any, tuple[Finding, ...]]:
        """Columns path, label, split (null when there is none) and all others, ordered by path; findings."""
        import pyarrow as pa

        read = [self._one_table(*file) for file in self.lists]
        table = pa.concat_tables([table for table, _ in read], promote_options="default").sort_by("path")
        self._check_duplicates(table)
        return table, tuple(finding for _, findings in read for finding in findings)

    def _one_table(self, location: Path, split: str | None) -> tuple[Any, list[Finding]]:
        import pyarrow as pa

        texts = tables.read(location)
        raw = texts.table
        chosen = list_columns.choose(location, raw, self.path_column, self.label_column)
        if not raw.num_rows:
            raise InputError(f"'{location}' has no rows: expected one per image.")
        paths: Iterable[str] = _from_cells(raw.column(chosen.path))
        findings = [*texts.findings, *chosen.findings]
        if self.by_name:
            paths, found = self._found(location, list(paths))
            findings += found
        labels: Iterable[str] = (
            list_columns.one_hot_labels(location, raw, chosen)
            if chosen.label is None
            else _from_cells(raw.column(chosen.label))
        )
        own = {
            "path": pa.array(self._relative(location, paths), pa.string()),
            "label": pa.array(labels, pa.string()),
            "split": _splits(location, raw, chosen.split, split),
        }
        if self.by_folder:
            tops = (path.split("/")[0].casefold() for path in tables.each(own["path"]))
            own["split"] = pa.array((SPLIT_NAMES.get(top) for top in tops), pa.string())
        _check_filled(location, own["path"], own["label"])
        extra = {raw.column_names[place].casefold(): raw.column(place) for place in chosen.extra}
        return pa.table({**own, **extra}), findings

    def _found(self, location: Path, paths: list[str]) -> tuple[list[str], list[Finding]]:
        """The paths of the files that are meant, where the paths themselves lead nowhere."""
        folder = location.parent
        missing = [path for path in paths if not os.path.isabs(path) and not (folder / path).exists()]
        files = FilesByName.below(folder, location).find_all(missing)
        if not files:
            return paths, []
        first = next(iter(files))
        message = (
            f"'{location.name}' names {counted(len(files), 'file')} without folder or suffix, "
            f"such as '{first}', which was found as '{files[first]}'."
        )
        found = Finding("list_paths", INFO, len(files), (), message)
        return [files.get(path, path) for path in paths], [found]

    def _relative(self, location: Path, paths: Iterable[str]) -> Iterator[str]:
        """Relative to the root, with "/" between parts."""
        folder, root = str(location.parent), str(self.root)
        for path in paths:
            if folder != root or os.path.isabs(path):
                path = os.path.relpath(os.path.join(folder, path), root)
            yield os.path.normpath(path)

    def _check_duplicates(self, table: Any) -> None:
        import pyarrow.compute as pc

        path = table["path"].combine_chunks()
        duplicates = path[1:].filter(pc.equal(path[1:], path[:-1])) if len(path) > 1 else path[:0]
        if len(duplicates):
            raise InputError(
                f"'{self._shown}' names {counted(len(duplicates), 'file')} more than once, the first "
                f"'{duplicates[0]}': keep one row per file."
            )


def _without_split(table: Any) -> Finding | None:
    """A finding for images in folders that are named like splits, where the list gives no split."""
    if table["split"].null_count < table.num_rows:
        return None
    tops = sorted({path.split("/")[0] for path in tables.each(table["path"]) if "/" in path})
    splits = {exact_split(name) for name in tops}
    if TRAIN not in splits or len(splits - {None}) < 2:
        return None
    named = ", ".join(f"'{name}'" for name in tops if exact_split(name))
    message = (
        f"The images lie in folders that are named like splits, {named}, but the list has no column "
        "'split': they are split anew. To keep the split, add the column, or give the folder, not the list."
    )
    return Finding("list_split", WARNING, table.num_rows, (), message)


def _check_filled(location: Path, paths: Any, labels: Any) -> None:
    both = zip(tables.each(paths), tables.each(labels), strict=True)
    empty = [path for path, label in both if not label]
    if empty:
        raise InputError(
            f"'{location}' has {counted(len(empty), 'row')} without a label, the first for '{empty[0]}': "
            "add the labels, or remove the rows."
        )


def _splits(location: Path, raw: Any, column: int | None, split: str | None) -> Any:
    import pyarrow as pa

    if column is None:
        return pa.array([split] * raw.num_rows, pa.string())
    splits = raw.column(column)
    known = {**SPLIT_NAMES, "": split}
    for name in splits.unique().to_pylist():
        if name.casefold() not in known:
            raise InputError(
                f"'{location}' has the split '{name}': expected train, validation, test or nothing."
            )
    return pa.array((known[name.casefold()] for name in tables.each(splits)), pa.string())


def _from_cells(texts: Any) -> Iterator[str]:
    """Without the apostrophes that our lists have before what a spreadsheet would compute."""
    return (outside_text.from_cell(text) for text in tables.each(texts))


def _rows(table: Any) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(10_000):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
