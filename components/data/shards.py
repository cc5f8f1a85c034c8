"""The images of each split in TFRecord files, and the index of these that training needs."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components import digest, progress
from pergola.components.artifacts.data import SPLITS, Manifest, Shards, Split, SplitShards
from pergola.components.data import tfrecord
from pergola.components.data.manifest.image_metadata import pillow_without_limits
from pergola.components.data.sources.source import Source
from pergola.components.disk import explained
from pergola.components.errors import StepError
from pergola.components.records import setting
from pergola.serving.wire.images import prepare

if TYPE_CHECKING:
    import pandas as pd

_GREY = ("1", "L", "LA", "La")  # and all modes that begin with "I"
_WORTH_PROCESSES = 2000  # images; fewer are written before other processes have started


@dataclass(frozen=True)
class ShardSettings:
    """How the images are packed."""

    shard_bytes: int = setting(64_000_000, "approximate size of a file, in bytes", low=1_000)
    shard_images: int = setting(4096, "most images in a file", low=1)
    workers: int = setting(0, "processes that write files; 0: one per core", low=0, high=1024)


@dataclass(frozen=True)
class _Task:
    """One file to write: its rows are (path, id, index of the label)."""

    file: Path
    rows: list[tuple[str, str, int]]


def write_shards(
    source: Source,
    manifest_folder: Path,
    split_folder: Path,
    out: Path,
    settings: ShardSettings,
    *,
    progress: progress.Progress = progress.silent,
) -> Shards:
    """The images of a split as TFRecord files in `out`, with their index.

    Each image is prepared by pergola.serving.wire.images.prepare. Records are in order of their ids, which
    are hashes, so every file is a random sample of its split. Equal input gives equal bytes.
    Raises StepError for a file that has changed since the scan or cannot be prepared, and for a full disk.
    """
    plan = ShardPlan.of(manifest_folder, split_folder, settings)
    with explained(out):
        plan.write(source, out, settings.workers, progress)
        return plan.index(out)


@dataclass(frozen=True)
class ShardPlan:
    """Which images go into which file, decided before any is read."""

    rows: pd.DataFrame  # a row per image, in order of id
    labels: tuple[str, ...]
    splits: dict[str, list[tuple[str, pd.DataFrame]]]  # each split's files and their rows

    @classmethod
    def of(cls, manifest_folder: Path, split_folder: Path, settings: ShardSettings) -> ShardPlan:
        """The plan for a split. Equal manifests, splits and settings give equal plans."""
        rows = _joined_tables(manifest_folder, split_folder)
        splits = {split: _files(rows[rows["split"] == split], split, settings) for split in SPLITS}
        return cls(rows, tuple(sorted(rows["label"].unique())), splits)

    def files(self) -> list[tuple[str, pd.DataFrame]]:
        """All files in order, with their rows."""
        return [pair for files in self.splits.values() for pair in files]

    def write(
        self,
        source: Source,
        out: Path,
        workers: int,
        progress: progress.Progress,
        *,
        files: list[tuple[str, pd.DataFrame]] | None = None,
    ) -> None:
        """Write files into `out`. files: some of the plan's files; None: all."""
        wanted = self.files() if files is None else files
        total = sum(len(rows) for _, rows in wanted)
        numbers = {label: number for number, label in enumerate(self.labels)}
        out.mkdir(parents=True, exist_ok=True)
        with progress(total=total, desc="shards", unit=" images") as bar:
            tasks = (_task(out / file, rows, numbers) for file, rows in wanted)
            for done in _written(source, tasks, workers, total):
                bar.update(done)

    def index(self, out: Path) -> Shards:
        """Write the index of the files beside them."""
        files = {split: [file for file, _ in files] for split, files in self.splits.items()}
        shards = _index(self.rows, self.labels, files)
        shards.save(out)
        return shards


