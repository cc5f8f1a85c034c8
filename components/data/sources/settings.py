"""The [scan] settings: where the images are, and which files are too large to read."""

from __future__ import annotations

from dataclasses import dataclass

from pergola.components.records import setting

AUTO, CLASSES, SPLITS, CLASS_SPLITS = LAYOUTS = ("auto", "classes", "splits", "class-splits")


@dataclass(frozen=True)
class ScanSettings:
    """How images are read, and which are refused as unreadable."""

    workers: int = setting(0, "processes that read images; 0: one per core", low=0, high=1024)
    max_pixels: int = setting(
        100_000_000, "images with more pixels than this, or than 134,217,728, are not decoded", low=1
    )
    max_side: int = setting(30_000, "images wider or higher than this, in pixels, are not decoded", low=1)
    max_bytes: int = setting(250_000_000, "files larger than this, in bytes, are not read", low=1)
    max_archive_bytes: int = setting(
        20_000_000_000,
        "an archive may unpack to at most this many bytes, and must leave 1 GB of the disk free",
        low=1,
    )
    max_archive_files: int = setting(5_000_000, "an archive may hold at most this many files", low=1)
    relabel: str = setting("", "relabel.csv with a person's label corrections; empty: none", file=True)
    layout: str = setting(
        "auto",
        "what the outer folders are: auto, by their names and contents; classes; splits, with the classes in "
        "them; class-splits, classes with the splits in them",
        choices=LAYOUTS,
    )
    classes_at: int = setting(
        0, "level of the class folders, from 1, below folders of a split; 0: the first", low=0, high=20
    )
    path_column: str = setting("", "column of a list that names the file; empty: path, or a usual name")
    label_column: str = setting("", "column of a list that names the class; empty: label, or a usual name")
    zip_encoding: str = setting("", "encoding of names in a .zip that does not state it, such as cp932")
    also: str = setting("", "more images: a second folder or list, such as the one that `feedback` names")
