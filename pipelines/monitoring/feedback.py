"""`pergola feedback`: true labels for logged requests, live accuracy, and images for the next data set.

<workspace>/feedback/<model>/
  feedback.json      every labelled image, with the prediction of each version
  labels.csv         path,label: a data set of its own, for scan.also
  images/<id>.png    as the server received them
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components import records
from pergola.components.disk import explained
from pergola.components.errors import InputError
from pergola.components.evaluation.drift import request_log
from pergola.components.evaluation.drift.feedback import (
    Feedback,
    LiveAccuracy,
    answered,
    image_id,
    live_accuracy,
    merge,
)
from pergola.components.evaluation.drift.feedback_list import read_labels, write_list
from pergola.components.evaluation.drift.reference import DriftReference
from pergola.components.workspace import Workspace
from pergola.pipelines.release.resolve import model_names, only_model

LIST, IMAGES = "labels.csv", "images"
_SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


@dataclass(frozen=True)
class FeedbackResult:
    """Labelled requests of a model, and live accuracy."""

    model: str
    taken: int  # images with a new label
    known: int  # images of the list that already had this label
    unmatched: tuple[str, ...]  # images of the list that match no logged request
    num_images: int  # labelled in total
    versions: tuple[LiveAccuracy, ...]
    tested: dict[int, float] = field(default_factory=dict)  # version -> accuracy on its test split
    data_set: str = ""  # the labelled images as a list

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return records.to_dict(self)

    def summary(self) -> str:
        """One line per version, and one per class of the newest."""
        lines = [f"{self.model}: {self.num_images:,} labelled images."]
        if self.taken or self.known or self.unmatched:
            lines[0] += f" {self.taken:,} labels are new, {self.known:,} were known."
        if self.unmatched:
            lines.append(
                f"  {len(self.unmatched):,} images of the list match no logged request; the first is "
                f"{self.unmatched[0]}."
            )
        for one in self.versions:
            tested = (
                f"; {self.tested[one.version]:.1%} on its test split" if one.version in self.tested else ""
            )
            live = _share(one.accuracy, one.interval, one.num_images)
            lines.append(f"  version {one.version}: accuracy {live}{tested}")
        for row in self.versions[0].classes if self.versions else ():
            lines.append(f"    {row.label}: recall {_share(row.recall, row.interval, row.num_images)}")
        if self.num_images:
            lines.append(f"To train with them: pergola run DATASET --set scan.also={self.data_set}")
        else:
            lines.append("To label some: pergola feedback --sample FOLDER")
        return "\n".join(lines)


@dataclass(frozen=True)
class FeedbackStore:
    """Feedback on a model in the workspace, and the request log that it belongs to."""

    workspace: Workspace
    model: str
    log: str

    @classmethod
    def of(cls, workspace: Workspace, model: str | None, log: str | None) -> FeedbackStore:
        """Raises InputError if there is no such model."""
        name = model or only_model(workspace)
        if name not in model_names(workspace):
            known = records.nearest(name, model_names(workspace))
            raise InputError(f"There is no model '{name}' in {workspace.root}.{known}")
        return cls(workspace, name, log or workspace.request_log(name))

    @property
    def folder(self) -> Path:
        """The folder with the feedback."""
        return self.workspace.feedback(self.model)

    def feedback(self) -> Feedback:
        """The stored feedback; empty if there is none."""
        known = (self.folder / Feedback.FILE).is_file()
        return Feedback.load(self.folder) if known else Feedback()

    def labels_of(self, version: int) -> Sequence[str] | None:
        """Class names of a version, in the order of its outputs."""
        record = self._reference(version)
        return record.labels if record else None

    def tested(self, versions: Collection[int]) -> dict[int, float]:
        """Accuracy on the test split of each version for which it is known."""
        found = {}
        for version in versions:
            if record := self._reference(version):
                confusion = np.array(record.confusion)
                found[version] = float(np.trace(confusion) / confusion.sum())
        return found

    def _reference(self, version: int) -> DriftReference | None:
        from pergola.components.store.publish import notes_of

        folder = notes_of(self.workspace.models / self.model / str(version))
        return DriftReference.load(folder) if (folder / DriftReference.FILE).is_file() else None


def feedback(store: FeedbackStore) -> FeedbackResult:
    """Live accuracy from the labels so far."""
    return _result(store, store.feedback())


def add_labels(
    store: FeedbackStore, labels: Path, *, replace: bool = False, new_classes: Collection[str] = ()
) -> FeedbackResult:
    """Add the labels of a list to the logged requests.

    replace: overwrite labels that differ.  new_classes: labels that the model does not know.
    Raises InputError, and adds nothing, for an invalid list, for conflicting labels, and if no row matches a
    logged request.
    """
    rows = read_labels(labels, [*_classes(store), *new_classes])
    by_id = {id: row.label for row in rows for id in row.ids}
    with store.workspace.lock("feedback", "feedback.lock"), explained(store.folder):
        old = store.feedback()
        images: dict[str, bytes] = {}
        logged = request_log.read_log(request_log.log_files(store.log), model=store.model)
        found = answered(logged, by_id, store.labels_of, images.__setitem__)
        matched = {row.id for row in found}
        unmatched = tuple(row.name for row in rows if not matched.intersection(row.ids))
        if not matched:
            raise InputError(
                f"None of the {len(rows)} labelled images in {labels} matches a logged request; the first is "
                f"{rows[0].name}. List the exact files that were sent, or their ids; `pergola feedback "
                "--sample FOLDER` writes a list with ids to fill in."
            )
        before = old.labels()
        merged = merge(old, found, replace=replace)
        _store(store, merged, images)
    new = sum(before.get(id) != merged.labels()[id] for id in matched)
    return _result(store, merged, taken=new, known=len(matched) - new, unmatched=unmatched)


def sample(store: FeedbackStore, folder: Path, count: int) -> int:
    """Write a random sample of unlabelled logged images and a list to fill in. Returns its size.

    It is random, and not the least confident predictions, so that accuracy on it estimates the accuracy on
    all requests.
    Raises InputError if `folder` is not empty or every logged image has a label.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and may hold labels. Give another folder.")
    known = store.feedback().labels()
    files = request_log.log_files(store.log)
    rows: dict[str, int] = {}  # id -> row of its last request
    for row, one in enumerate(request_log.read_log(files, model=store.model)):
        rows[image_id(one.image)] = row
    ids = sorted(set(rows) - set(known))
    if not ids:
        raise InputError(f"Every image in the request log of '{store.model}' already has a label.")
    drawn = np.random.default_rng(len(known)).permutation(len(ids))[:count]
    logged = request_log.images_at(files, [rows[ids[i]] for i in drawn], model=store.model)
    entries: list[dict[str, object]] = []
    with explained(folder):
        for i in drawn:
            one = logged[rows[ids[i]]]
            file = Path(IMAGES) / f"{ids[i][:16]}.{_suffix(one.image)}"
            records.write_atomic(folder / file, one.image)
            best = int(one.probabilities.argmax())
            names = store.labels_of(one.version)
            entries.append(
                {
                    "image": file.as_posix(),
                    "label": "",
                    "predicted": names[best] if names else "",
                    "probability": f"{one.probabilities[best]:.3f}",
                    "version": one.version,
                    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.at_s)),
                    "id": ids[i],
                }
            )
        write_list(list(entries[0]), entries, folder / LIST)
    return len(entries)


