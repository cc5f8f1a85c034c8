"""Finds batching parameters for a model by measuring a server that runs with them.

    tuning = tune_batching(Path("/models/leaves"), "leaves", {"image": [jpeg]}, concurrency=32)
    tuning.save(Path("batching.txt"))          # for --batching_parameters_file

TensorFlow Serving reads its batching file when it starts, so each trial starts a server of its own,
and what is measured is what will run. One parameter is varied at a time, from the most to the least
effective: batch size, threads, waiting time, padding. The two best are then measured again, in turns.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.serving.client.errors import InvalidInput
from pergola.serving.tools.child_server import OURS, ChildServer
from pergola.serving.tools.load_test import Load, LoadResult, measure
from pergola.serving.wire import contract
from pergola.serving.wire.protos import predict_pb2
from pergola.serving.wire.values import to_tensor

WORTH = 1.03  # a trial must be this much better to count: less is noise


@dataclass(frozen=True)
class BatchingParameters:
    """The parameters of TF-Serving's --batching_parameters_file. `text()` is that file."""

    max_batch_size: int
    batch_timeout_micros: int
    num_batch_threads: int
    max_enqueued_batches: int
    allowed_batch_sizes: tuple[int, ...] = ()  # batches are padded to one of them; empty: never

    def text(self) -> str:
        """The file, a text proto."""
        wrapped = ("max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_enqueued_batches")
        lines = [f"{name} {{ value: {getattr(self, name)} }}" for name in wrapped]
        lines += [f"allowed_batch_sizes: {size}" for size in self.allowed_batch_sizes]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class BatchingTrial:
    """The measurements of one setting. parameters: None is a server without batching."""

    parameters: BatchingParameters | None
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    num_failures: int

    def acceptable(self, max_p99_ms: float | None) -> bool:
        """Whether nothing failed and the limit is met."""
        return not self.num_failures and (max_p99_ms is None or self.p99_ms <= max_p99_ms)


@dataclass(frozen=True)
class BatchingTuning:
    """All trials in their order, the one without batching, and the one to use."""

    trials: tuple[BatchingTrial, ...]
    without: BatchingTrial
    best: BatchingTrial  # its parameters are None when batching does not pay

    def text(self) -> str:
        """The batching file with the measurements as a comment.

        Raises InvalidInput when the server is best without batching.
        """
        if self.best.parameters is None:
            raise InvalidInput(
                f"Batching does not help this model: nothing exceeds the {self.without.requests_per_s:.0f} "
                f"requests/s without it by {WORTH - 1:.0%}. Run the server without --enable_batching."
            )
        gain = self.best.requests_per_s / self.without.requests_per_s
        return (
            f"# {self.best.requests_per_s:.0f} requests/s, p99 {self.best.p99_ms:.1f} ms, "
            f"{gain:.2f} times as many as without batching\n{self.best.parameters.text()}"
        )

    def save(self, path: Path) -> None:
        """Write the batching file atomically. Raises as `text` does."""
        text = self.text()
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text)
        partial.replace(path)


def tune_batching(
    base_path: Path,
    model: str,
    inputs: Mapping[str, Any],
    *,
    signature: str = contract.SERVING_DEFAULT,
    concurrency: int = 32,
    seconds: float = 4.0,
    max_p99_ms: float | None = None,
    command: Sequence[str] = OURS,
    on_trial: Callable[[BatchingTrial], None] = lambda trial: None,
) -> BatchingTuning:
    """The batching parameters that give the most requests per second with `concurrency` callers.

    base_path: the model's folder of versions.  inputs: one typical request, usually one image.
    seconds: how long each trial is measured.  max_p99_ms: settings over it are not chosen.
    command: the server to measure, such as ("tensorflow_model_server",).  Raises ServerError when it does
    not start, InvalidInput when no setting keeps `max_p99_ms`.
    """
    if concurrency < 1 or seconds <= 0:
        raise InvalidInput(f"concurrency {concurrency} and seconds {seconds} must be above 0.")
    bench = _TrialRunner(
        base_path, model, _request(model, inputs, signature), concurrency, seconds, tuple(command)
    )

    def run(parameters: BatchingParameters | None) -> BatchingTrial:
        trial = bench.run(parameters)
        on_trial(trial)
        return trial

    return search(run, concurrency, len(os.sched_getaffinity(0)), max_p99_ms)


