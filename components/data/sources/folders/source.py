"""Images in folders: one folder per class, also below folders of a split, or with those in them."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pergola.components.artifacts.data import Finding
from pergola.components.data.sources.folders import layout as layouts
from pergola.components.data.sources.folders import signatures
from pergola.components.data.sources.folders.tree import Folder, LeftOut, clean, images_below
from pergola.components.data.sources.labels import check_labels
from pergola.components.data.sources.settings import CLASS_SPLITS, SPLITS, ScanSettings
from pergola.components.data.sources.source import NO_CLASS, Entry, read_regular
from pergola.components.errors import InputError


@dataclass(frozen=True)
class FolderSource:
    """A folder whose subfolders are classes."""

    kind: str
    root: str
    scratch: Path
    layout: layouts.Layout
    num_classes: int
    findings: tuple[Finding, ...] = ()
    columns: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, folder: Path, scratch: Path, kind: str, shown_as: Path, tree: tuple[Folder, LeftOut],
        settings: ScanSettings,
    ) -> FolderSource | None:  # fmt: skip
        """The images of a folder whose tree this is; None when no image is in a class folder.

        shown_as: the path that the caller gave, for messages.
        Raises InputError when class names clash, and for a layout that was asked for and does not fit.
        """
        decided = layouts.decide(tree[0], settings.layout, settings.classes_at)
        if decided is None and settings.layout in (SPLITS, CLASS_SPLITS):
            where = "outer folder" if settings.layout == SPLITS else "folder in a class"
            raise InputError(
                f"scan.layout = {settings.layout}: no {where} of '{shown_as}' with images is named like a "
                "split, such as train or test. Rename them, or leave it out."
            )
        if decided is None:
            return None
        layout, findings = decided
        root = str(folder.joinpath(*layout.wrapper))
        labels = {_label(name) for name in _class_names(tree[0], layout)}
        if not labels:
            raise InputError(
                f"'{shown_as}' has no images at level {layout.classes_at}: lower scan.classes_at."
            )
        check_labels(labels, shown_as)
        return cls(kind, root, scratch, layout, len(labels), (*findings, *tree[1].findings()))

    def entries(self) -> Iterator[Entry]:
        """Every image that is not left out, in order of path; links are followed."""
        folder, place = "", self.layout.place("")
        for path, child in images_below(self.root):
            inside = path.rpartition("/")[0]
            if inside != folder:
                folder, place = inside, self.layout.place(path)
            if place.left_out is None:
                yield self._entry(path, child, place)

    def read(self, path: str) -> bytes:
        if os.path.isabs(path) or ".." in path.split("/"):
            raise PermissionError(f"'{path}' leads out of the data set.")
        return read_regular(Path(self.root, path))

    def _entry(self, path: str, child: os.DirEntry[str], place: layouts.Place) -> Entry:
        label = _label(place.label)
        reason = None if label else NO_CLASS
        try:
            info = child.stat()
        except OSError:
            return Entry(clean(path), label, place.split, (0, 0, 0), 0, "it is a link that leads nowhere")
        if not stat.S_ISREG(info.st_mode):
            reason = "it is not a regular file"
        elif clean(path) != path:
            reason = "its name is not UTF-8"
        else:
            reason = _unsupported(child.path) or reason
        stamp = (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        return Entry(clean(path), label, place.split, stamp, info.st_size, reason)


def no_classes(tree: Folder, shown_as: Path, lists: str) -> InputError:
    """The error for a folder in which no image has a class. lists: why the files beside them are no lists."""
    if not tree.total:
        return InputError(f"'{shown_as}' holds no images. {lists}".rstrip())
    _, root = layouts.unwrapped(tree)
    names = " and ".join(f"'{group.name}'" for group in root.with_images[:3])
    where = f"in {names}, which are named like splits, " if names else ""
    hint = " (--layout classes takes these folders as the classes)" if names else ""
    return InputError(
        f"'{shown_as}' holds {tree.total:,} images {where}but no class folders: put the images of each class "
        f"into a folder of its own{hint}, or give a .csv list of path,label. {lists}".rstrip()
    )


def _class_names(tree: Folder, layout: layouts.Layout) -> set[str]:
    for name in layout.wrapper:
        tree = next(folder for folder in tree.folders if folder.name == name)
    level = layout.class_parents(tree)
    for _ in range(layout.classes_at - 1):
        level = [child for folder in level for child in folder.with_images]
    return {child.name for folder in level for child in folder.with_images}


def _unsupported(path: str) -> str | None:
    try:
        return signatures.why_not(path)
    except OSError:
        return None  # it cannot be opened, which the scan reports


def _label(name: str) -> str:
    label = unicodedata.normalize("NFC", name)
    if clean(label) != label or any(unicodedata.category(c) == "Cc" for c in label):
        raise InputError(f"The class folder {name!r} has a name that cannot be displayed: rename it.")
    return label
