"""Artifacts of the data steps: manifest, validation report, split, shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pergola.components.artifacts.record import Record

if TYPE_CHECKING:
    import pandas as pd

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")

CRITICAL, WARNING, INFO = "critical", "warning", "info"


@dataclass(frozen=True)
class Manifest(Record):
    """The files of a data source. `table(folder)` reads the rows.

    Columns of manifest.parquet, one row per file, ordered by path:
      path          str     relative to the source, "/" between parts; "<file>#<n>" inside an array file
      label         str     class name
      given_split   str     "train", "validation", "test", or null when the data has none
      id            str     SHA-256 of the file's bytes, hex
      format        str     "JPEG", "PNG", …, null when unreadable
      mode          str     Pillow's mode: "RGB", "L", "P", "RGBA", "CMYK", "I;16", …
      width, height int32   pixels, after EXIF orientation; 0 when unreadable
      bytes         int64   size of the file
      orientation   int8    EXIF orientation, 1 to 8
      brightness    float32 mean of luma, 0 to 255
      contrast      float32 standard deviation of luma
      sharpness     float32 variance of the Laplacian of a thumbnail
      thumbnail     binary  8-bit luma thumbnail from which near-duplicates are found
      reason        str     why it is unreadable, null when it is readable
      list.<name>   str     an extra column of a list, for results by slice
    """

    FILE: ClassVar[str] = "manifest.json"

    kind: str  # "folder", "list", "idx", "cifar", "npz", "archive"
    num_rows: int
    num_unreadable: int
    labels: tuple[str, ...]  # sorted; their order is final in Shards
    fingerprint: str  # SHA-256 over the sorted (path, label, given_split, id)
    num_taken_out: int = 0  # files excluded by a person's corrections

    @staticmethod
    def table(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
        """The rows, or some of their columns."""
        import pandas as pd

        return pd.read_parquet(folder / "manifest.parquet", columns=columns)


@dataclass(frozen=True)
class Finding:
    """One thing that a check found in the data."""

    check: (
        str  # "unreadable", "exact_duplicate", "near_duplicate", "label_conflict", "imbalance", "too_few", …
    )
    severity: str  # "critical" stops the run, "warning" may quarantine, "info" informs
    count: int
    paths: tuple[str, ...]  # the first hundred
    message: str  # one sentence: what, how many, what to do
    notes: tuple[str, ...] = ()  # one per path, where there is something to say


@dataclass(frozen=True)
class SourceFindings(Record):
    """How the data were read, where that is not plain, and what was left out. No file if there is none."""

    FILE: ClassVar[str] = "source.json"

    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, folder: Path) -> SourceFindings:
        """Those beside a manifest; none where there is no file."""
        return cls.load(folder) if (folder / cls.FILE).is_file() else cls(())


@dataclass(frozen=True)
class ValidationReport(Record):
    """What the checks found, and which images they exclude."""

    FILE: ClassVar[str] = "validation.json"

    ok: bool  # no critical finding
    findings: tuple[Finding, ...]
    quarantined: Mapping[str, str]  # path -> name of the check that excludes it
    num_images: int
    counts: Mapping[str, int]  # images a label, after quarantine
    groups: Mapping[str, str] = field(default_factory=dict)  # id -> group id, for near-duplicates only


@dataclass(frozen=True)
class Split(Record):
    """The split of each image. Columns of split.parquet, one row per unique image:

    id str, path str (the first of equal files), label str, split str, group str

    earlier.parquet has `id` and `split` of images that earlier runs had; it is missing when there are none.
    """

    FILE: ClassVar[str] = "split.json"

    counts: Mapping[str, int]  # split -> images
    by_label: Mapping[str, Mapping[str, int]]  # split -> label -> images
    fingerprint: str  # SHA-256 over the sorted (id, label, split)
    # label -> split -> the hash below which a new group falls into it, see components/data/stratify.py
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @staticmethod
    def table(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
        """The rows, or some of their columns."""
        import pandas as pd

        return pd.read_parquet(folder / "split.parquet", columns=columns)


@dataclass(frozen=True)
class SplitShards:
    """One split of a data set, in TFRecord files."""

    files: tuple[str, ...]  # relative to the folder
    num_images: int
    by_label: Mapping[str, int]


@dataclass(frozen=True)
class Shards(Record):
    """The images in TFRecord files, and their index.

    A record is a tf.train.Example: "image" bytes (a file that TensorFlow decodes, upright, see
    serving/wire/images.py), "label" int64 (index in labels), "id" bytes (64 hex digits).
    """

    FILE: ClassVar[str] = "shards.json"

    labels: tuple[str, ...]  # the order of the model's outputs, fixed here, once
    splits: Mapping[str, SplitShards]
    channels: int  # 1 when every image is grey, else 3
    median_height: int
    median_width: int
    min_side: int
    max_side: int
    fingerprint: str  # SHA-256 over labels and the sorted (split, id, label)
    max_pixels: int = 0  # of the largest image; 0 in shards from before it was recorded
