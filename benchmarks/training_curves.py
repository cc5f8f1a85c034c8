"""The picture of `scripts/bench training`: how the validation error falls with the seconds of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.training.comparison_chart import STYLE


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """Write an SVG file: one line a training, those of one case in one colour.

    runs: by the case's name, what `benchmarks/training.py` wrote of each seed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.0), layout="constrained")
        axes = figure.subplots()
        for number, (name, seeds) in enumerate(runs.items()):
            for run in seeds:
                seconds = [epoch["seconds"] for epoch in run["curve"]]
                errors = [100 * (1 - epoch["val_accuracy"]) for epoch in run["curve"]]
                label = name if run is seeds[0] else None
                axes.plot(seconds, errors, ".-", color=f"C{number}", linewidth=1, label=label)
        axes.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="validation error, %")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None, "Creator": None})
