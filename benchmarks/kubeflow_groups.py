"""Wall time of a run on Kubeflow with grouped steps and with a task a step; tasks are local processes.

scripts/bench kubeflow_groups [--images 60] [--rounds 1] [--json]

The pipeline "retraining" on small images, run by kfp.local without containers, in turns. What a pod costs
before it computes is not in it: on a cluster each task adds 10 to 60 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from tests.pipelines.kubeflow.local_runs import run_locally
from tests.support.images import write_folder

SETTINGS = ("train.epochs=12", "train.batch_size=16", "train.precision=float32", "smoke_test.rounds=1",
            "release.name=stripes", "gate.min_accuracy=0.05", "gate.min_recall=0", "gate.max_gap=1",
            "gate.max_drop=1")  # fmt: skip


def main() -> None:
    """Run both in turns and print seconds and ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60, help="a class")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {"none": [], "auto": []}
    with tempfile.TemporaryDirectory() as scratch:
        dataset = write_folder(Path(scratch) / "stripes", classes=2, per_class=asked.images)
        for number in range(asked.rounds):
            for group, found in seconds.items():
                place = Path(scratch) / f"{group}-{number}"
                ran = run_locally(
                    "retraining", dataset, place / "work", place / "root", SETTINGS, group=group
                )
                found.append(ran.seconds)
    median = {group: statistics.median(found) for group, found in seconds.items()}
    ratio = median["auto"] / median["none"]
    if asked.json:
        print(json.dumps({"seconds": seconds, "ratio": ratio}))
    else:
        print(f"one task a step {median['none']:.0f} s, grouped {median['auto']:.0f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
