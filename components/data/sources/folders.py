"""Images in folders: one folder per class, also below train/, test/ and val/."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pergola.components.artifacts.data import TRAIN
from pergola.components.data.sources.source import SPLIT_NAMES, Entry, check_labels, read_regular
from pergola.components.errors import InputError

IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2",
)  # fmt: skip
# Images of formats that are not supported: each becomes a row with that reason.
UNREADABLE_IMAGES = (
    ".heic", ".heif", ".jxl", ".psd", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raw", ".ico", ".tga",
)  # fmt: skip
NO_CLASS = "it is not in a class folder"
IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM")

Child = tuple[str, os.DirEntry[str]]


@dataclass(frozen=True)
class FolderSource:
    """A folder whose subfolders are classes."""

    kind: str
    root: str
    scratch: Path
    shown_as: Path  # the path that the caller gave, for messages
    has_splits: bool
    columns: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, scratch: Path, kind: str, shown_as: Path) -> FolderSource:
        """Raises InputError when there are no images in class folders, or when class names clash."""
        root = _unwrap(str(folder))
        groups = _with_images(root)
        if not groups:
            loose = next((e for _, e in _children(root) if _is_image(e)), None)
            raise InputError(
                f"'{shown_as}' holds no images."
                if loose is None
                else f"'{shown_as}' holds images such as '{loose.name}' but no class folders: put the "
                "images of each class into a folder of its own, or give a .csv list of path,label."
            )
        source = cls(kind, root, scratch, shown_as, _has_splits(groups, shown_as))
        check_labels(source._labels(groups), shown_as)
        return source

    def entries(self) -> Iterator[Entry]:
        """Every image, in order of path; links are followed."""
        for path, child in _files_below(self.root, "", frozenset()):
            if _is_image(child):
                yield self._entry(path, child)

    def read(self, path: str) -> bytes:
        if os.path.isabs(path) or ".." in path.split("/"):
            raise PermissionError(f"'{path}' leads out of the data set.")
        return read_regular(Path(self.root, path))

    def _entry(self, path: str, child: os.DirEntry[str]) -> Entry:
        label, given_split = self._belongs(path)
        reason = None if label else NO_CLASS
        try:
            info = child.stat()
        except OSError:
            return Entry(_clean(path), label, given_split, (0, 0, 0), 0, "it is a link that leads nowhere")
        if not stat.S_ISREG(info.st_mode):
            reason = "it is not a regular file"
        if _clean(path) != path:
            reason = "its name is not UTF-8"
        suffix = os.path.splitext(path)[1].lower()
        if suffix in UNREADABLE_IMAGES:
            reason = f"{suffix} files are not read: convert it to JPEG or PNG"
        stamp = (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        return Entry(_clean(path), label, given_split, stamp, info.st_size, reason)

    def _belongs(self, path: str) -> tuple[str, str | None]:
        parts = path.split("/")
        given_split = SPLIT_NAMES[parts.pop(0).casefold()] if self.has_splits and len(parts) > 1 else None
        return (_label(parts[0]) if len(parts) > 1 else ""), given_split

    def _labels(self, groups: list[str]) -> set[str]:
        if not self.has_splits:
            return {_label(name) for name in groups}
        return {_label(name) for group in groups for name in _with_images(os.path.join(self.root, group))}


def visible_names(folder: Path) -> list[str]:
    """Names in a folder, sorted, without hidden ones and what Mac and Windows leave behind."""
    return [child.name for _, child in _children(str(folder))]


def _files_below(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Child]:
    """Files below `folder` in the order of their paths as texts. above: its parents, to detect link loops."""
    info = os.stat(folder)
    here = (info.st_dev, info.st_ino)
    if here in above:
        return
    for name, child in _children(folder):
        if name.endswith("/"):
            yield from _files_below(child.path, prefix + name, above | {here})
        else:
            yield prefix + name, child


def _children(folder: str) -> list[Child]:
    """The contents of a folder. Folder names end in "/", so that sorting them gives the order of paths."""
    try:
        with os.scandir(folder) as found:
            visible = [c for c in found if not c.name.startswith(".") and c.name != "__MACOSX"]
    except PermissionError:
        raise InputError(
            f"The folder '{folder}' cannot be read: permission denied. Allow it, or remove the folder."
        ) from None
    return sorted(((c.name + "/" * _is_dir(c), c) for c in visible), key=lambda named: named[0])


def _is_dir(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # A link to itself.
        return False


def _is_image(child: os.DirEntry[str]) -> bool:
    """Whether a file is an image, by its suffix, or by its first bytes if it has none."""
    suffix = os.path.splitext(child.name)[1].lower()
    if suffix in IMAGES or suffix in UNREADABLE_IMAGES:
        return True
    if suffix:
        return False
    try:
        if not child.is_file():
            return False
        with open(child.path, "rb") as file:
            return file.read(6).startswith(IMAGE_SIGNATURES)
    except OSError:
        return False


def _with_images(folder: str) -> list[str]:
    """Names of the folders in `folder` that contain an image at any depth."""
    found = []
    for name, child in _children(folder):
        if name.endswith("/") and any(_is_image(c) for _, c in _files_below(child.path, "", frozenset())):
            found.append(child.name)
    return found


def _unwrap(root: str) -> str:
    """The folder of the class folders, where the data set is wrapped in a single outer folder."""
    children = _children(root)
    if len(children) == 1 and children[0][0].endswith("/"):
        inner = children[0][1]
        if SPLIT_NAMES.get(inner.name.casefold()) != TRAIN and _with_images(inner.path):
            return _unwrap(inner.path)
    return root


def _has_splits(groups: list[str], shown_as: Path) -> bool:
    splits = [SPLIT_NAMES.get(name.casefold()) for name in groups]
    others = [name for name, split in zip(groups, splits, strict=True) if split is None]
    if TRAIN in splits and others and len(others) < len(groups) - 1:
        raise InputError(
            f"'{shown_as}' holds '{others[0]}' beside folders for train and test: move it away, or into one "
            "of them."
        )
    return TRAIN in splits and not others


def _label(name: str) -> str:
    label = unicodedata.normalize("NFC", name)
    if _clean(label) != label or any(unicodedata.category(c) == "Cc" for c in label):
        raise InputError(f"The class folder {name!r} has a name that cannot be displayed: rename it.")
    return label


def _clean(path: str) -> str:
    """The path with bytes that are not UTF-8, which Python stores as surrogates, escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
