"""Runs requests that arrive together as one batch.

The scheduler and its settings follow TensorFlow's SharedBatchScheduler and TF-Serving's BatchingSession
(shared_batch_scheduler.h, batching_session.cc), with their errors. It is in Python, not TensorFlow's
in-graph BatchFunction, because that one is part of a graph: each signature would have to be rebuilt
around it, variable-length inputs cannot be padded there, and its errors are others.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pergola.serving.server.config import text_protos
from pergola.serving.server.config.errors import (
    BadConfig,
    BadModel,
    BadRequest,
    BatchQueueFull,
    LateForBatch,
    NoRoomInBatchQueue,
    ShapesDiffer,
    TaskTooLarge,
)
from pergola.serving.server.core.model import Model, Signature
from pergola.serving.wire.tensors import Array

PER_MODEL_FILE = "batching_params.pbtxt"

# (model, pool, rows, seconds that each task waited)
Report = Callable[[str, str, int, list[float]], None]


@dataclass(frozen=True)
class BatchSettings:
    """The fields of a batching file; defaults are the stock server's."""

    max_batch_size: int = 1000
    timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    pool_name: str = "model_server_batch_threads"
    allowed_sizes: tuple[int, ...] = ()
    pad: bool = False
    split: bool = False
    max_execution_size: int = 0  # 0: max_batch_size

    @property
    def largest(self) -> int:
        """The largest number of rows in one run of the model."""
        return (self.max_execution_size or self.max_batch_size) if self.split else self.max_batch_size

    def padded(self, rows: int) -> int:
        """The smallest allowed batch size for this many rows."""
        return next((size for size in self.allowed_sizes if size >= rows), rows)


def read_settings(path: Path | None) -> BatchSettings:
    """From a BatchingParameters text proto; the defaults without one. Raises BadConfig."""
    if path is None:
        return BatchSettings()
    message = text_protos.read(path, "BatchingParameters")
    values: dict[str, Any] = {}
    for name, target in _WRAPPED.items():
        if message.HasField(name):
            values[target] = getattr(message, name).value
    values["timeout_s"] = values.get("timeout_s", 0) / 1e6
    settings = BatchSettings(
        **values,
        allowed_sizes=tuple(message.allowed_batch_sizes),
        pad=message.pad_variable_length_inputs,
    )
    _check(settings, path)
    return settings


_WRAPPED = {
    "max_batch_size": "max_batch_size",
    "batch_timeout_micros": "timeout_s",
    "max_enqueued_batches": "max_enqueued_batches",
    "num_batch_threads": "num_threads",
    "thread_pool_name": "pool_name",
    "enable_large_batch_splitting": "split",
    "max_execution_batch_size": "max_execution_size",
}


