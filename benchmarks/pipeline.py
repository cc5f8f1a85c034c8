"""Seconds a step, peak memory and overhead of `pergola run`, its unchanged rerun, and `--help`.

scripts/bench pipeline [DATASET] [--set section.key=value …] [--json]; DATASET defaults to the digits.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pergola.pipelines.commands.demo_data import write_digits


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench pipeline", description=__doc__)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        dataset = asked.dataset or _digits(Path(scratch))
        result = measure(dataset, Path(scratch) / "work", asked.set)
    print(json.dumps(result) if asked.json else table(result))


def measure(dataset: Path, workspace: Path, overrides: list[str]) -> dict[str, Any]:
    """A first run, three unchanged reruns, five times --help."""
    command = ["run", str(dataset), "--workspace", str(workspace), "--json"]
    for override in overrides:
        command += ["--set", override]
    first, first_s = _pergola(*command)
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    steps_s = sum(first["seconds"].values())
    again = [_pergola(*command) for _ in range(3)]
    assert all(set(result["reused"]) == set(result["seconds"]) for result, _ in again)
    helps = [_seconds("--help") for _ in range(5)]
    return {
        "dataset": dataset.name,
        "cores": os.cpu_count(),
        "decision": first["decision"],
        "accuracy": first["metrics"]["accuracy"],
        "images": first["counts"]["images"],
        "seconds": first["seconds"],
        "run_s": round(first_s, 2),
        "overhead_s": round(first_s - steps_s, 2),
        "peak_mb_of_one_process": round(peak_mb),
        "unchanged_rerun_s": round(statistics.median(seconds for _, seconds in again), 2),
        "help_s": round(statistics.median(helps), 3),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    lines = [f"{result['dataset']}: {result['images']:,} images on {result['cores']} cores"]
    lines += [f"  {step:<12}{seconds:>8.2f} s" for step, seconds in result["seconds"].items()]
    lines += [
        f"whole run         {result['run_s']:>8.2f} s, outside of steps {result['overhead_s']:.2f} s",
        f"peak memory       {result['peak_mb_of_one_process']:>8,} MB in the largest process",
        f"unchanged rerun   {result['unchanged_rerun_s']:>8.2f} s (median of 3)",
        f"pergola --help    {result['help_s']:>8.3f} s (median of 5)",
        f"{result['decision']}, test accuracy {result['accuracy']:.4f}",
    ]
    return "\n".join(lines)


def _digits(scratch: Path) -> Path:
    write_digits(scratch / "digits")
    return scratch / "digits"


def _pergola(*arguments: str) -> tuple[dict[str, Any], float]:
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pergola.pipelines.commands.cli", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout), time.perf_counter() - begin


def _seconds(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pergola.pipelines.commands.cli", *arguments], capture_output=True, check=True
    )
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
