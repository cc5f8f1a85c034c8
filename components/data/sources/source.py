"""Data sources: one interface over folders, lists, array files and archives.

    source = open_source(Path("DATASET"), ScanSettings(), scratch)
    for entry in source.entries():          # in order of path, one at a time
        data = source.read(entry.path)      # an image file's bytes; works in any process

Images in arrays (IDX, CIFAR batches, .npz) are read as Netpbm files: a short header and the pixels.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pergola.components.artifacts.data import Finding
from pergola.components.data.sources.settings import AUTO, ScanSettings
from pergola.components.errors import InputError

NO_CLASS = "it is not in a class folder"  # the reason of an image without a label

Stamp = tuple[int, int, int]  # size, mtime_ns, ctime_ns: equal stamps mean equal bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """An image file of a source, not yet read."""

    path: str
    label: str
    given_split: str | None
    stamp: Stamp
    num_bytes: int  # size of the image file
    reason: str | None = None  # why it cannot be read, if that is known already
    extra: tuple[str | None, ...] = ()  # values of Source.columns


class Source(Protocol):
    """A data set. It can be pickled, so that several processes can read it."""

    @property
    def kind(self) -> str: ...  # "folder", "list", "idx", "cifar", "npz", "archive"

    @property
    def scratch(self) -> Path: ...  # a folder for the scan cache and unpacked archives

    @property
    def columns(self) -> tuple[str, ...]: ...  # names of a list's extra columns

    @property
    def findings(self) -> tuple[Finding, ...]: ...  # how the data were read, and what was left out

    def entries(self) -> Iterator[Entry]:
        """Every image, in order of path. Raises InputError when there are none."""
        ...

    def read(self, path: str) -> bytes:
        """An image file's bytes. Raises OSError when it cannot be read."""
        ...


def open_source(location: Path, settings: ScanSettings, scratch: Path) -> Source:
    """The data set at `location`, of any kind, together with the one that settings.also names.

    location: a folder of images (one folder per class, also below or above folders of a split; or with a
    list), of IDX files or of CIFAR batches; a list (.csv, .tsv, .parquet, .json, .jsonl); an .npz; a .tar,
    .tar.gz, .tar.xz, .tar.bz2 or .zip of such a folder.  scratch: a folder that is kept from run to run, into
    which archives are unpacked.
    Raises InputError for a location that is missing, empty, damaged or of an unknown kind.
    """
    if settings.also:
        from pergola.components.data.sources.concatenated import ConcatenatedSource

        alone, also = dataclasses.replace(settings, also=""), Path(settings.also).expanduser().absolute()
        return ConcatenatedSource.of(
            open_source(location, alone, scratch), open_source(also, alone, scratch / "also"), location
        )
    return _open(location, settings, scratch)


def _open(location: Path, settings: ScanSettings, scratch: Path) -> Source:
    from pergola.components.data.sources import archives, arrays
    from pergola.components.data.sources.folders import signatures
    from pergola.components.data.sources.lists import embedded, exports, source, table

    if location.is_dir():
        return _open_folder(location, scratch, settings)
    if not location.exists():
        raise InputError(f"There are no images at '{location}': no such file or folder. Check the path.")
    suffix = location.suffix.lower()
    if suffix == ".parquet" and embedded.image_column(location):
        return embedded.open_embedded([location], scratch, settings)
    if suffix in table.SUFFIXES:
        return source.ListSource.open([(location, None)], location.parent, scratch, settings)
    if suffix == ".xml":
        exports.refuse_xml(location)
    if suffix == ".npz":
        return arrays.open_npz(location, scratch, max_bytes=settings.max_archive_bytes)
    if arrays.is_idx(location.name):
        return arrays.open_idx(location, scratch)
    if archives.is_archive(location.name):
        unpacked = archives.unpack(location, scratch, settings)
        return _open_folder(unpacked, scratch, settings, kind="archive", shown_as=location)
    raise InputError(
        f"'{location}' is not a known kind of data set: expected a folder of images, a .csv, .parquet or "
        ".json list, IDX files (*-ubyte.gz), CIFAR batches, an .npz, or a .tar, .tar.gz, .tar.xz or .zip of "
        "a folder."
        + (
            " To classify a single image, use `pergola predict`."
            if suffix in signatures.READABLE_SUFFIXES
            else ""
        )
    )


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises OSError for anything else, such as a pipe, which would be waited for."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return file.read()


def stamp(source: Source) -> str:
    """SHA-256 over every path, label, split, size and time; when it is equal, no file needs a new scan."""
    digest = hashlib.sha256(source.kind.encode())
    for entry in source.entries():
        digest.update(f"{entry}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()


def _open_folder(
    folder: Path, scratch: Path, settings: ScanSettings, kind: str = "folder", shown_as: Path | None = None
) -> Source:
    from pergola.components.data.sources import arrays
    from pergola.components.data.sources.folders.source import FolderSource, no_classes
    from pergola.components.data.sources.folders.tree import read_tree, visible_names
    from pergola.components.data.sources.lists import embedded, search

    names = visible_names(str(folder))
    if arrays.is_cifar(names):
        return arrays.open_cifar(folder, scratch)
    if len(names) == 1 and names[0].endswith("/"):
        inner = visible_names(str(folder / names[0]))
        if arrays.is_cifar(inner) or any(map(arrays.is_idx, inner)):
            return _open_folder(folder / names[0], scratch, settings, kind, shown_as)
    if any(map(arrays.is_idx, names)):
        return arrays.open_idx(folder, scratch)
    tree, shown_as = read_tree(str(folder)), shown_as or folder
    source = FolderSource.open(folder, scratch, kind, shown_as, tree, settings)
    if source is not None and source.num_classes > 1:
        doubts = search.contradictions(source, settings) if settings.layout == AUTO else ()
        return dataclasses.replace(source, findings=(*source.findings, *doubts))
    if not tree[0].total and (files := embedded.parquet_files(folder)):
        return embedded.open_embedded(files, scratch, settings)
    listed = search.open_listed(folder, scratch, kind, tree, settings)
    if not isinstance(listed, str):
        return listed
    if source is None:
        raise no_classes(tree[0], shown_as, listed)
    return source