class Scheduler:
    """Threads that run batches for any number of models."""

    def __init__(self, settings: BatchSettings, report: Report = lambda *_: None) -> None:
        self.settings = settings
        self._report = report
        self._changed = threading.Condition()
        self._queues: list[_Queue] = []
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{i}", daemon=True)
            for i in range(settings.num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, queue: _Queue, feeds: Mapping[str, Array], rows: int, timeout_ms: int = 0) -> list[Array]:
        """Queue a request, split if allowed, and wait for its results."""
        now = time.perf_counter()
        ends = now + timeout_ms / 1000 if timeout_ms else math.inf
        with self._changed:
            tasks = [_BatchTask(part, size, now, ends) for part, size in _parts(queue, feeds, rows)]
            for task in tasks:
                self._enqueue(queue, task)
            self._changed.notify(len(tasks))
        for task in tasks:
            task.answered.acquire()
        for task in tasks:
            if task.error is not None:
                raise task.error
        if len(tasks) == 1:
            return tasks[0].outputs
        return [np.concatenate(values) for values in zip(*(task.outputs for task in tasks), strict=True)]

    def close(self) -> None:
        """Run the queued requests, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, queue: _Queue, task: _BatchTask) -> None:
        batches, settings = queue.batches, queue.settings
        if not batches or batches[-1].rows + task.rows > settings.largest:
            if len(batches) >= settings.max_enqueued_batches:
                raise BatchQueueFull(enqueued=len(batches), limit=settings.max_enqueued_batches)
            batches.append(_Batch(opened=time.perf_counter()))
            if queue not in self._queues:
                self._queues.append(queue)
        batches[-1].tasks.append(task)
        batches[-1].rows += task.rows

    def _work(self) -> None:
        while True:
            with self._changed:
                found = self._take()
                while found is None:
                    if self._closing and not self._queues:
                        return
                    self._changed.wait(self._pause())
                    found = self._take()
            self._process(*found)

    def _take(self) -> tuple[_Queue, _Batch] | None:
        """The next batch that is due, round-robin over the queues."""
        now = time.perf_counter()
        for index, queue in enumerate(self._queues):
            batch = queue.batches[0]
            full = len(queue.batches) > 1 or batch.rows >= queue.settings.largest
            if full or self._closing or now >= batch.opened + queue.settings.timeout_s:
                del self._queues[index]
                queue.batches.popleft()
                if queue.batches:
                    self._queues.append(queue)
                return queue, batch
        return None

    def _pause(self) -> float | None:
        due = [queue.batches[0].opened + queue.settings.timeout_s for queue in self._queues]
        return max(0.0, min(due) - time.perf_counter()) if due else None

    def _process(self, queue: _Queue, batch: _Batch) -> None:
        started = time.perf_counter()
        try:
            _run(queue, batch, started)
        except Exception as error:
            for task in batch.tasks:
                task.error = error
        for task in batch.tasks:
            task.answered.release()
        waited = [started - task.queued for task in batch.tasks]
        self._report(queue.name, queue.settings.pool_name, batch.rows, waited)


class BatchedModel:
    """A Model whose runs are batched with others of the same signature."""

    def __init__(
        self,
        name: str,
        model: Model,
        settings: BatchSettings,
        scheduler: Scheduler,
    ) -> None:
        self._name = name
        self._model = model
        self._settings = settings
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._queues: dict[tuple[Any, ...], _Queue] = {}
        self._known = {
            (frozenset(s.inputs.values()), frozenset(s.outputs.values())) for s in model.signatures.values()
        }

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """As the model's."""
        return self._model.signatures

    @property
    def signature_defs(self) -> Mapping[str, Any]:
        """As the model's."""
        return self._model.signature_defs

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int = 0) -> list[Array]:
        """As the model's, in a batch. Runs that match no signature are not batched (as upstream)."""
        if (frozenset(feeds), frozenset(fetches)) not in self._known or not feeds:
            return self._model.run(feeds, fetches, timeout_ms)
        rows = _rows(feeds)
        if rows > self._settings.max_batch_size:
            raise TaskTooLarge(size=rows, limit=self._settings.max_batch_size)
        if rows == 0:
            return self._model.run(feeds, fetches, timeout_ms)
        return self._scheduler.run(self._queue(feeds, tuple(fetches)), feeds, rows, timeout_ms)

    def close(self) -> None:
        """Close the model. Nothing is queued when this is called: requests hold their servable."""
        self._model.close()

    def _queue(self, feeds: Mapping[str, Array], fetches: tuple[str, ...]) -> _Queue:
        # Dtypes are part of the key, so that a request of a wrong dtype fails alone.
        key = (fetches, *((name, array.dtype) for name, array in sorted(feeds.items())))
        queue = self._queues.get(key)
        if queue is None:
            with self._lock:
                queue = self._queues.setdefault(key, _Queue(self._name, self._model, fetches, self._settings))
        return queue


def _taken_lock() -> threading.Lock:
    """A taken lock that another thread releases: a third of the cost of an Event."""
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class _BatchTask:
    feeds: Mapping[str, Array]
    rows: int
    queued: float
    ends: float  # the caller's deadline
    answered: threading.Lock = field(default_factory=_taken_lock)  # free once there is an answer
    outputs: list[Array] = field(default_factory=list)
    error: Exception | None = None


@dataclass(eq=False)
class _Batch:
    opened: float
    tasks: list[_BatchTask] = field(default_factory=list)
    rows: int = 0


@dataclass(eq=False)
class _Queue:
    """Tasks that may share a batch: of one model, one signature and the same dtypes."""

    name: str
    model: Model
    fetches: tuple[str, ...]
    settings: BatchSettings
    batches: deque[_Batch] = field(default_factory=deque)


