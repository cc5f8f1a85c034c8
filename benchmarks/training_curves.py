"""The plot of `scripts/bench training`: validation error by seconds of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pergola.components.training.search.comparison_chart import STYLE

SECONDS = (10, 30, 100, 300, 1000, 3000)
ERRORS = (0, 1, 2, 5, 10, 20, 50)


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """Write an SVG file with a line for each training, one colour per case.

    runs: for each case, the results of each seed, as written by `benchmarks/training.py`.
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
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1.0)  # an error of 0 must be on the axis
        axes.set_xticks(SECONDS, [f"{value:,}" for value in SECONDS])
        axes.set_yticks(ERRORS, [str(value) for value in ERRORS])
        axes.minorticks_off()
        axes.set(xlabel="seconds of training", ylabel="validation error, %")
        axes.set_ylim(-0.1, None)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None, "Creator": None})
