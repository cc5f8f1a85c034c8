"""Small artifacts made by hand, as the steps before a release leave them. No TensorFlow."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from pergola.components import digest
from pergola.components.artifacts.data import Manifest, Split, ValidationReport
from pergola.components.artifacts.decision import ACCEPTED, Decision, Rule
from pergola.components.artifacts.evaluation import ClassScore, Evaluation
from pergola.components.artifacts.release import Confirmation
from pergola.components.artifacts.training import Export, Training
from pergola.components.evaluation.calibration import Calibration

LABELS = ("a", "b")


def id_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def manifest(folder: Path, count: int = 40) -> Path:
    """Of `count` readable images, every second one of class "b"."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [id_of(number) for number in range(count)]
    labels = [LABELS[number % 2] for number in range(count)]
    paths = [f"{label}/{number:03}.png" for number, label in enumerate(labels)]
    rows = {"path": paths, "label": labels, "given_split": None, "id": ids, "reason": None}
    pd.DataFrame(rows).sort_values("path").to_parquet(folder / "manifest.parquet")
    Manifest("folder", count, 0, LABELS, digest.of_data(rows)).save(folder)
    return folder


def validation(folder: Path) -> Path:
    """Nothing was found."""
    ValidationReport(True, (), {}, 40, {"a": 20, "b": 20}).save(folder)
    return folder


def split(folder: Path, count: int = 40) -> Path:
    """Every fifth image is for testing, the one after it for validation."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = Manifest.table(manifest(folder.parent / f"{folder.name}-manifest", count), ["id", "path", "label"])
    rows["split"] = ["test" if n % 5 == 0 else "validation" if n % 5 == 1 else "train" for n in range(count)]
    rows["group"] = rows["id"]
    rows.to_parquet(folder / "split.parquet")
    Split(rows["split"].value_counts().to_dict(), {}, digest.of_data(rows.to_dict())).save(folder)
    return folder


def training(folder: Path) -> Path:
    """Two epochs."""
    history = ({"loss": 0.9, "accuracy": 0.6}, {"loss": 0.5, "accuracy": 0.8})
    Training("tiny", "Few images.", LABELS, 8, 8, 1, 99, 2, 2, history, "float32", 0).save(folder)
    return folder


def export(folder: Path, weights: bytes = b"weights") -> Path:
    """A folder that looks as a SavedModel does; other weights make another model."""
    saved_model = folder / "saved_model"
    (saved_model / "variables").mkdir(parents=True)
    (saved_model / "saved_model.pb").write_bytes(b"graph")
    (saved_model / "variables" / "variables.index").write_bytes(weights)
    Export(LABELS, 8, 8, 1, 100, digest.of_folder(saved_model)).save(folder)
    return folder


def evaluation(folder: Path, accuracy: float = 0.9) -> Path:
    """Ten test images."""
    scores = tuple(ClassScore(label, accuracy, accuracy, accuracy, 5) for label in LABELS)
    Evaluation(LABELS, 10, accuracy, accuracy, {}, 0.4, 0.9, scores, ((4, 1), (0, 5))).save(folder)
    Calibration(10, 0.1, 0.1, 0.1, 0.5, 0.0, 0.4, 0.2, ()).save(folder)
    return folder


def decision(folder: Path, *, accepted: bool = True, champion: int | None = None, latency: float = 5.0,
             accuracy: str = "Accuracy is 90%.", outcome: str = "") -> Path:  # fmt: skip
    """Two rules: on the accuracy and on the latency."""
    accepted = outcome == ACCEPTED if outcome else accepted
    rules = (
        Rule("accuracy", 0.9, 0.8, accepted, accuracy),
        Rule("latency", latency, 50.0, True, f"95% of the answers came within {latency} ms.", unit="ms"),
    )
    Decision(accepted, rules, () if accepted else (accuracy,), champion, outcome).save(folder)
    return folder


def report(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text("<html></html>")
    return folder


def to_register(root: Path, *, weights: bytes = b"weights", **decided: object) -> dict[str, Path]:
    """All that the step `register` takes, by name."""
    return {
        "manifest": manifest(root / "manifest"),
        "validation": validation(root / "validation"),
        "split": split(root / "split"),
        "training": training(root / "training"),
        "export": export(root / "export", weights),
        "evaluation": evaluation(root / "evaluation"),
        "decision": decision(root / "decision", **decided),
        "report": report(root / "report"),
        "reference": reference(root / "reference"),
    }


def reference(folder: Path) -> Path:
    """A folder that looks as a drift reference does."""
    folder.mkdir(parents=True)
    (folder / "reference.json").write_text("{}")
    return folder


def confirmation(folder: Path, model: str, version: int) -> Path:
    Confirmation(model, version, None, 0.0).save(folder)
    return folder