def holds(store: FeedbackStore, ids: Collection[str]) -> bool:
    """Whether an image with one of these ids is in the feedback."""
    listed = store.folder / LIST
    text = listed.read_text(encoding="utf-8") if listed.is_file() else ""
    images = {path.stem for path in (store.folder / IMAGES).glob("*")}
    return any(id in images or id in text for id in ids) or not store.feedback().labels().keys().isdisjoint(
        ids
    )


def remove(store: FeedbackStore, ids: Collection[str]) -> None:
    """Remove images with their labels. Can be repeated after a kill."""
    with store.workspace.lock("feedback", "feedback.lock"), explained(store.folder):
        for path in (store.folder / IMAGES).glob("*"):
            if path.stem in ids or path.name.lstrip(".").split(".")[0] in ids:
                path.unlink()
        kept = tuple(row for row in store.feedback().rows if row.id not in ids)
        _store(store, Feedback(kept), {})
        if not kept:
            (store.folder / LIST).unlink()  # an empty list is no data set


def export(store: FeedbackStore, folder: Path) -> int:
    """Copy the labelled images to <folder>/<label>/. Returns the number of new copies.

    Raises InputError for a label that cannot be the name of a folder.
    """
    labels = store.feedback().labels()
    for label in labels.values():
        if label in (".", "..") or "/" in label or label.startswith("."):
            raise InputError(
                f"'{label}' cannot be the name of a folder. Use the list {store.folder / LIST} instead."
            )
    copied = 0
    with explained(folder):
        for path in _files(store, labels):
            target = folder / labels[path.stem] / path.name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.partial")
                shutil.copyfile(path, partial)
                partial.rename(target)
                copied += 1
    return copied


def _classes(store: FeedbackStore) -> list[str]:
    """Every class of a published version or of earlier feedback."""
    from pergola.components.store.publish import published

    names: set[str] = set(store.feedback().labels().values())
    for version in published(store.workspace.models, store.model):
        names.update(store.labels_of(version) or ())
    return sorted(names)


def _store(store: FeedbackStore, feedback: Feedback, images: dict[str, bytes]) -> None:
    for id, image in images.items():
        path = store.folder / IMAGES / f"{id}.{_suffix(image)}"
        if not path.exists():
            records.write_atomic(path, image)
    labels = feedback.labels()
    feedback.save(store.folder)
    rows = [{"path": f"{IMAGES}/{path.name}", "label": labels[path.stem]} for path in _files(store, labels)]
    write_list(("path", "label"), rows, store.folder / LIST)


def _files(store: FeedbackStore, labels: Collection[str]) -> list[Path]:
    found = (store.folder / IMAGES).glob("[0-9a-f]*")
    return sorted(path for path in found if path.stem in labels)


def _suffix(image: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), "bin")


def _result(
    store: FeedbackStore,
    feedback: Feedback,
    *,
    taken: int = 0,
    known: int = 0,
    unmatched: tuple[str, ...] = (),
) -> FeedbackResult:
    versions = live_accuracy(feedback)
    return FeedbackResult(
        model=store.model,
        taken=taken,
        known=known,
        unmatched=unmatched,
        num_images=len(feedback.labels()),
        versions=versions,
        tested=store.tested([one.version for one in versions]),
        data_set=str(store.folder / LIST) if feedback.rows else "",
    )


def _share(share: float, interval: tuple[float, float], count: int) -> str:
    return f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%}) of {count:,}"
