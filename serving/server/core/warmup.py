"""Replays a model's own warm-up requests before it is served (saved_model_warmup_util.cc)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pergola.serving.server.config.errors import (
    BadRequest,
    Code,
    NotImplementedHere,
    RuntimeFailure,
    ServingError,
    code_of,
)
from pergola.serving.server.core import requests
from pergola.serving.server.core.examples import Task
from pergola.serving.server.core.limiter import Limiter
from pergola.serving.server.core.model import Model
from pergola.serving.server.core.predictor import Predictor, Target
from pergola.serving.server.core.servable import Servable, ServableStatus

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000

# (path, code, records, seconds)
Report = Callable[[str, Code, int, float], None]


class _Quiet:
    """Counts nothing: warm-up requests are not traffic."""

    def ran(self, model: str, version: int, api: str, seconds: float) -> None: ...
    def examples(self, model: str, count: int) -> None: ...


class _Single:
    """Gives one servable, whatever model a recorded request names."""

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    def acquire(self, model: str, version: int | None = None, label: str | None = None) -> Servable:
        self._servable.acquire()
        return self._servable

    def statuses(self, model: str, version: int | None = None) -> list[ServableStatus]:
        return []


def warm_up(model: Model, folder: Path, iterations: int = 1, report: Report = lambda *_: None) -> int:
    """Send each recorded request `iterations` times. Gives the number of records, 0 without a file.

    Raises ServingError when a record fails or the file is damaged: then the version is not served.
    """
    path = folder / FILE
    if not path.is_file():
        return 0
    started, count, code = time.perf_counter(), 0, Code.OK
    predictor = Predictor(_Single(Servable("warmup", 0, model)), Limiter(1, 0), _Quiet())
    try:
        for record in _records(path):
            if count == MAX_RECORDS:
                raise BadRequest(
                    message=f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )
            for _ in range(iterations):
                _send(predictor, record, path)
            count += 1
    except ServingError as error:
        code = code_of(error)
        raise
    finally:
        report(str(folder), code, count, time.perf_counter() - started)
    return count


def _records(path: Path) -> Iterator[bytes]:
    import tensorflow as tf

    try:
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        raise RuntimeFailure(
            Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from None
    except tf.errors.OpError as error:
        raise RuntimeFailure(Code(error.error_code), error.message) from None


def _send(predictor: Predictor, record: bytes, path: Path) -> None:
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    try:
        entry = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError:
        raise BadRequest(message=f"Failed to parse warmup record: {record[:100]!r} from {path}") from None
    kind = entry.WhichOneof("log_type")
    if kind not in _KINDS:
        raise NotImplementedHere(message=f"Unsupported log_type for warmup: {kind}")
    _KINDS[kind](predictor, getattr(entry, kind).request)


def _target(request: Any) -> Target:
    return Target("warmup", signature=request.model_spec.signature_name)


def _predict(predictor: Predictor, request: Any) -> None:
    predictor.predict(_target(request), requests.ProtoInputs(request.inputs), list(request.output_filter))


def _classify(predictor: Predictor, request: Any) -> None:
    predictor.classify(_target(request), requests.serialized(request.input))


def _regress(predictor: Predictor, request: Any) -> None:
    predictor.regress(_target(request), requests.serialized(request.input))


def _infer(predictor: Predictor, request: Any) -> None:
    tasks = [Task(_target(task), task.method_name) for task in request.tasks]
    predictor.infer(tasks, requests.serialized(request.input))


def _session_run(predictor: Predictor, request: Any) -> None:
    feeds = {feed.name: requests.array_of(feed.tensor, feed.name) for feed in request.feed}
    predictor.session_run(_target(request), feeds, list(request.fetch))


_KINDS: dict[str, Callable[[Predictor, Any], None]] = {
    "predict_log": _predict,
    "classify_log": _classify,
    "regress_log": _regress,
    "multi_inference_log": _infer,
    "session_run_log": _session_run,
}
