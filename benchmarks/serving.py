"""Client and server: import, latency, throughput beside MLflow, batching, decoding, version switch."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.import_cost import import_cost
from benchmarks.serving_parts import measures
from pergola.serving.tools.batching_search import BatchingTrial

# What the project promises: (part, figure, limit, "most" or "least").
PROMISES = (
    ("import_cost", "client.seconds", 0.25, "most"),
    ("import_cost", "client.resident_mb", 70, "most"),
    ("import_cost", "client.installed_mb", 130, "most"),
    ("unary", "above_ms", 0.7, "most"),
    ("beside_mlflow", "row.ratio", 30, "least"),
    ("beside_mlflow", "image.ratio", 30, "least"),
    *(("batching", f"{name}.ms_an_image_alone", 5, "least") for name in measures.WEIGHTS),
    *(("batching", f"{name}.share_of_in_process", 0.9, "least") for name in measures.WEIGHTS),
    ("switch", "failures", 0, "most"),
    ("switch", "ratio", 2, "most"),
)
PARTS = ("import_cost", "unary", "beside_mlflow", "batching", "encoded", "switch")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench serving", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--only", default=",".join(PARTS), help=f"parts, with commas (default: {','.join(PARTS)})"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each single measurement (default 4)")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="pergola-bench-") as folder:
        for part in chosen:
            print(f"{part} …", file=sys.stderr)
            report[part] = run(part, Path(folder), options.seconds)
    print(json.dumps(report) if options.json else table(report))
    return 0


def run(part: str, work: Path, seconds: float) -> dict[str, Any]:
    """The figures of one part."""
    if part == "import_cost":
        return import_cost()
    if part == "batching":
        return measures.batching(work, seconds, _tell)
    return dict(getattr(measures, part)(work / part, seconds))


def machine() -> dict[str, Any]:
    """What the figures were taken on; a load above 0.5 says that it was busy with something else."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if line.startswith("model name")), ":unknown")
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def table(report: Mapping[str, Any]) -> str:
    """All figures, with the promised limit where there is one."""
    limits = {(part, name): (limit, kind) for part, name, limit, kind in PROMISES}
    lines = [", ".join(f"{key} {_short(value)}" for key, value in report["machine"].items()), ""]
    for part, figures in report.items():
        if part == "machine":
            continue
        for name, value in _flat(figures):
            limit, kind = limits.get((part, name), (None, ""))
            wanted = f"at {kind} {limit:g}" if limit is not None else ""
            lines.append(
                f"{part:<14} {name:<32} {_short(value):>12}  {wanted:<12} {_verdict(value, limit, kind)}"
            )
    return "\n".join(lines)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in figures.items():
        found += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def _verdict(value: Any, limit: float | None, kind: str) -> str:
    if limit is None:
        return ""
    return "kept" if (value <= limit if kind == "most" else value >= limit) else "MISSED"


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def _tell(trial: BatchingTrial) -> None:
    words = "without batching" if trial.parameters is None else trial.parameters.text().replace("\n", " ")
    print(f"  {trial.requests_per_s:7.1f}/s p99 {trial.p99_ms:7.1f} ms  {words}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
