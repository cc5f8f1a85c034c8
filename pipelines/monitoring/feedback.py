"""`pergola feedback`: true labels for requests, live accuracy, and images for the next data set.

<workspace>/feedback/<model>/
  feedback.json        every labelled image, with what each version answered
  labels.csv           path,label: a data set of its own, for scan.also
  images/<id>.png    as the server got them
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
    """What is known of the requests to a model."""

    model: str
    taken: int  # images whose label is new
    known: int  # images of the list that had this label before
    unmatched: tuple[str, ...]  # of the list, that no logged request is like
    num_images: int  # labelled, in all
    versions: tuple[LiveAccuracy, ...]
    tested: dict[int, float] = field(default_factory=dict)  # version -> accuracy on its test part
    data_set: str = ""  # the labelled images as a list

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return records.to_dict(self)

    def words(self) -> str:
        """A line a version, and one a class of the newest."""
        lines = [f"{self.model}: {self.num_images:,} labelled images."]
        if self.taken or self.known or self.unmatched:
            lines[0] += f" Taken {self.taken:,}, known before {self.known:,}."
        if self.unmatched:
            lines.append(
                f"  {len(self.unmatched):,} of the list are like no logged request, the first "
                f"{self.unmatched[0]}."
            )
        for one in self.versions:
            tested = (
                f"; {self.tested[one.version]:.1%} on its test part" if one.version in self.tested else ""
            )
            lines.append(
                f"  version {one.version}: {_share(one.accuracy, one.interval, one.num_images)}{tested}"
            )
        for row in self.versions[0].classes if self.versions else ():
            lines.append(f"    {row.label}: {_share(row.recall, row.interval, row.num_images)}")
        if self.num_images:
            lines.append(f"For the next model: pergola run DATASET --set scan.also={self.data_set}")
        else:
            lines.append("Have some labelled:  pergola feedback --ask FOLDER")
        return "\n".join(lines)


@dataclass(frozen=True)
class Place:
    """Where feedback on a model lies, and the log that it is about."""

    workspace: Workspace
    model: str
    log: str

    @classmethod
    def of(cls, workspace: Workspace, model: str | None, log: str | None) -> Place:
        """Raises InputError when there is no such model."""
        name = model or only_model(workspace)
        if name not in model_names(workspace):
            known = records.nearest(name, model_names(workspace))
            raise InputError(f"No model '{name}' in {workspace.root}.{known}")
        return cls(workspace, name, log or workspace.request_log(name))

    @property
    def folder(self) -> Path:
        """Of the feedback."""
        return self.workspace.feedback(self.model)

    def feedback(self) -> Feedback:
        """What is stored; empty when nothing is."""
        known = (self.folder / Feedback.FILE).is_file()
        return Feedback.load(self.folder) if known else Feedback()

    def names_of(self, version: int) -> Sequence[str] | None:
        """What a version's outputs mean."""
        record = self._reference(version)
        return record.labels if record else None

    def tested(self, versions: Collection[int]) -> dict[int, float]:
        """Accuracy on the test part, of the versions where it is known."""
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


def feedback(place: Place) -> FeedbackResult:
    """What is known so far."""
    return _result(place, place.feedback())


def take(
    place: Place, labels: Path, *, replace: bool = False, new_classes: Collection[str] = ()
) -> FeedbackResult:
    """Take the labels of a list for the requests that are logged.

    replace: also where an image had another label.  new_classes: labels that the model does not know.
    Raises InputError, and takes nothing, for a list that cannot be used, for conflicting labels, and when no
    row is like a logged request.
    """
    rows = read_labels(labels, [*_classes(place), *new_classes])
    by_id = {id: row.label for row in rows for id in row.ids}
    with place.workspace.lock("feedback", "feedback.lock"), explained(place.folder):
        old = place.feedback()
        images: dict[str, bytes] = {}
        logged = request_log.read_log(request_log.log_files(place.log), model=place.model)
        found = answered(logged, by_id, place.names_of, images.__setitem__)
        matched = {row.id for row in found}
        unmatched = tuple(row.name for row in rows if not matched.intersection(row.ids))
        if not matched:
            raise InputError(
                f"None of the {len(rows)} labelled images in {labels} is like a logged request, the first "
                f"is {rows[0].name}. Give the very files that were sent, or their ids; `pergola feedback "
                "--ask FOLDER` writes a list with ids to fill in."
            )
        before = old.labels()
        merged = merge(old, found, replace=replace)
        _store(place, merged, images)
    new = sum(before.get(id) != merged.labels()[id] for id in matched)
    return _result(place, merged, taken=new, known=len(matched) - new, unmatched=unmatched)