def _joined_tables(manifest_folder: Path, split_folder: Path) -> pd.DataFrame:
    """A row per image of the split, in order of id, with the columns of both tables that are needed."""
    columns = ["path", "mode", "width", "height", "bytes"]
    manifest = Manifest.table(manifest_folder, columns=columns)
    split = Split.table(split_folder, columns=["id", "path", "label", "split"])
    rows = split.merge(manifest, on="path", how="left", validate="one_to_one")
    if rows["width"].isna().any():
        raise StepError(
            f"The split in '{split_folder}' does not belong to the manifest in '{manifest_folder}': "
            "run again."
        )
    return rows.sort_values("id", ignore_index=True)


def _files(rows: pd.DataFrame, split: str, settings: ShardSettings) -> list[tuple[str, pd.DataFrame]]:
    """File names with their rows: as many files as needed, with about the same number of images each."""
    by_bytes = int(rows["bytes"].sum()) / settings.shard_bytes
    count = max(1, math.ceil(by_bytes), math.ceil(len(rows) / settings.shard_images))
    bounds = [round(i * len(rows) / count) for i in range(count + 1)]
    return [
        (f"{split}-{i:05}-of-{count:05}.tfrecord", rows.iloc[bounds[i] : bounds[i + 1]]) for i in range(count)
    ]


def _task(file: Path, rows: pd.DataFrame, numbers: dict[str, int]) -> _Task:
    triples = zip(
        rows["path"].tolist(), rows["id"].tolist(), rows["label"].map(numbers).tolist(), strict=True
    )
    return _Task(file, list(triples))


def _written(source: Source, tasks: Iterator[_Task], workers: int, total: int) -> Iterator[int]:
    """Write the files; yields the number of images of each one when it is done."""
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1 or total < _WORTH_PROCESSES:
        yield from (write_file(source, task) for task in tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(write_file, source, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenExecutor:
            raise StepError(
                "A process that wrote shards died, most likely of too little memory: lower shards.workers."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def write_file(source: Source, task: _Task) -> int:
    """Write one TFRecord file, completely or not at all; returns the number of its images."""
    partial = task.file.with_name(f".{task.file.name}.partial")
    try:
        with explained(task.file), pillow_without_limits(), open(partial, "wb") as file:
            for path, id, label in task.rows:
                image = _prepared(source, path, id)
                example = tfrecord.example({"image": image, "label": label, "id": id.encode()})
                file.write(tfrecord.record(example))
        os.replace(partial, task.file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return len(task.rows)


def _prepared(source: Source, path: str, id: str) -> bytes:
    try:
        data = source.read(path)
    except OSError as error:
        raise StepError(
            f"'{path}' can no longer be read ({error.strerror or error}): run again to rescan it."
        ) from None
    if hashlib.sha256(data).hexdigest() != id:
        raise StepError(f"'{path}' has changed since it was scanned: run again to rescan it.")
    try:
        return prepare(data)
    except ValueError as error:
        raise StepError(f"'{path}': {error} Remove it and run again.") from None


def _index(rows: pd.DataFrame, labels: tuple[str, ...], files: dict[str, list[str]]) -> Shards:
    counts = rows.groupby(["split", "label"]).size()
    splits = {}
    for split in SPLITS:
        by_label = {label: int(counts.get((split, label), 0)) for label in labels}
        splits[split] = SplitShards(tuple(files[split]), sum(by_label.values()), by_label)
    content = rows.sort_values(["split", "id"])[["split", "id", "label"]].itertuples(index=False)
    return Shards(
        labels=labels,
        splits=splits,
        channels=1 if rows["mode"].map(_is_grey).all() else 3,
        median_height=int(rows["height"].median()),
        median_width=int(rows["width"].median()),
        min_side=int(rows[["height", "width"]].min().min()),
        max_side=int(rows[["height", "width"]].max().max()),
        fingerprint=digest.of_rows(_fingerprint(labels, content)),
        max_pixels=int((rows["height"].astype("int64") * rows["width"]).max()),
    )


def _is_grey(mode: str) -> bool:
    return mode in _GREY or mode.startswith("I")


def _fingerprint(labels: tuple[str, ...], content: Any) -> Iterator[tuple[Any, ...]]:
    yield labels
    yield from content
