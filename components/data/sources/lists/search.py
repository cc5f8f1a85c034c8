"""The lists of a folder whose images lie in no class folders: labels.csv, train.csv, metadata.jsonl, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pergola.components.artifacts.data import CRITICAL, WARNING, Finding
from pergola.components.data.sources.folders.source import FolderSource
from pergola.components.data.sources.folders.tree import (
    NO_IMAGE,
    Folder,
    LeftOut,
    clean,
    images_below,
    visible_names,
)
from pergola.components.data.sources.lists import exports, table
from pergola.components.data.sources.lists.columns import MissingColumnError, choose
from pergola.components.data.sources.lists.source import ListFile, ListSource
from pergola.components.data.sources.settings import ScanSettings
from pergola.components.data.sources.split_names import SPLIT_NAMES, split_in
from pergola.components.errors import InputError
from pergola.components.formatting import count as counted

_MANY = 20  # files of one suffix that are no lists, but say something about one image each
_MAY_DIFFER = 0.5  # share of the images: a list that differs for fewer holds corrections
_NOT_LABELS = ("submission",)  # sample_submission.csv of Kaggle has labels that are placeholders


def open_listed(
    root: Path, scratch: Path, kind: str, tree: tuple[Folder, LeftOut], settings: ScanSettings
) -> ListSource | str:
    """The images that lists in the folder, or in its folders, name; without any, why its files are none.

    Raises InputError where several lists could be meant, and for exports that are not read.
    """
    folder, here, refused = root, tree[0], list[str]()
    while True:
        search = _Search(folder, settings)
        lists = search.at_top() or search.in_splits(here)
        refused += search.refused
        if lists or here.num_images or len(here.with_images) != 1:
            break
        here = here.with_images[0]
        folder = folder / here.name
    if not lists:
        return " ".join(refused)
    kind = "archive" if kind == "archive" else "list"
    source = ListSource.open(lists, folder, scratch, settings, kind, folders_give_split=True)
    for file, _ in lists:
        tree[1].discard(NO_IMAGE, str(file.relative_to(root)))
    return replace(source, findings=(*source.findings, *_unnamed(source), *tree[1].findings()))


def contradictions(folder: FolderSource, settings: ScanSettings) -> tuple[Finding, ...]:
    """A finding for a list beside class folders that gives their images other labels.

    Without it the folders would silently win.
    """
    root = Path(folder.root)
    try:
        files = _Search(root, settings).usable(root)
    except InputError:  # an export that is not read, which the folders do not need
        return ()
    by_folder: dict[str, str] = {}
    for file in files:
        try:
            source = ListSource.open([(file, None)], root, folder.scratch, settings)
        except InputError:
            continue
        by_folder = by_folder or {entry.path: entry.label for entry in folder.entries()}
        by_list = {entry.path: entry.label for entry in source.entries() if entry.path in by_folder}
        other = [path for path, label in by_list.items() if by_folder[path] != label]
        if len(other) > _MAY_DIFFER * len(by_folder):
            message = (
                f"'{file.name}' has other labels than the folders for {counted(len(other), 'image')}, such "
                f"as '{other[0]}': {by_list[other[0]]!r} and {by_folder[other[0]]!r}. The folders "
                "were read. To use the list, name it instead of the folder; to keep the folders, "
                "--layout classes."
            )
            return (Finding("layout", CRITICAL, len(other), tuple(other[:100]), message),)
    return ()


@dataclass
class _Search:
    """Looks for lists, and remembers why files are none."""

    folder: Path
    settings: ScanSettings
    refused: list[str] = field(default_factory=list)

    def at_top(self) -> list[ListFile]:
        """The one list of the folder, or one for each split: train.csv, test.csv."""
        found = self.usable(self.folder)
        if len(found) < 2:
            return [(file, None) for file in found]
        named = [SPLIT_NAMES.get(_word(file.stem)) for file in found]
        if None in named or len(set(named)) < len(named):
            raise self._several(found)
        return list(zip(found, named, strict=True))

    def in_splits(self, tree: Folder) -> list[ListFile]:
        """One list in each folder of images: train/metadata.csv, valid/_classes.csv."""
        lists: list[ListFile] = []
        for group in tree.with_images:
            found = self.usable(self.folder / group.name)
            if len(found) > 1:
                raise self._several(found)
            lists += [(file, SPLIT_NAMES.get(_word(group.name))) for file in found]
        return lists

    def usable(self, folder: Path) -> list[Path]:
        """The lists in a folder that have a column for the file and one for the class."""
        names = [name for name in visible_names(str(folder)) if (folder / name).is_file()]
        few = [name for name in names if _count(names, Path(name).suffix) <= _MANY]
        for name in few:
            if name.lower().endswith(".xml"):
                exports.refuse_xml(folder / name)
        lists = [name for name in few if name.lower().endswith(table.SUFFIXES)]
        return [folder / name for name in lists if self._is_usable(folder / name)]

    def _is_usable(self, file: Path) -> bool:
        if any(word in file.name.casefold() for word in _NOT_LABELS):
            return False
        try:
            raw = table.read(file).table
            choose(file, raw, self.settings.path_column, self.settings.label_column)
        except (MissingColumnError, table.NotAListError) as error:
            self.refused.append(str(error))
            return False
        return bool(raw.num_rows)

    def _several(self, found: list[Path]) -> InputError:
        names = ", ".join(f"'{file.relative_to(self.folder)}'" for file in found)
        return InputError(f"'{self.folder}' holds several lists, {names}: give the one that is meant.")


def _word(name: str) -> str:
    return split_in(name)[0] or ""


def _count(names: Sequence[str], suffix: str) -> int:
    return sum(name.lower().endswith(suffix.lower()) for name in names)


def _unnamed(source: ListSource) -> list[Finding]:
    """Images below the folder that no list names."""
    named = {entry.path for entry in source.entries()}
    paths = [clean(path) for path, _ in images_below(str(source.root)) if path not in named]
    if not paths:
        return []
    lists = ", ".join(f"'{file.relative_to(source.root)}'" for file, _ in source.lists[:3])
    message = f"Left out: {counted(len(paths), 'image')} that {lists} does not name, such as '{paths[0]}'."
    return [Finding("left_out", WARNING, len(paths), tuple(paths[:100]), message)]
