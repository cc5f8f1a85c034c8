"""One worker of distributed training: `python -m pergola.components.training.worker`.

    python -m pergola.components.training.worker SHARDS AUGMENTATION OUT --train '{"epochs": 3}' --model '{}'

Start all workers with the same arguments and with TF_CONFIG (components/training/distribution.py). The three
folders must be on a shared volume. Worker 0 writes OUT, and one line of JSON per epoch to standard output.
Without TF_CONFIG it trains alone, on all GPUs of the machine. Exit status: 0 success, 1 failure, 2 invalid
input. If one worker was killed, restart all of them: training resumes from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pergola.components import records
from pergola.components.errors import InputError, PergolaError
from pergola.components.training.fit import TrainSettings, fit
from pergola.components.training.models.architectures import ModelSettings


def main(arguments: Sequence[str]) -> int:
    """Train; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pergola.components.training.worker", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for folder in ("shards", "augmentation", "out"):
        parser.add_argument(folder, type=Path)
    parser.add_argument("--train", default="{}", metavar="JSON", help="settings of [train]")
    parser.add_argument("--model", default="{}", metavar="JSON", help="settings of [model]")
    options = parser.parse_args(arguments)
    try:
        train = records.from_dict(TrainSettings, _table(options.train, "--train"), "--train")
        model = records.from_dict(ModelSettings, _table(options.model, "--model"), "--model")
        fit(options.shards, options.augmentation, options.out, model, train, on_epoch=_report)
    except PergolaError as error:
        sys.stderr.write(f"worker: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


def _table(text: str, where: str) -> Mapping[str, object]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: expected JSON, got '{text}' ({error}).") from None
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, got '{text}'.")
    return data


def _report(epoch: int, figures: Mapping[str, float]) -> None:
    sys.stdout.write(json.dumps({"epoch": epoch, **figures}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
