"""What benchmarks/serving.py measures. Each function gives plain numbers; each ratio is taken in turns."""

from __future__ import annotations

import io
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_parts import http_load, models
from benchmarks.serving_parts.mlflow_server import mlflow_server
from pergola.serving.client import Client
from pergola.serving.tools.batching_search import BatchingTrial, tune_batching
from pergola.serving.tools.child_server import ChildServer
from pergola.serving.tools.load_test import Load, LoadResult, measure, start
from pergola.serving.wire.protos import predict_pb2
from pergola.serving.wire.values import to_tensor

ROUNDS = 3  # of A and B in turns, so that a noisy moment meets both
SWITCHES = 10
WEIGHTS = {"light": 128, "middle": 192, "heavy": 288}  # channels: about 8, 15 and 30 ms an image
Figures = dict[str, Any]


def unary(work: Path, seconds: float) -> Figures:
    """p50 of one request at a time over gRPC, and of the same call in this process."""
    models.save(models.tiny_module(), work / "tiny" / "1")
    rows = np.ones((1, 4), np.float32)
    call = _in_process(work / "tiny" / "1", {"x": rows})
    request = _request("tiny", {"x": rows})
    here, there = [], []
    with ChildServer(work / "tiny", "tiny") as server:
        for _ in range(ROUNDS):
            here.append(_p50_ms(call, seconds))
            there.append(measure(Load(server.address, request, 1, seconds, through_client=True)).p50_ms)
    above = [a - b for a, b in zip(there, here, strict=True)]
    return {
        "in_process_p50_ms": statistics.median(here),
        "grpc_p50_ms": statistics.median(there),
        "above_ms": statistics.median(above),
    }


def beside_mlflow(work: Path, seconds: float) -> Figures:
    """Requests/s of 16 callers with a row of 4 numbers and with an image, beside `mlflow models serve`."""
    rng = np.random.default_rng(0)
    cases = {
        "row": (models.tiny_module(), "x", np.ones((1, 4), np.float32)),
        "image": (models.mean_module(), "image", rng.integers(0, 256, (1, 96, 96, 3), np.uint8)),
    }
    return {name: _case(work / name, seconds, *case) for name, case in cases.items()}


def _case(work: Path, seconds: float, module: Any, name: str, array: np.ndarray[Any, Any]) -> Figures:
    models.save(module, work / "served" / "1")
    models.save_in_mlflow(module, work / "mlflow", array)
    body = json.dumps({"inputs": array.tolist()})
    request = _request("model", {name: array})
    ours: list[LoadResult] = []
    theirs: list[Mapping[str, Any]] = []
    with ChildServer(work / "served", "model") as server, mlflow_server(work / "mlflow") as port:
        for _ in range(ROUNDS):
            ours.append(measure(Load(server.address, request, 16, seconds)))
            theirs.append(http_load.measure(port, "/invocations", body, 16, 3 * seconds))
    ratios = [a.requests_per_s / b["requests_per_s"] for a, b in zip(ours, theirs, strict=True)]
    return {
        "requests_per_s": statistics.median(r.requests_per_s for r in ours),
        "p99_ms": statistics.median(r.p99_ms for r in ours),
        "failures": sum(r.num_failures for r in ours),
        "mlflow_requests_per_s": statistics.median(t["requests_per_s"] for t in theirs),
        "mlflow_p99_ms": statistics.median(t["p99_ms"] for t in theirs),
        "ratio": statistics.median(ratios),
    }


