"""Drift detection: false alarms and power by simulation; seconds for 10,000 requests.

scripts/bench drift [--runs 300] [--json]

Samples are drawn from a known distribution: predictions of 9 classes, confidence, six statistics and an
embedding, all dependent on one another. "unchanged" draws requests from the distribution of the reference.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pergola.components.data.tfrecord import record
from pergola.components.evaluation.drift import request_log
from pergola.components.evaluation.drift.drift import DriftSettings, drift
from pergola.components.evaluation.drift.reference import STATISTICS, Sample, make_reference
from pergola.components.stats.metrics import wilson_interval

CLASSES, WIDTH = 9, 32
QUICK = 199  # minimum number of permutations; more are used while a result is open, so rates do not change
LABELS = tuple(f"class_{i}" for i in range(CLASSES))
CHANGES: dict[str, dict[str, float]] = {
    "unchanged": {},
    "a class twice as frequent": {"first_class": 2.0},
    "brightness up by half a deviation": {"brightness": 0.5},
    "less sure": {"sureness": 0.6},
    "a direction of the embedding moved": {"embedding": 1.0},
}


def draw(rng: np.random.Generator, count: int, change: Mapping[str, float], width: int = WIDTH) -> Sample:
    """A sample of the known law, changed."""
    shares = np.ones(CLASSES)
    shares[0] *= change.get("first_class", 1.0)
    predicted = rng.choice(CLASSES, count, p=shares / shares.sum())
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    vectors[np.arange(count), predicted] += 3
    vectors[:, CLASSES] += change.get("embedding", 0.0)
    logit = (3 + vectors[:, 1]) * change.get("sureness", 1.0)
    columns = {name: vectors[:, 2 + i] + rng.normal(size=count) for i, name in enumerate(STATISTICS)}
    columns["brightness"] = columns["brightness"] + change.get("brightness", 0.0) * np.sqrt(2)
    return Sample(predicted, 1 / (1 + np.exp(-logit)), columns, vectors)


def alarms(
    runs: int, num_reference: int, num_live: int, settings: DriftSettings, change: Mapping[str, float]
) -> dict[str, Any]:
    """Share of looks, each with a reference of its own, that raise an alarm, with its 95% interval."""
    found = 0
    for run in range(runs):
        rng = np.random.default_rng((run, num_live))
        with tempfile.TemporaryDirectory() as folder:
            confusion = np.full((CLASSES, CLASSES), 1) + 30 * np.eye(CLASSES, dtype=int)
            make_reference(draw(rng, num_reference, {}), LABELS, confusion, Path(folder))
            found += drift(Path(folder), draw(rng, num_live, change), settings).drifted
    low, high = wilson_interval(found, runs)
    return {"runs": runs, "alarms": found / runs, "low": low, "high": high}


def periods(runs: int, looks: int, num_reference: int, num_live: int) -> dict[str, Any]:
    """Share of periods, in each of which one reference is looked at `looks` times, with any false alarm."""
    settings = DriftSettings(looks=looks, min_shift=0.0, num_permutations=QUICK)
    found = 0
    for run in range(runs):
        rng = np.random.default_rng((run, looks, 7))
        with tempfile.TemporaryDirectory() as folder:
            make_reference(draw(rng, num_reference, {}), LABELS, np.eye(CLASSES, dtype=int), Path(folder))
            found += any(
                drift(Path(folder), draw(rng, num_live, {}), settings, look=look).drifted
                for look in range(1, looks + 1)
            )
    low, high = wilson_interval(found, runs)
    stated = settings.alpha
    return {
        "periods": runs,
        "looks": looks,
        "with_alarm": found / runs,
        "low": low,
        "high": high,
        "stated": stated,
    }


def timed(num_live: int, width: int = 1280, num_reference: int = 350) -> dict[str, Any]:
    """Seconds of one look at so many requests with embeddings of MobileNetV2's width."""
    rng = np.random.default_rng(0)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make_reference(draw(rng, num_reference, {}, width), LABELS, np.eye(CLASSES, dtype=int), Path(folder))
        for name in ("unchanged", "brightness up by half a deviation"):
            live = draw(rng, num_live, CHANGES[name], width)
            wall, cpu = time.perf_counter(), time.process_time()
            report = drift(Path(folder), live)
            found[name] = {
                "seconds": round(time.perf_counter() - wall, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "drifted": report.drifted,
            }
    return {"requests": num_live, "reference": num_reference, "width": width, **found}


def logged(num_images: int, size: tuple[int, int] = (500, 375)) -> dict[str, Any]:
    """Seconds to read a log of so many JPEGs, one a request, and to measure each; 50 images in turn."""
    from tensorflow_serving.apis import prediction_log_pb2

    rng = np.random.default_rng(0)
    images = [_jpeg(rng, size) for _ in range(50)]
    entry = prediction_log_pb2.PredictionLog()
    entry.log_metadata.model_spec.name = "m"
    entry.log_metadata.model_spec.version.value = 1
    image = entry.predict_log.request.inputs["image"]
    image.dtype, answer = 7, entry.predict_log.response.outputs["probabilities"]
    answer.dtype = 1
    image.tensor_shape.dim.add().size = answer.tensor_shape.dim.add().size = 1
    answer.tensor_shape.dim.add().size = CLASSES
    answer.float_val.extend([1 / CLASSES] * CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log-1.tfrecord"
        with open(path, "wb") as file:
            for number in range(num_images):
                image.string_val[:] = [images[number % len(images)]]
                file.write(record(entry.SerializeToString()))
        wall, cpu = time.perf_counter(), time.process_time()
        span = request_log.span_of([path])
        sample = request_log.sample_log([path], count=span.count)
        found = {
            "seconds": round(time.perf_counter() - wall, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
    assert len(sample) == num_images
    return {"images": num_images, "pixels": size, "bytes": int(np.mean([*map(len, images)])), **found}


def _jpeg(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).resize(size)
    noisy = np.asarray(coarse, np.float32) + rng.normal(0, 6, (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def measure(runs: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures."""
    progress("10,000 requests …")
    result: dict[str, Any] = {"log": logged(10_000), "time": timed(10_000)}
    progress("false alarms …")
    loose = DriftSettings(alpha=0.05, looks=1, min_shift=0.0, num_permutations=QUICK)
    result["one look"] = {
        size: alarms(runs, 262, size, loose, {}) | {"stated": loose.alpha} for size in (100, 1000)
    }
    result["period"] = periods(max(20, runs // 5), 10, 262, 200)
    progress("what is found …")
    usual = DriftSettings(num_permutations=QUICK)
    result["found"] = {
        name: {size: alarms(max(20, runs // 10), 262, size, usual, change) for size in (200, 1000)}
        for name, change in CHANGES.items()
    }
    return result


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    time_of = result["time"]
    log = result["log"]
    lines = [
        f"Log of {log['images']} JPEGs of {log['pixels']} pixels, {log['bytes']:,} bytes each:",
        f"  read and measured: {log['seconds']} s ({log['cpu_seconds']} s of CPU)",
        f"{time_of['requests']} requests, embedding of {time_of['width']}:",
    ]
    lines += [
        f"  {name:36} {one['seconds']:6.2f} s ({one['cpu_seconds']:.2f} s of CPU), drift: {one['drifted']}"
        for name, one in time_of.items()
        if isinstance(one, dict)
    ]
    lines.append("False alarms at one look, reference of 262 images, alpha 5%:")
    lines += [
        f"  {size:5} requests  {_share(one, 'alarms')} of {one['runs']}"
        for size, one in result["one look"].items()
    ]
    period = result["period"]
    lines.append(f"Periods of {period['looks']} looks with any false alarm, alpha 5% a period:")
    lines.append(f"  {_share(period, 'with_alarm')} of {period['periods']}")
    lines.append("Looks that find drift, default settings (5% in 20 looks), 200 and 1,000 requests:")
    lines += [
        f"  {name:36} {'   '.join(_share(one, 'alarms') for one in by_size.values())}"
        for name, by_size in result["found"].items()
    ]
    return "\n".join(lines)


def _share(one: dict[str, Any], key: str) -> str:
    return f"{100 * one[key]:5.1f}% [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"


def main() -> None:
    import sys

    parser = argparse.ArgumentParser(prog="scripts/bench drift", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="looks a figure (default 300)")
    parser.add_argument("--log-only", action="store_true", help="only the time to read a log")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if options.log_only:
        print(json.dumps(logged(10_000)))
        return
    result = measure(options.runs, lambda words: print(words, file=sys.stderr))
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
