"""Images/s of scan beside a bare decode loop, and peak memory of scan, validate and split.

scripts/bench scan [FOLDER] [--rows 10000 1000000] [--no-memory] [--json]
FOLDER defaults to ../shared/data/leaves. The bare loop opens each file with Pillow and decodes it as RGB,
over the same files, in as many processes, in turn with the scan; its processes are running already when its
time begins, those of the scan are not. Rows are distinct 8 x 8 images in an IDX file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.checks.validate import ValidateSettings, validate
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.source import open_source
from pergola.components.data.split import SplitSettings, split

LEAVES = Path(__file__).parents[1] / "../shared/data/leaves"
_ENOUGH = 10_000  # files, so that starting processes is not what is measured
_TURNS = 3
_BATCH = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench scan", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=LEAVES)
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 1_000_000])
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(one_step(asked.step[0], Path(asked.step[1]))))
        return
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "speed": speed(asked.folder)}
    if not asked.no_memory:
        result["memory"] = {str(rows): memory(rows) for rows in asked.rows}
    print(json.dumps(result) if asked.json else table(result))


def speed(folder: Path) -> dict[str, Any]:
    """Both ways in turn over one folder, whose files are linked until there are enough."""
    with tempfile.TemporaryDirectory() as scratch:
        dataset, files = _many(folder, Path(scratch) / "dataset")
        cores = len(os.sched_getaffinity(0))
        bare_s, scan_s = [], []
        with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
            portions = [files[start : start + 64] for start in range(0, len(files), 64)]
            list(pool.map(decode, portions))  # warm: processes, file cache
            for turn in range(_TURNS):
                begin = time.perf_counter()
                list(pool.map(decode, portions))
                bare_s.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                source = open_source(dataset, ScanSettings(), Path(scratch) / f"scratch{turn}")
                scan(source, Path(scratch) / f"m{turn}", ScanSettings())
                scan_s.append(time.perf_counter() - begin)
    bare, scanned = (len(files) / statistics.median(seconds) for seconds in (bare_s, scan_s))
    return {
        "folder": folder.name,
        "files": len(files),
        "bare_images_per_s": round(bare),
        "scan_images_per_s": round(scanned),
        "ratio": round(scanned / bare, 2),
    }


def decode(files: list[str]) -> int:
    """The bare loop."""
    for file in files:
        with Image.open(file) as image:
            image.convert("RGB")
    return len(files)


def memory(rows: int) -> dict[str, dict[str, float]]:
    """Peak resident memory and seconds of each step, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        _write_idx(Path(folder) / "data", rows)
        return {step: _measured(step, folder) for step in ("scan", "validate", "split")}


def one_step(step: str, folder: Path) -> dict[str, float]:
    """One step in this process."""
    begin = time.perf_counter()
    if step == "scan":
        source = open_source(folder / "data", ScanSettings(), folder / "scratch")
        scan(source, folder / "m", ScanSettings())
    elif step == "validate":
        validate(folder / "m", ValidateSettings()).save(folder / "v")
    else:
        split(folder / "m", ValidationReport.load(folder / "v"), folder / "s", SplitSettings())
    peak, peak_of_readers = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    seconds = time.perf_counter() - begin
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
        "peak_mb_of_a_reader": round(peak_of_readers),
    }


def table(result: dict[str, Any]) -> str:
    """What a person reads."""
    speed = result["speed"]
    lines = [
        f"{speed['files']:,} files of {speed['folder']}, {result['cores']} cores",
        f"  bare decode loop {speed['bare_images_per_s']:>8,} images/s",
        f"  scan             {speed['scan_images_per_s']:>8,} images/s   {speed['ratio']:.2f} of the bare "
        f"loop",
    ]
    for rows, steps in result.get("memory", {}).items():
        lines.append(f"{int(rows):,} rows")
        lines += [
            f"  {name:9} {step['seconds']:>7.1f} s   peak {step['peak_mb']:>5,} MB"
            + (f", each reader {step['peak_mb_of_a_reader']:,} MB" if step["peak_mb_of_a_reader"] else "")
            for name, step in steps.items()
        ]
    return "\n".join(lines)


def _many(folder: Path, target: Path) -> tuple[Path, list[str]]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        sys.exit(f"{folder} holds no images. Name a folder: scripts/bench scan FOLDER.")
    files = []
    for copy in range(-(-_ENOUGH // len(found))):
        for path in found:
            place = target / path.parent.name / f"{copy}-{path.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.resolve())
            files.append(str(place))
    return target, files


def _write_idx(folder: Path, rows: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (
        open(folder / "train-images-idx3-ubyte", "wb") as images,
        open(folder / "train-labels-idx1-ubyte", "wb") as labels,
    ):
        images.write(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (rows, 8, 8)))
        labels.write(b"\0\0\x08\x01" + rows.to_bytes(4, "big"))
        for start in range(0, rows, _BATCH):
            count = min(_BATCH, rows - start)
            images.write(rng.integers(0, 256, (count, 8, 8), np.uint8).tobytes())
            labels.write((np.arange(count) % 10).astype(np.uint8).tobytes())


def _measured(step: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scan", "--step", step, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
