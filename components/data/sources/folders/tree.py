"""What lies below a folder: its images, judged by their first bytes, and everything that is none, counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from pergola.components.artifacts.data import INFO, Finding
from pergola.components.data.sources.folders import signatures
from pergola.components.errors import InputError

HIDDEN = "hidden or made by a system"
NO_IMAGE = "no images"
LINK = "links that lead nowhere"
# What systems and tools leave beside images. Names that begin with a dot or "._" are hidden in any case.
SYSTEM_NAMES = frozenset(
    (
        "$recycle.bin", "@eadir", "#recycle", "#snapshot", "lost+found", "__macosx", "__pycache__",
        "system volume information", "recycler", "thumbs.db", "ehthumbs.db", "desktop.ini",
    )
)  # fmt: skip
_MAX_NAMED = 100
_MAX_SUFFIXES = 5

Child = tuple[str, os.DirEntry[str]]


@dataclass(frozen=True)
class Folder:
    """A folder: how many images lie directly in it, and its folders in order of name."""

    name: str
    num_images: int = 0
    folders: tuple[Folder, ...] = ()

    @cached_property
    def total(self) -> int:
        """Number of images at any depth."""
        return self.num_images + sum(folder.total for folder in self.folders)

    @cached_property
    def with_images(self) -> tuple[Folder, ...]:
        """The folders in it that have an image at any depth."""
        return tuple(folder for folder in self.folders if folder.total)


@dataclass
class LeftOut:
    """Files that are not used: how many for each reason, and the first of them."""

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)  # of files that are no images

    def add(self, reason: str, path: str, count: int = 1) -> None:
        """Count a file; or a folder that is not looked into, whose path ends in "/"."""
        self.counts[reason] += count
        named = self.named.setdefault(reason, [])
        if len(named) < _MAX_NAMED:
            named.append(clean(path))
        if reason == NO_IMAGE:
            self.suffixes[os.path.splitext(path)[1].lower() or "without a suffix"] += 1

    def discard(self, reason: str, path: str) -> None:
        """Take a file back that was counted."""
        self.counts[reason] -= 1
        self.suffixes[os.path.splitext(path)[1].lower()] -= 1
        if path in self.named.get(reason, ()):
            self.named[reason].remove(path)

    def findings(self) -> tuple[Finding, ...]:
        """One finding for each reason."""
        return tuple(
            Finding("left_out", INFO, count, tuple(self.named[reason]), self._message(reason, count))
            for reason, count in sorted(self.counts.items())
            if count
        )

    def _message(self, reason: str, count: int) -> str:
        names = ", ".join(f"'{name}'" for name in self.named[reason][:3])
        most = ", ".join(f"{n:,} {suffix}" for suffix, n in self.suffixes.most_common(_MAX_SUFFIXES) if n)
        kinds = f" ({most})" if reason == NO_IMAGE else ""
        what = "file is" if count == 1 else "files are"
        if any(name.endswith("/") for name in self.named[reason]):
            what = "file or folder is" if count == 1 else "files and folders are"
        return f"{count:,} {what} left out: {reason}{kinds}, such as {names}."


def read_tree(root: str) -> tuple[Folder, LeftOut]:
    """The tree below a folder, and what is left out of it. Raises InputError for a folder without access."""
    left_out = LeftOut()
    return _folder(root, "", frozenset(), left_out), left_out


def files_below(root: str) -> Iterator[Child]:
    """Every file below a folder with its path, in the order of paths as texts; links are followed."""
    return _files(root, "", frozenset())


def images_below(root: str) -> Iterator[Child]:
    """The images among the files below a folder."""
    return (found for found in files_below(root) if is_image(found[1]))


def visible_names(folder: str) -> list[str]:
    """Names of what lies in a folder, sorted; folder names end in "/". Without what systems leave behind."""
    return [name for name, _ in _children(folder)[0]]


def _folder(folder: str, prefix: str, above: frozenset[tuple[int, int]], left_out: LeftOut) -> Folder:
    inside = _identities(folder, above)
    children, skipped = _children(folder)
    for name in skipped:
        left_out.add(HIDDEN, prefix + name)
    num_images, folders = 0, []
    for name, child in children:
        if name.endswith("/"):
            if _identity(child.path) not in inside:
                folders.append(_folder(child.path, prefix + name, inside, left_out))
        elif is_image(child):
            num_images += 1
        else:
            left_out.add(NO_IMAGE if os.path.exists(child.path) else LINK, prefix + name)
    return Folder(os.path.basename(folder), num_images, tuple(sorted(folders, key=lambda found: found.name)))


def _files(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Child]:
    inside = _identities(folder, above)
    for name, child in _children(folder)[0]:
        if not name.endswith("/"):
            yield prefix + name, child
        elif _identity(child.path) not in inside:
            yield from _files(child.path, prefix + name, inside)


def _identities(folder: str, above: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """A folder and those above it, by which links that lead back are recognised."""
    return above | {_identity(folder)}


def _identity(folder: str) -> tuple[int, int]:
    info = os.stat(folder)
    return (info.st_dev, info.st_ino)


def _children(folder: str) -> tuple[list[Child], list[str]]:
    """What lies in a folder, and the names of what is skipped. Folder names end in "/".

    Sorting such names gives the order of paths.
    """
    try:
        with os.scandir(folder) as found:
            named = sorted(((c.name + "/" * _is_dir(c), c) for c in found), key=lambda child: child[0])
    except PermissionError:
        raise InputError(
            f"The folder '{folder}' cannot be read: permission denied. Allow it, or remove the folder."
        ) from None
    skipped = [name for name, child in named if _is_skipped(child.name)]
    return [(name, child) for name, child in named if not _is_skipped(child.name)], skipped


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def _is_dir(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # A link to itself.
        return False


def is_image(child: os.DirEntry[str]) -> bool:
    """Whether a file is an image: by its suffix, or else by its first bytes."""
    suffix = os.path.splitext(child.name)[1].lower()
    if suffix in signatures.READABLE_SUFFIXES or suffix in signatures.OTHER_SUFFIXES:
        return True
    try:
        return child.is_file() and signatures.kind_of(child.path) is not None
    except OSError:
        return False


def clean(path: str) -> str:
    """The path with bytes that are not UTF-8, which Python stores as surrogates, escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
