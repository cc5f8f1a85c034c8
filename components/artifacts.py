"""What crosses from step to step. Every artifact is a folder; here is what lies in each.

Records are frozen, carry a schema version, and load strictly (see components/records.py). Tables
are Parquet. Nothing holds a clock reading or an absolute path, so that equal work gives equal
files, on a laptop and on a cluster alike.

    Manifest          manifest.json, manifest.parquet       one row a picture file
    ValidationReport  validation.json, index.html,          and what was looked for of label_errors.json,
                      pictures.json                         relabel.csv, outliers.json, shortcuts.json
    Split             split.json, split.parquet             one row a distinct picture
    Shards            shards.json, <part>-00000-of-00002.tfrecord
    Augmentation      augmentation.json, preview.png, extra shards if asked for
    Training          training.json, model.keras
    Export            export.json, saved_model/
    Evaluation        evaluation.json, predictions.parquet, golden.json, calibration.json; slices.json,
                      saliency.json; with costs: costs.json, cost_report.json
    Rehearsal         rehearsal.json
    Decision          decision.json; with costs and a champion: cost_report.json
    Registration      registration.json
    Publication       publication.json
    Confirmation      confirmation.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from components import records

if TYPE_CHECKING:
    import pandas as pd

TRAIN, VALIDATION, TEST = PARTS = ("train", "validation", "test")

CRITICAL, WARNING, INFO = "critical", "warning", "info"


class Record:
    """An artifact with one JSON file; `FILE` names it."""

    FILE: ClassVar[str]

    def save(self, folder: Path) -> None:
        """Write into `folder`, which is made when missing."""
        records.save_json(self, folder / self.FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read from `folder`. Raises InputError when it is missing or of another kind."""
        return records.load_json(cls, folder / cls.FILE)


@dataclass(frozen=True)
class Manifest(Record):
    """What was found in a data source. `table(folder)` reads the rows.

    Columns of manifest.parquet, a row a file, ordered by path:
      path          str     relative to the source, "/" between parts; "<file>#<n>" inside an array file
      label         str     class name
      given_split   str     "train", "validation", "test", or null when the data brings none
      id            str     SHA-256 of the file's bytes, hex
      format        str     "JPEG", "PNG", …, null when unreadable
      mode          str     Pillow's mode: "RGB", "L", "P", "RGBA", "CMYK", "I;16", …
      width, height int32   pixels, after EXIF orientation; 0 when unreadable
      bytes         int64   size of the file
      orientation   int8    EXIF orientation, 1 to 8
      brightness    float32 mean of luma, 0 to 255
      contrast      float32 standard deviation of luma
      sharpness     float32 variance of the Laplacian of a thumbnail
      phash         uint64  perceptual hash
      thumbnail     binary  8-bit luma thumbnail by which near-duplicates are confirmed
      reason        str     why it is unreadable, null when it is readable
      list.<name>   str     a further column of a list, for results by slice; only with such a list
    """

    FILE: ClassVar[str] = "manifest.json"

    kind: str  # "folder", "list", "idx", "cifar", "npz", "archive"
    num_rows: int
    num_unreadable: int
    labels: tuple[str, ...]  # sorted; their order is final in Shards
    fingerprint: str  # SHA-256 over the sorted (path, label, given_split, id)
    num_taken_out: int = 0  # files that a person's list of corrections takes out; that is their reason

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
    severity: str  # "critical" stops the run, "warning" may quarantine, "info" only tells
    count: int
    paths: tuple[str, ...]  # the first hundred
    message: str  # one sentence: what, how many, what to do
    notes: tuple[str, ...] = ()  # what is said of each of the paths, where there is something to say


@dataclass(frozen=True)
class ValidationReport(Record):
    """What the checks found, and which pictures stay out."""

    FILE: ClassVar[str] = "validation.json"

    ok: bool  # no critical finding
    findings: tuple[Finding, ...]
    quarantined: Mapping[str, str]  # path -> name of the check that keeps it out
    num_images: int
    counts: Mapping[str, int]  # images a label, after quarantine
    groups: Mapping[str, str] = field(default_factory=dict)  # id -> group id, for near-duplicates only