def batching(work: Path, seconds: float, on_trial: Callable[[BatchingTrial], None]) -> Figures:
    """Images/s at concurrency 32 with tuned batching, beside the best batch size in this process.

    For networks of three weights; the parameters are those found for the lightest, which gains least.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    for name, channels in WEIGHTS.items():
        models.slow(work / name / "1", channels=channels)
    tuning = tune_batching(
        work / "light", "light", {"image": image}, concurrency=32, seconds=seconds, on_trial=on_trial
    )
    flags = []
    if tuning.best.parameters is not None:
        tuning.save(work / "batching.txt")
        flags = ["--enable_batching", f"--batching_parameters_file={work / 'batching.txt'}"]
    return {
        "parameters": None if tuning.best.parameters is None else vars(tuning.best.parameters),
        "trials": len(tuning.trials),
        **{name: _batched(work / name, image, flags, seconds) for name in WEIGHTS},
    }


def _batched(base: Path, image: np.ndarray[Any, Any], flags: list[str], seconds: float) -> Figures:
    """One network with batching, without, and in this process, in turns."""
    sizes, request = (1, 8, 16, 32, 64), _request(base.name, {"image": image})
    calls = {n: _in_process(base / "1", {"image": np.repeat(image, n, axis=0)}) for n in sizes}
    here: dict[int, list[float]] = {n: [] for n in sizes}
    served, plain = [], []
    with ChildServer(base, base.name, *flags) as server, ChildServer(base, base.name) as bare:
        for _ in range(ROUNDS):
            for n in sizes:
                here[n].append(n * 1000 / _p50_ms(calls[n], seconds / 2))
            served.append(measure(Load(server.address, request, 32, seconds)))
            plain.append(measure(Load(bare.address, request, 32, seconds)))
    best = [max(here[n][i] for n in sizes[1:]) for i in range(ROUNDS)]
    shares = [r.requests_per_s / b for r, b in zip(served, best, strict=True)]
    return {
        "ms_an_image_alone": 1000 / statistics.median(here[1]),
        "in_process_images_per_s": statistics.median(best),
        "images_per_s": statistics.median(r.requests_per_s for r in served),
        "p99_ms": statistics.median(r.p99_ms for r in served),
        "failures": sum(r.num_failures for r in served),
        "without_batching_images_per_s": statistics.median(r.requests_per_s for r in plain),
        "share_of_in_process": statistics.median(shares),
        "smallest_share": min(shares),
    }


def encoded(work: Path, seconds: float) -> Figures:
    """CPU of the server for a request with one JPEG, beside TensorFlow's decoder on the same bytes.

    And beside the same request with the pixels at the network's size, which needs no decoding.
    """
    import tensorflow as tf

    models.images(work / "images" / "1")
    data = jpeg()
    request = _request("images", {"image": [data]})
    pixels = _request("images", {"image": np.zeros((1, 96, 96, 3), np.uint8)}, "tensor")
    bare, total, rest, p50 = [], [], [], []
    with ChildServer(work / "images", "images") as server:
        measure(Load(server.address, request, 1, 0.5))
        for _ in range(ROUNDS):
            bare.append(_cpu_ms(lambda: tf.io.decode_jpeg(data, channels=3).numpy(), seconds))
            cost, latency = _server_cpu_ms(server, request, seconds)
            total.append(cost)
            p50.append(latency)
            rest.append(_server_cpu_ms(server, pixels, seconds)[0])
    return {
        "jpeg_bytes": len(data),
        "request_p50_ms": statistics.median(p50),
        "server_cpu_ms": statistics.median(total),
        "decoder_cpu_ms": statistics.median(bare),
        "without_decoding_cpu_ms": statistics.median(rest),
        "decoding_share": statistics.median(b / t for b, t in zip(bare, total, strict=True)),
    }


def _server_cpu_ms(
    server: ChildServer, request: predict_pb2.PredictRequest, seconds: float
) -> tuple[float, float]:
    """CPU that the server takes for a request, and the p50, both in milliseconds."""
    before = server.cpu_s()
    result = measure(Load(server.address, request, 1, seconds, warmup_s=0.0))
    return (server.cpu_s() - before) * 1000 / len(result.latency_ms), result.p50_ms


def switch(work: Path, seconds: float) -> Figures:
    """Switches of a version under load, each on a server of its own: medians, and all failures."""
    rounds = [_one_switch(work / str(i), seconds) for i in range(SWITCHES)]
    figures = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    return {
        **figures,
        "requests": sum(r["requests"] for r in rounds),
        "failures": sum(r["failures"] for r in rounds),
        "largest_ratio": max(r["ratio"] for r in rounds),
    }


def _one_switch(work: Path, seconds: float) -> Figures:
    """A new version comes under load (8 callers, no retries): failures, and p99 before and during."""
    base, calm_s = work / "switching", max(4.0, seconds)
    models.save(models.tiny_module(2.0), base / "1")
    models.save(models.tiny_module(3.0), work / "next")
    request = _request("switching", {"x": np.ones((1, 4), np.float32)})
    flags = ("--file_system_poll_wait_seconds=1",)
    with (
        ChildServer(base, "switching", *flags) as server,
        Client(server.address, model="switching") as client,
    ):
        finish = start(Load(server.address, request, 8, 2 * calm_s + 8, warmup_s=2.0))
        time.sleep(calm_s + 3.0)
        began = time.time()
        shutil.move(work / "next", base / ".2")
        (base / ".2").rename(base / "2")
        while [v.version for v in client.status() if v.available] != [2]:
            time.sleep(0.05)
        ended = time.time()
        result = finish()
    before = result.between(began - calm_s, began)
    during = result.between(began, ended)
    after = result.between(ended, ended + calm_s)
    return {
        "requests": len(result.latency_ms),
        "failures": result.num_failures,
        "switch_s": ended - began,
        "p99_before_ms": before.p99_ms,
        "p99_during_ms": during.p99_ms,
        "p99_after_ms": after.p99_ms,
        "ratio": during.p99_ms / before.p99_ms,
    }


def jpeg(width: int = 800, height: int = 600) -> bytes:
    """A photograph-like JPEG: soft shapes and some noise, quality 90."""
    from PIL import Image, ImageFilter

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    pixels = np.asarray(
        coarse.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    )
    noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _request(
    model: str, inputs: Mapping[str, Any], signature: str = "serving_default"
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(value))
    return request


def _in_process(folder: Path, inputs: Mapping[str, Any]) -> Callable[[], Any]:
    """The same call without a server: numpy in, numpy out, through a session as the server has one."""
    from pergola.serving.server.core.model import RuntimeSettings, load

    model = load(folder, RuntimeSettings())
    signature = model.signature_defs["serving_default"]
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    fetches = [output.name for output in signature.outputs.values()]
    return lambda: model.run(feeds, fetches)


def _p50_ms(call: Callable[[], Any], seconds: float) -> float:
    call()
    latencies, ends = [], time.perf_counter() + seconds
    while not latencies or time.perf_counter() < ends:
        clock = time.perf_counter()
        call()
        latencies.append(time.perf_counter() - clock)
    return statistics.median(latencies) * 1000


def _cpu_ms(call: Callable[[], Any], seconds: float) -> float:
    call()
    count, begin, ends = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        call()
        count += 1
    return (time.process_time() - begin) * 1000 / count
