"""Time and memory of importing the client, as a ratio to `import grpc, numpy`; --stubs: TensorFlow's too."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
ROUNDS = 9
BASE = "import grpc, numpy"
CLIENT = "import pergola; pergola.Client"
STUBS = "import tensorflow_serving.apis.prediction_service_pb2_grpc"
NAMES = ("seconds", "cpu_s", "resident_mb")
Figures = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench import_cost", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"processes of each (default {ROUNDS})")
    parser.add_argument("--stubs", action="store_true", help="tensorflow-serving-api too, once")
    options = parser.parse_args()
    report = import_cost(options.rounds, stubs=options.stubs)
    print(json.dumps(report) if options.json else table(report))
    return 0


def import_cost(rounds: int = ROUNDS, *, stubs: bool = True) -> dict[str, Any]:
    """Medians of fresh processes, those of each round one after the other, and the client's as a ratio to
    `import grpc, numpy`: the median of the ratios within a round, so that a busy moment counts for both."""
    lines = {"python": "", "grpc_numpy": BASE, "client": CLIENT}
    rows: dict[str, list[Figures]] = {name: [] for name in lines}
    for _ in range(rounds + 1):
        for name, line in lines.items():
            rows[name].append(cost(line))
    kept = {name: found[1:] for name, found in rows.items()}  # the first round reads files from disk
    report: dict[str, Any] = {name: medians(found) for name, found in kept.items()}
    pairs = list(zip(kept["client"], kept["grpc_numpy"], strict=True))
    report["ratio"] = {key: statistics.median(a[key] / b[key] for a, b in pairs) for key in NAMES}
    report["client"]["installed_mb"] = installed_mb("pergola-ml")
    if stubs:
        installed = {"installed_mb": installed_mb("tensorflow-serving-api")}
        report["tensorflow_serving_api"] = {**cost(STUBS), **installed}
    return report


def cost(line: str) -> Figures:
    """Wall time, CPU time and largest resident memory of a fresh Python that runs one line."""
    code = f"{line}\nprint(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    before, clock = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    seconds, after = time.perf_counter() - clock, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return dict(zip(NAMES, (seconds, cpu_s, int(done.stdout) / 1024), strict=True))


def medians(rows: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(row[name] for row in rows) for name in NAMES}


def installed_mb(name: str) -> float:
    """Megabytes of a distribution's files and of all that it depends on without extras, bytecode included."""
    seen: dict[str, float] = {}
    waiting = [name]
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        if distribution.name in seen:
            continue
        seen[distribution.name] = _files_mb(distribution)
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return sum(seen.values())


def _files_mb(distribution: importlib.metadata.Distribution) -> float:
    if distribution.name == "pergola-ml":  # an editable install lists no files of its packages
        folders = [ROOT / folder for folder in ("pergola", "pipelines", "components", "serving", "k8s")]
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    else:
        files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    return sum(file.stat().st_size for file in files if file.exists()) / 1e6


def table(report: dict[str, Any]) -> str:
    """A line each."""
    titles = {"python": "python", "grpc_numpy": BASE, "client": CLIENT, "ratio": "client / grpc, numpy"}
    lines = [f"{'':34}{'seconds':>9}{'CPU s':>9}{'MB':>9}{'installed MB':>14}"]
    for name, row in report.items():
        unit = "x" if name == "ratio" else ""
        cells = "".join(f"{row[key]:>{8 if unit else 9}.2f}{unit}" for key in NAMES[:2])
        memory = f"{row['resident_mb']:>8.2f}x" if unit else f"{row['resident_mb']:>9.0f}"
        installed = f"{row['installed_mb']:>14.0f}" if "installed_mb" in row else ""
        lines.append(f"{titles.get(name, name):34}{cells}{memory}{installed}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