def ask(place: Place, folder: Path, count: int) -> int:
    """Write a fair draw of logged images that have no label yet, and a list to fill in; gives how many.

    A draw, and not the least sure ones, since accuracy on those would say nothing of all requests.
    Raises InputError when `folder` has files in it or every logged image has a label.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and may hold somebody's work. Name another folder.")
    known = place.feedback().labels()
    files = request_log.log_files(place.log)
    rows: dict[str, int] = {}  # id -> row of its last request
    for row, one in enumerate(request_log.read_log(files, model=place.model)):
        rows[image_id(one.image)] = row
    ids = sorted(set(rows) - set(known))
    if not ids:
        raise InputError(f"Every image in the request log of '{place.model}' has a label already.")
    drawn = np.random.default_rng(len(known)).permutation(len(ids))[:count]
    logged = request_log.images_at(files, [rows[ids[i]] for i in drawn], model=place.model)
    entries: list[dict[str, object]] = []
    with explained(folder):
        for i in drawn:
            one = logged[rows[ids[i]]]
            file = Path(IMAGES) / f"{ids[i][:16]}.{_suffix(one.image)}"
            records.write_atomic(folder / file, one.image)
            best = int(one.probabilities.argmax())
            names = place.names_of(one.version)
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


def export(place: Place, folder: Path) -> int:
    """Copy the labelled images to <folder>/<label>/, those that are not there; gives how many were.

    Raises InputError for a label that is no folder's name.
    """
    labels = place.feedback().labels()
    for label in labels.values():
        if label in (".", "..") or "/" in label or label.startswith("."):
            raise InputError(f"'{label}' is no name of a folder. Use the list {place.folder / LIST} instead.")
    copied = 0
    with explained(folder):
        for path in _files(place, labels):
            target = folder / labels[path.stem] / path.name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.partial")
                shutil.copyfile(path, partial)
                partial.rename(target)
                copied += 1
    return copied


def _classes(place: Place) -> list[str]:
    """Every class that a published version knows, or that people named before."""
    from pergola.components.store.publish import published

    names: set[str] = set(place.feedback().labels().values())
    for version in published(place.workspace.models, place.model):
        names.update(place.names_of(version) or ())
    return sorted(names)


def _store(place: Place, feedback: Feedback, images: dict[str, bytes]) -> None:
    for id, image in images.items():
        path = place.folder / IMAGES / f"{id}.{_suffix(image)}"
        if not path.exists():
            records.write_atomic(path, image)
    labels = feedback.labels()
    feedback.save(place.folder)
    rows = [{"path": f"{IMAGES}/{path.name}", "label": labels[path.stem]} for path in _files(place, labels)]
    write_list(("path", "label"), rows, place.folder / LIST)


def _files(place: Place, labels: Collection[str]) -> list[Path]:
    found = (place.folder / IMAGES).glob("[0-9a-f]*")
    return sorted(path for path in found if path.stem in labels)


def _suffix(image: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), "bin")


def _result(
    place: Place, feedback: Feedback, *, taken: int = 0, known: int = 0, unmatched: tuple[str, ...] = ()
) -> FeedbackResult:
    versions = live_accuracy(feedback)
    return FeedbackResult(
        model=place.model,
        taken=taken,
        known=known,
        unmatched=unmatched,
        num_images=len(feedback.labels()),
        versions=versions,
        tested=place.tested([one.version for one in versions]),
        data_set=str(place.folder / LIST) if feedback.rows else "",
    )


def _share(share: float, interval: tuple[float, float], count: int) -> str:
    return f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%}) of {count:,}"