def search(
    run: Callable[[BatchingParameters | None], BatchingTrial],
    concurrency: int,
    num_cores: int,
    max_p99_ms: float | None = None,
) -> BatchingTuning:
    """The search, with any function that measures a setting.

    It starts from TF-Serving's own advice, threads = cores and no waiting, with batches of half the callers.
    """
    trials: list[BatchingTrial] = []

    def noted(parameters: BatchingParameters | None) -> BatchingTrial:
        trials.append(run(parameters))
        return trials[-1]

    without = noted(None)
    first = _sized(BatchingParameters(1, 0, num_cores, 1), max(1, concurrency // 2), concurrency)
    best = _climb(noted, first, concurrency, max_p99_ms)
    without, best = (_again(noted, trial) for trial in (without, best))
    chosen = _better(without, best, max_p99_ms)
    if not chosen.acceptable(max_p99_ms):
        raise InvalidInput(_nothing(trials, concurrency, max_p99_ms))
    return BatchingTuning(tuple(trials), without, chosen)


def _climb(
    run: Callable[[BatchingParameters | None], BatchingTrial],
    start: BatchingParameters,
    concurrency: int,
    max_p99_ms: float | None,
) -> BatchingTrial:
    best = run(start)
    for vary in (_sizes, _threads, _waits, _paddings):
        assert best.parameters is not None
        for parameters in vary(best.parameters, concurrency):
            best = _better(best, run(parameters), max_p99_ms)
    return best


def _sizes(now: BatchingParameters, concurrency: int) -> list[BatchingParameters]:
    sizes = {max(1, concurrency // 4), concurrency} - {now.max_batch_size}
    return [_sized(now, size, concurrency) for size in sorted(sizes)]


def _threads(now: BatchingParameters, concurrency: int) -> list[BatchingParameters]:
    counts = {1, max(1, now.num_batch_threads // 2), now.num_batch_threads * 2} - {now.num_batch_threads}
    return [
        _sized(dataclasses.replace(now, num_batch_threads=n), now.max_batch_size, concurrency) for n in counts
    ]


def _waits(now: BatchingParameters, concurrency: int) -> list[BatchingParameters]:
    return [dataclasses.replace(now, batch_timeout_micros=wait) for wait in (1000, 5000, 20000)]


def _paddings(now: BatchingParameters, concurrency: int) -> list[BatchingParameters]:
    powers = [2**n for n in range(now.max_batch_size.bit_length()) if 2**n < now.max_batch_size]
    return [dataclasses.replace(now, allowed_batch_sizes=(*powers, now.max_batch_size))]


def _sized(parameters: BatchingParameters, size: int, concurrency: int) -> BatchingParameters:
    """With room in the queue for all callers, so that none is rejected."""
    room = max(2 * parameters.num_batch_threads, 2 * -(-concurrency // size))
    return dataclasses.replace(parameters, max_batch_size=size, max_enqueued_batches=room)


def _better(old: BatchingTrial, new: BatchingTrial, max_p99_ms: float | None) -> BatchingTrial:
    if new.acceptable(max_p99_ms) != old.acceptable(max_p99_ms):
        return new if new.acceptable(max_p99_ms) else old
    return new if new.requests_per_s > WORTH * old.requests_per_s else old


def _again(run: Callable[[BatchingParameters | None], BatchingTrial], trial: BatchingTrial) -> BatchingTrial:
    """The mean of two measurements of one setting, the second taken later."""
    other = run(trial.parameters)
    return BatchingTrial(
        trial.parameters,
        (trial.requests_per_s + other.requests_per_s) / 2,
        (trial.p50_ms + other.p50_ms) / 2,
        max(trial.p99_ms, other.p99_ms),
        trial.num_failures + other.num_failures,
    )


@dataclass(frozen=True)
class _TrialRunner:
    """Starts a server with parameters and measures it."""

    base_path: Path
    model: str
    request: predict_pb2.PredictRequest
    concurrency: int
    seconds: float
    command: tuple[str, ...]

    def run(self, parameters: BatchingParameters | None) -> BatchingTrial:
        folder = Path(tempfile.mkdtemp(prefix="pergola-tuning-"))
        flags = []
        if parameters is not None:
            file = folder / "batching.txt"
            file.write_text(parameters.text())
            flags = ["--enable_batching=true", f"--batching_parameters_file={file}"]
        server = ChildServer(self.base_path, self.model, *flags, command=self.command, folder=folder)
        with server:
            result = measure(self._load(server.address))
        return _trial(parameters, result)

    def _load(self, address: str) -> Load:
        return Load(address, self.request, self.concurrency, self.seconds, warmup_s=min(2.0, self.seconds))


def _trial(parameters: BatchingParameters | None, result: LoadResult) -> BatchingTrial:
    return BatchingTrial(parameters, result.requests_per_s, result.p50_ms, result.p99_ms, result.num_failures)


def _request(model: str, inputs: Mapping[str, Any], signature: str) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(value))
    return request


def _nothing(trials: Sequence[BatchingTrial], concurrency: int, max_p99_ms: float | None) -> str:
    if all(trial.num_failures for trial in trials):
        return f"Requests failed in every trial, {trials[0].num_failures} in the first. See the server's log."
    return (
        f"No setting kept p99 at {max_p99_ms:g} ms: the best had {min(t.p99_ms for t in trials):.1f} ms with "
        f"{concurrency} callers. Allow more, or plan for fewer callers a server."
    )
