"""The chart of a baseline comparison: training and test accuracy of each network, and its training time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.training.search.comparison import ComparedNetwork

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG, PNG = "ladder.svg", "ladder.png"

_TRAIN, _TEST, _GAP = "#d9772b", "#2f7ed8", "#b8b8b8"
STYLE = {
    "svg.hashsalt": "pergola",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw(rows: Sequence[ComparedNetwork], folder: Path) -> None:
    """Write ladder.svg and ladder.png: accuracies with the gap between them, and seconds of training."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.4 + 0.42 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _accuracies(left, rows)
        _seconds(right, rows)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / SVG, metadata={"Date": None, "Creator": None})
        figure.savefig(folder / PNG, dpi=150)


def _accuracies(axes: Axes, rows: Sequence[ComparedNetwork]) -> None:
    places = range(len(rows))
    train = [100 * row.train_accuracy for row in rows]
    test = [100 * row.test_accuracy for row in rows]
    axes.hlines(places, test, train, color=_GAP, linewidth=4, zorder=1, label="gap: overfitting")
    axes.scatter(train, places, color=_TRAIN, zorder=2, label="on training images")
    axes.scatter(test, places, color=_TEST, zorder=3, label="on test images")
    for place, row, value in zip(places, rows, test, strict=True):
        axes.annotate(f"{100 * row.test_accuracy:.1f}", (value, place), xytext=(0, 7),
                      textcoords="offset points", ha="center", color=_TEST)  # fmt: skip
    axes.set_yticks(places, [f"{row.name}\n{row.num_parameters:,}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)  # the first on top
    axes.set(xlabel="accuracy, %", ylabel="network and its parameters")
    axes.margins(x=0.08)
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def _seconds(axes: Axes, rows: Sequence[ComparedNetwork]) -> None:
    seconds = [row.seconds for row in rows]
    bars = axes.barh(range(len(rows)), seconds, color=_GAP, height=0.55)
    axes.bar_label(
        bars, [f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s" for value in seconds], padding=3
    )
    axes.set(xlabel="seconds of training")
    axes.margins(x=0.2)
    axes.tick_params(axis="y", length=0)
