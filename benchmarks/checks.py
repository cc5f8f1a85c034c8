"""Checks: images/s beside CleanVision on the same folder, and near-duplicates among 100,000 images.

scripts/bench checks [FOLDER] [--files 20000] [--rows 100000] [--no-peer] [--json]
FOLDER defaults to ../shared/data/leaves; its files are linked until there are --files. CleanVision is
installed into .tools/cleanvision, an environment of its own, and runs in turn with ours, each in a
fresh process whose imports count; what these alone take is measured as well. Timed are the checks that
both have: dark, light, odd aspect ratio, odd size, low information (blank), blurry, exact and near
duplicates; a second line adds grey images among coloured ones.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LEAVES = Path(__file__).parents[2] / "shared" / "data" / "leaves"
_PEER = Path(".tools/cleanvision")
_PEER_VERSION = "0.3.7"
_BOTH = ["dark", "light", "odd_aspect_ratio", "odd_size", "low_information", "blurry",
         "exact_duplicates", "near_duplicates"]  # fmt: skip
_SPEEDS = {"images_per_s": "seconds", "images_per_cpu_s": "cpu_s"}
_OUR_IMPORTS = (
    "import numpy, pandas, pyarrow.parquet, pergola.components.data.checks.validate, benchmarks.checks"
)
_PEER_IMPORTS = "from cleanvision import Imagelab"
_PEER_CODE = """
import sys, json
from cleanvision import Imagelab
lab = Imagelab(data_path=sys.argv[1])
lab.find_issues({name: {} for name in json.loads(sys.argv[2])}, verbose=False)
print(json.dumps({"images": len(lab.issues)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench checks", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=LEAVES)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=100_000, help="images for near-duplicates; 0: none")
    parser.add_argument("--no-peer", action="store_true", help="do not run CleanVision")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ours:
        print(json.dumps(ours(Path(asked.ours[0]), grey=asked.ours[1] == "grey")))
        return
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "folder": asked.folder.name}
    if asked.files:
        result["checks"] = beside(asked.folder, asked.files, peer=not asked.no_peer)
    if asked.rows:
        result["near_duplicates"] = near_duplicates(asked.rows)
    print(json.dumps(result) if asked.json else table(result))


def beside(folder: Path, files: int, *, peer: bool) -> dict[str, Any]:
    """Both on the same files, in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        dataset = linked(folder, Path(scratch) / "dataset", files)
        found: dict[str, Any] = {}
        starts = [_run([sys.executable, "-c", _OUR_IMPORTS])]
        starts += [_run([_peer(), "-c", _PEER_IMPORTS])] if peer else []
        for name, more in (("both_have", []), ("with_grey", ["grayscale"])):
            mine = _run(
                [sys.executable, "-m", "benchmarks.checks", "--ours", str(dataset), "grey" if more else "-"]
            )
            theirs = (
                _run([_peer(), "-c", _PEER_CODE, str(dataset), json.dumps(_BOTH + more)]) if peer else None
            )
            found[name] = {"images": mine["images"], "ours": _speed(mine)}
            if theirs:
                found[name] |= {
                    "cleanvision": _speed(theirs),
                    "times": round(theirs["seconds"] / mine["seconds"], 1),
                    "times_by_cpu": round(theirs["cpu_s"] / mine["cpu_s"], 1),
                    "imports_s": [round(start["seconds"], 2) for start in starts],
                    "times_without_imports": _without(starts, mine, theirs),
                }
            print(f"{name}: {found[name]}", file=sys.stderr)
    return found


def _without(starts: list[dict[str, float]], mine: dict[str, float], theirs: dict[str, float]) -> float:
    """How many times as fast ours is when the imports' seconds are left out on both sides."""
    left = [run["seconds"] - start["seconds"] for run, start in zip((mine, theirs), starts, strict=True)]
    return round(left[1] / left[0], 1)


def ours(dataset: Path, *, grey: bool) -> dict[str, float]:
    """Scan and checks in this process."""
    from pergola.components.data.checks.facts import ImageAccess
    from pergola.components.data.checks.validate import ValidateSettings, run_checks
    from pergola.components.data.manifest.scan import ScanSettings, scan
    from pergola.components.data.sources.source import open_source

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = open_source(dataset, ScanSettings(), work / "scratch")
        manifest = scan(source, work / "m", ScanSettings())
        settings = ValidateSettings(label_errors=False, shortcuts=False, crops=False, max_inspected=1_000_000)
        run_checks(work / "m", settings, ImageAccess(source) if grey else None)
    return {"images": manifest.num_rows}


def near_duplicates(rows: int) -> dict[str, Any]:
    """Seconds to group images, a hundredth of which are changed copies of others, from a manifest."""
    from pergola.components.data.manifest.duplicates import components, near_pairs

    thumbnails, planted = smooth(rows)
    step = 8192

    def blocks() -> Any:
        return (thumbnails[start : start + step] for start in range(0, rows, step))

    begin = time.perf_counter()
    pairs = near_pairs(np.full(rows, 500), blocks, lambda some: thumbnails[some])
    groups = components(pairs, rows)
    seconds = time.perf_counter() - begin
    found = sum(groups[copy] == groups[original] for copy, original in planted)
    return {"images": rows, "seconds": round(seconds, 1), "planted": len(planted), "found": int(found)}


def smooth(rows: int, seed: int = 0) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Thumbnails like those of photographs, whose power falls with frequency: uint8 (rows, 32, 32).

    Every hundredth is a brightened, noisy copy of the one before it: also gives (copy, original).
    """
    rng = np.random.default_rng(seed)
    places = (np.arange(32) + 0.5) * np.pi / 32
    waves = np.cos(np.arange(12)[:, None] * places)
    falling = 1 / (1 + np.hypot(*np.mgrid[0:12, 0:12])) ** 1.5
    found = np.empty((rows, 32, 32), np.uint8)
    for start in range(0, rows, 4096):
        part = rng.normal(size=(min(4096, rows - start), 12, 12)) * falling
        part[:, 0, 0] = 0
        pixels = np.einsum("nuv,ui,vj->nij", part, waves, waves)
        pixels *= 50 / pixels.std(axis=(1, 2), keepdims=True)
        found[start : start + len(part)] = np.clip(pixels + 128, 0, 255)
    planted = [(copy, copy - 1) for copy in range(99, rows, 100)]
    for copy, original in planted:
        found[copy] = np.clip(found[original] * 0.9 + 10 + rng.normal(0, 2, (32, 32)), 0, 255)
    return found, planted


def linked(folder: Path, target: Path, count: int) -> Path:
    """A folder with `count` links to the images of another, in the same classes."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        sys.exit(f"{folder} holds no images. Name a folder: scripts/bench checks FOLDER.")
    for number in range(count):
        path = found[number % len(found)]
        place = target / path.parent.name / f"{number // len(found)}-{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.resolve())
    return target


def table(result: dict[str, Any]) -> str:
    """What a person reads."""
    lines = []
    for name, one in result.get("checks", {}).items():
        lines.append(f"{name}: {one['images']:,} files of {result['folder']}, {result['cores']} cores")
        for who in ("ours", "cleanvision"):
            if who in one:
                a, b = one[who]["images_per_s"], one[who]["images_per_cpu_s"]
                lines.append(f"  {who:12}{a:>7,} images/s {b:>7,} images a second of CPU")
        if "times" in one:
            lines.append(
                f"  {one['times']} times as fast; {one['times_by_cpu']} times by CPU; "
                f"{one['times_without_imports']} times without the imports of both ({one['imports_s']} s)"
            )
    if one := result.get("near_duplicates"):
        lines.append(
            f"near-duplicates: {one['images']:,} images in {one['seconds']} s; "
            f"{one['found']} of {one['planted']} planted copies found"
        )
    return "\n".join(lines)


def _peer() -> str:
    """CleanVision's Python, installed at the first call."""
    python = _PEER / "bin" / "python"
    if not python.exists():
        print(f"installing CleanVision {_PEER_VERSION} into {_PEER}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(_PEER)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, f"cleanvision=={_PEER_VERSION}"], check=True)
    return str(python)


def _speed(measured: dict[str, float]) -> dict[str, int]:
    """Images a second, and a second of CPU, which other work on the machine hardly changes."""
    return {key: round(measured["images"] / measured[name]) for key, name in _SPEEDS.items()}


def _run(command: list[str]) -> dict[str, float]:
    begin, cpu_s = time.perf_counter(), _cpu_s()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    return {**found, "seconds": time.perf_counter() - begin, "cpu_s": _cpu_s() - cpu_s}


def _cpu_s() -> float:
    """Of all processes that ended below this one, with all their imports."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