@dataclass(frozen=True)
class Split(Record):
    """Which picture is in which part. Columns of split.parquet, a row a distinct picture:

    id str, path str (the first of equal files), label str, part str, group str
    """

    FILE: ClassVar[str] = "split.json"

    counts: Mapping[str, int]  # part -> pictures
    by_label: Mapping[str, Mapping[str, int]]  # part -> label -> pictures
    fingerprint: str  # SHA-256 over the sorted (id, label, part)

    @staticmethod
    def table(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
        """The rows, or some of their columns."""
        import pandas as pd

        return pd.read_parquet(folder / "split.parquet", columns=columns)


@dataclass(frozen=True)
class Part:
    """One part of a data set, in TFRecord files."""

    files: tuple[str, ...]  # relative to the folder
    num_images: int
    by_label: Mapping[str, int]


@dataclass(frozen=True)
class Shards(Record):
    """The pictures in TFRecord files, and what training has to know of them.

    A record is a tf.train.Example: "image" bytes (a file that TensorFlow decodes, upright, see
    serving/images.py), "label" int64 (index in labels), "id" bytes (64 hex digits).
    """

    FILE: ClassVar[str] = "shards.json"

    labels: tuple[str, ...]  # the order of the model's outputs, fixed here, once
    parts: Mapping[str, Part]
    channels: int  # 1 when every picture is grey, else 3
    median_height: int
    median_width: int
    min_side: int
    max_side: int
    fingerprint: str  # SHA-256 over labels and the sorted (part, id, label)


@dataclass(frozen=True)
class Augmentation(Record):
    """How training pictures are varied. `extra` are expanded shards, when asked for."""

    FILE: ClassVar[str] = "augmentation.json"

    policy: Mapping[str, float]
    extra: Part | None = None
    why: str = ""  # why pictures are mirrored, or are not, in one sentence


@dataclass(frozen=True)
class Training(Record):
    """A trained network, as `model.keras` beside this record (no optimiser state)."""

    FILE: ClassVar[str] = "training.json"

    architecture: str
    why: str  # why this architecture, in one sentence
    labels: tuple[str, ...]
    height: int  # of the network's input, pixels
    width: int
    channels: int
    num_parameters: int
    epochs: int  # trained
    best_epoch: int  # 1-based, whose weights these are
    history: tuple[Mapping[str, float], ...]  # one an epoch: loss, accuracy, val_loss, val_accuracy, …
    precision: str  # "float32", "mixed_bfloat16"
    seed: int
    aspect: str = "stretch"  # what becomes of other aspects, see components/data/images.py


@dataclass(frozen=True)
class Export(Record):
    """A SavedModel in saved_model/ with the signatures of serving/contract.py."""

    FILE: ClassVar[str] = "export.json"

    labels: tuple[str, ...]
    height: int
    width: int
    channels: int
    num_bytes: int
    sha256: str  # of the folder, see components/digest.py
    weights_sha256: str = ""  # of its variables alone; empty in versions from before it was noted


@dataclass(frozen=True)
class ClassScore:
    """How one class did on a part."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # pictures of this class
    precision_interval: tuple[float, float] | None = None  # 95%, Wilson; None without pictures
    recall_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Paired:
    """Another accuracy beside the model's own, on the same pictures of the test part (or a sample of it)."""

    name: str
    num_images: int
    accuracy: float  # of the other
    difference: float  # -1 to 1; of what to what, see Evaluation
    interval: tuple[float, float]  # 95%, of the difference
    p_value: float  # exact McNemar test, two-sided


@dataclass(frozen=True)
class Evaluation(Record):
    """What a SavedModel scored on the test part. predictions.parquet has a row a picture:

    id str, path str, label str, predicted str, probability float32, probabilities list<float32>
    """

    FILE: ClassVar[str] = "evaluation.json"

    labels: tuple[str, ...]
    num_images: int
    accuracy: float
    macro_f1: float
    top_k: Mapping[str, float]  # "3" -> share of pictures whose class is among the 3 likeliest
    log_loss: float
    train_accuracy: float | None  # on the training part, or a seeded sample of it
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted]
    num_train: int = 0  # pictures behind train_accuracy
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # figure -> 95% interval
    calibration_error: float | None = None  # expected calibration error, 0 to 1
    baselines: tuple[Paired, ...] = ()  # what needs no network; difference: model - baseline
    robustness: tuple[Paired, ...] = ()  # pictures changed mildly; difference: changed - as they are


@dataclass(frozen=True)
class GoldenRequest:
    """A picture and the answer that the model gave to it when it was evaluated."""

    image: str  # base64 of the encoded picture
    probabilities: tuple[float, ...]
    label: str


@dataclass(frozen=True)
class GoldenRequests(Record):
    """A few pictures of the test part by which a server proves that it serves this model."""

    FILE: ClassVar[str] = "golden.json"

    labels: tuple[str, ...]
    requests: tuple[GoldenRequest, ...]


@dataclass(frozen=True)
class Rehearsal(Record):
    """What a real server in a process of its own answered before anyone depends on it."""

    FILE: ClassVar[str] = "rehearsal.json"

    ok: bool
    reason: str  # empty when ok
    num_requests: int
    max_difference: float  # largest |served - golden| probability
    latency_ms: float | None = None  # 95th percentile of requests with one picture; varies from run to run
    latency_interval_ms: tuple[float, float] | None = None  # 95%, of it
    num_timed: int = 0  # requests behind it
    num_bytes: int | None = None  # of the SavedModel


@dataclass(frozen=True)
class Rule:
    """One rule of the gate, decided."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    message: str  # one sentence with value and limit
    interval: tuple[float, float] | None = None  # 95%, of the value
    unit: str = "share"  # of value, interval and limit: "share", "probability", "ms", "MB", "cost"
    sure: bool = True  # False: it passed because too few pictures are there to show a fault


@dataclass(frozen=True)
class Decision(Record):
    """Whether a model may ship, and why."""

    FILE: ClassVar[str] = "decision.json"

    accepted: bool
    rules: tuple[Rule, ...]
    reasons: tuple[str, ...]  # messages of the rules that failed; empty when accepted
    champion: int | None  # the version it was compared with


@dataclass(frozen=True)
class Registration(Record):
    """A model version in the registry. Its number is *the one number* everywhere."""

    FILE: ClassVar[str] = "registration.json"

    model: str
    version: int
    mlflow_run: str
    sha256: str  # of the SavedModel


@dataclass(frozen=True)
class Publication(Record):
    """A version in the folder that servers watch: <base>/<model>/<version>/."""

    FILE: ClassVar[str] = "publication.json"

    model: str
    version: int
    sha256: str


@dataclass(frozen=True)
class Confirmation(Record):
    """A published version is served, gives the golden answers, and is the champion now."""

    FILE: ClassVar[str] = "confirmation.json"

    model: str
    version: int
    previous: int | None  # the champion before
    max_difference: float