def _parts(queue: _Queue, feeds: Mapping[str, Array], rows: int) -> list[tuple[Mapping[str, Array], int]]:
    """A request, where splitting is on cut so that it fills the open batch and then whole ones."""
    settings, batches = queue.settings, queue.batches
    if not settings.split:
        return [(feeds, rows)]
    room = settings.largest - batches[-1].rows if batches else 0
    capacity = room + (settings.max_enqueued_batches - len(batches)) * settings.largest
    if rows > capacity:
        raise NoRoomInBatchQueue(
            rows=rows,
            capacity=capacity,
            enqueued=len(batches),
            limit=settings.max_enqueued_batches,
            open=batches[-1].rows if batches else 0,
            largest=settings.largest,
        )
    cuts = [0, *range(room or settings.largest, rows, settings.largest), rows]
    return [
        ({name: array[start:end] for name, array in feeds.items()}, end - start)
        for start, end in itertools.pairwise(cuts)
    ]


def _rows(feeds: Mapping[str, Array]) -> int:
    sizes = {array.shape[0] if array.ndim else -1 for array in feeds.values()}
    if -1 in sizes:
        raise BadRequest(message="Batching Run() input tensors must have at least one dimension")
    if len(sizes) > 1:
        raise BadRequest(message="Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _run(queue: _Queue, batch: _Batch, now: float) -> None:
    """Run a batch while any caller still waits for it, and distribute its rows to the tasks."""
    ends = max(task.ends for task in batch.tasks)
    if ends <= now:
        raise LateForBatch()
    timeout_ms = 0 if math.isinf(ends) else math.ceil((ends - now) * 1000)
    target = queue.settings.padded(batch.rows)
    feeds = {
        name: _joined(name, [task.feeds[name] for task in batch.tasks], target, queue.settings.pad)
        for name in batch.tasks[0].feeds
    }
    outputs = queue.model.run(feeds, queue.fetches, timeout_ms)
    for name, output in zip(queue.fetches, outputs, strict=True):
        if not output.ndim or len(output) != target:
            raise BadModel(
                message=f"Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
                f"sizes of the input tensors: output {name} has shape {list(output.shape)} for {target} rows"
            )
    start = 0
    for task in batch.tasks:
        task.outputs = [output[start : start + task.rows] for output in outputs]
        start += task.rows


def _joined(name: str, arrays: list[Array], rows: int, pad: bool) -> Array:
    """One input of a batch: all tasks' rows, then copies of the first row up to `rows`."""
    if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        if not pad:
            raise ShapesDiffer(name=name)
        arrays = _padded(name, arrays)
    missing = rows - sum(map(len, arrays))
    if missing:
        arrays = [*arrays, np.repeat(arrays[0][:1], missing, axis=0)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _padded(name: str, arrays: list[Array]) -> list[Array]:
    """Arrays with zeros (or empty strings) behind, so that all but the first dimension agree."""
    if len({array.ndim for array in arrays}) > 1:
        raise BadRequest(
            message=f"Tensors with name '{name}' from different tasks have different number of dimensions."
        )
    widest = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    empty: Any = b"" if arrays[0].dtype == object else 0
    return [
        np.pad(
            array,
            [(0, 0), *((0, wide - size) for wide, size in zip(widest, array.shape[1:], strict=True))],
            constant_values=empty,
        )
        for array in arrays
    ]


def _check(settings: BatchSettings, path: Path) -> None:
    sizes = settings.allowed_sizes
    faults = {
        "max_batch_size must be at least 1": settings.max_batch_size < 1,
        "num_batch_threads must be at least 1": settings.num_threads < 1,
        "max_enqueued_batches must not be negative": settings.max_enqueued_batches < 0,
        "batch_timeout_micros must not be negative": settings.timeout_s < 0,
        "max_execution_batch_size must be 1 to max_batch_size": not (
            0 <= settings.max_execution_size <= settings.max_batch_size
        ),
        "allowed_batch_sizes entries must be in increasing order": any(
            a >= b for a, b in itertools.pairwise(sizes)
        ),
        "final entry in allowed_batch_sizes must match max_batch_size": bool(sizes)
        and sizes[-1] != settings.largest,
    }
    for text, wrong in faults.items():
        if wrong:
            raise BadConfig(message=f"{path}: {text}")
