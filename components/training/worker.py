"""One worker of a training on several machines: `python -m pergola.components.training.worker`.

    python -m pergola.components.training.worker SHARDS AUGMENTATION OUT --train '{"epochs": 3}' --model '{}'

All workers are started with the same arguments and with TF_CONFIG (components/training/distribution.py); the
three folders are on a volume that all of them see. Worker 0 writes OUT and a line of JSON an epoch to
standard output. Without TF_CONFIG it trains alone, on all GPUs of the machine. Exit status: 0 done, 1
something broke, 2 the caller's mistake. When one was killed, all are started again, and go on.
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
    """Train; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pergola.components.training.worker", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for folder in ("shards", "augmentation", "out"):
        parser.add_argument(folder, type=Path)
    parser.add_argument("--train", default="{}", metavar="JSON", help="of [train], as in a config file")
    parser.add_argument("--model", default="{}", metavar="JSON", help="of [model]")
    asked = parser.parse_args(arguments)
    try:
        train = records.from_dict(TrainSettings, _table(asked.train, "--train"), "--train")
        model = records.from_dict(ModelSettings, _table(asked.model, "--model"), "--model")
        fit(asked.shards, asked.augmentation, asked.out, model, train, on_epoch=_tell)
    except PergolaError as error:
        sys.stderr.write(f"worker: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


def _table(text: str, where: str) -> Mapping[str, object]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: wanted JSON, got '{text}' ({error}).") from None
    if not isinstance(data, dict):
        raise InputError(f"{where}: wanted a JSON object, got '{text}'.")
    return data


def _tell(epoch: int, figures: Mapping[str, float]) -> None:
    sys.stdout.write(json.dumps({"epoch": epoch, **figures}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
