"""Load-tests a server from a separate process: requests per second and latencies.

    result = measure(Load("localhost:8500", request, concurrency=32, seconds=5))
    result.requests_per_s, result.p99_ms, result.failures

Closed loop: each of `concurrency` callers sends its next request when the last one is answered. The
generator is a process of its own, so that it does not share Python's lock with what is measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from pergola.serving.client import Client, ClientError
from pergola.serving.client.channel import Connection, open_channel, target_of
from pergola.serving.tools.process import ChildProcess, python_command
from pergola.serving.wire.protos import predict_pb2
from pergola.serving.wire.tensors import to_array

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True)
class Load:
    """What to send where, with how many callers and for how long."""

    address: str
    request: predict_pb2.PredictRequest
    concurrency: int = 1
    seconds: float = 3.0
    warmup_s: float = 0.5  # sent, not counted
    through_client: bool = (
        False  # with Client.predict (arrays, retries); else bytes made once, and no retries
    )
    timeout_s: float = 30.0


@dataclass(frozen=True)
class LoadResult:
    """The measurements. The arrays have one entry per request, in the order of completion."""

    seconds: float
    started_s: np.ndarray[Any, Any]  # float64 (N,), Unix time at which it was sent
    latency_ms: np.ndarray[Any, Any]  # float64 (N,)
    failures: Mapping[str, int] = field(default_factory=dict)  # text -> requests; they are not in the arrays
    cpu_s: float = 0.0  # that the generator itself took

    @property
    def requests_per_s(self) -> float:
        """Answered requests a second."""
        return len(self.latency_ms) / self.seconds

    @property
    def num_failures(self) -> int:
        """Requests that failed."""
        return sum(self.failures.values())

    @property
    def p50_ms(self) -> float:
        """Median latency, milliseconds."""
        return self.percentile_ms(50)

    @property
    def p99_ms(self) -> float:
        """Latency that one request in a hundred exceeds, milliseconds."""
        return self.percentile_ms(99)

    def percentile_ms(self, percent: float) -> float:
        """Latency at a percentile, milliseconds; nan without answers."""
        return float(np.percentile(self.latency_ms, percent)) if len(self.latency_ms) else float("nan")

    def between(self, first_s: float, last_s: float) -> LoadResult:
        """The requests in flight at any time within a span of Unix time."""
        ended = self.started_s + self.latency_ms / 1000
        chosen = (ended >= first_s) & (self.started_s <= last_s)
        return LoadResult(last_s - first_s, self.started_s[chosen], self.latency_ms[chosen])


def measure(load: Load) -> LoadResult:
    """Run the load in a new process, and wait for it."""
    return start(load)()


def start(load: Load) -> Callable[[], LoadResult]:
    """Start the load in a new process. The returned function waits for it and returns the result."""
    folder = Path(tempfile.mkdtemp(prefix="pergola-load-"))
    (folder / "request").write_bytes(load.request.SerializeToString())
    plain = {name: value for name, value in vars(load).items() if name != "request"}
    (folder / "load.json").write_text(json.dumps(plain))
    command = python_command("pergola.serving.tools.load_test", str(folder))
    with open(folder / "log", "wb") as log:
        process = ChildProcess(command, output=log, folder=folder)

    def finish() -> LoadResult:
        with process:
            if process.wait():
                errors = (folder / "log").read_text(errors="replace").strip()
                raise RuntimeError(f"The load generator failed: {errors}")
            return _read(folder)

    return finish


def generate(load: Load) -> LoadResult:
    """Run the load in this process, on `concurrency` threads."""
    call, close = _caller(load)
    cpu = time.process_time()
    begin = time.time() + load.warmup_s
    end = begin + load.seconds
    rows: list[list[tuple[float, float]]] = [[] for _ in range(load.concurrency)]
    failures: Counter[str] = Counter()
    threads = [threading.Thread(target=_work, args=(call, begin, end, row, failures)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_cpu_s = time.process_time() - cpu
    close()
    table = np.array(sorted((row for rows_ in rows for row in rows_), key=sum)).reshape(-1, 2)
    return LoadResult(load.seconds, table[:, 0], table[:, 1] * 1000, dict(failures), took_cpu_s)


def _work(
    call: Callable[[], None],
    begin: float,
    end: float,
    rows: list[tuple[float, float]],
    failures: Counter[str],
) -> None:
    while (started := time.time()) < end:
        clock = time.perf_counter()
        try:
            call()
        except (grpc.RpcError, ClientError) as error:
            failures[_error_text(error)] += 1
            time.sleep(0.005)  # errors are fast: without a pause they would be most of the load
            continue
        took = time.perf_counter() - clock
        if begin <= time.time() <= end:
            rows.append((started, took))


def _caller(load: Load) -> tuple[Callable[[], None], Callable[[], None]]:
    if load.through_client:
        return _through_client(load)
    channel = open_channel(target_of(load.address), Connection())
    stub = channel.unary_unary(PREDICT)
    payload = load.request.SerializeToString()

    def call() -> None:
        stub(payload, timeout=load.timeout_s)

    return call, channel.close


def _through_client(load: Load) -> tuple[Callable[[], None], Callable[[], None]]:
    spec = load.request.model_spec
    client = Client(load.address, model=spec.name, timeout_s=load.timeout_s)
    inputs = {name: to_array(tensor) for name, tensor in load.request.inputs.items()}
    outputs = list(load.request.output_filter)

    def call() -> None:
        client.predict(inputs, signature=spec.signature_name, outputs=outputs)

    return call, client.close


def _error_text(error: Exception) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code()}: {error.details()}"[:200]
    return f"{type(error).__name__}: {error}"[:200]


def _read(folder: Path) -> LoadResult:
    summary = json.loads((folder / "result.json").read_text())
    with np.load(folder / "result.npz", allow_pickle=False) as table:
        return LoadResult(
            summary["seconds"], table["started_s"], table["latency_ms"], summary["failures"], summary["cpu_s"]
        )


def main(folder: Path) -> None:
    """Read the load, run it, write the result."""
    plain = json.loads((folder / "load.json").read_text())
    request = predict_pb2.PredictRequest.FromString((folder / "request").read_bytes())
    result = generate(Load(request=request, **plain))
    np.savez(folder / "result.npz", started_s=result.started_s, latency_ms=result.latency_ms)
    summary = {"seconds": result.seconds, "failures": dict(result.failures), "cpu_s": result.cpu_s}
    (folder / "result.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
