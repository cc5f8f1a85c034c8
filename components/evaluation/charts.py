"""Charts of the pages as SVG.

They use the page's text colour, so they are readable on light and dark backgrounds. The same input gives
the same text: no date, no random identifiers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pergola.components.evaluation.calibration import Bin
from pergola.components.evaluation.cost_report import CostReport

Floats = npt.NDArray[np.floating]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#010203"  # placeholder for the page's text colour
_FIRST, _SECOND = "#2f7ed8", "#d9772b"  # readable on white and on near-black
_STYLE = {
    "svg.hashsalt": "pergola",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def curves(history: Sequence[Mapping[str, float]], best_epoch: int) -> str:
    """Loss and accuracy by epoch, training and validation, as SVG; "" without a history."""
    from matplotlib.ticker import MaxNLocator

    if not history:
        return ""
    epochs = range(1, len(history) + 1)

    def draw(what: str, axes: Axes) -> None:
        for key, name, colour in ((what, "training", _FIRST), (f"val_{what}", "validation", _SECOND)):
            values = [row.get(key, np.nan) for row in history]
            axes.plot(epochs, values, color=colour, label=name, marker="." if len(history) < 30 else "")
        axes.axvline(best_epoch, color=_INK, linewidth=0.7, linestyle=":")
        axes.set(title=what, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")

    return "".join(_svg(partial(draw, what), 3.7, 2.6) for what in ("loss", "accuracy"))


def reliability(bins: Sequence[Bin], before: Sequence[Bin] = ()) -> str:
    """Accuracy by confidence with its 95% interval, against the diagonal, as SVG.

    before: the same images without the temperature, drawn fainter.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.7, linestyle=":")
        if before:
            _points(axes, before, fmt="s", color=_SECOND, mfc="none", alpha=0.8, label="without temperature")
        _points(axes, bins, fmt="o", color=_FIRST, label="as served")
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        if before:
            axes.legend(loc="upper left")

    return _svg(draw, 4.2, 3.0)


def _points(axes: Axes, bins: Sequence[Bin], **look: Any) -> None:
    accuracy = np.array([bin.accuracy for bin in bins])
    ends = np.array([bin.interval for bin in bins]).reshape(len(bins), 2)
    errors = np.abs(ends.T - accuracy)
    confidence = [bin.confidence for bin in bins]
    axes.errorbar(confidence, accuracy, yerr=errors, markersize=4, capsize=2, linewidth=1, ls="", **look)


def cost_curve(report: CostReport) -> str:
    """Cost and accuracy by the share of images referred to a person, as SVG; "" without that option."""
    points = report.curve
    if not points:
        return ""
    own, _, constant = report.spendings[:3]
    asked = [100 * point.asked for point in points]

    def cost(left: Axes) -> None:
        left.plot(asked, [point.per_thousand for point in points], color=_FIRST, label="one threshold")
        left.plot(100 * own.asked, own.per_thousand, "o", color=_SECOND, label="cheapest decision")
        left.axhline(constant.per_thousand, color=_INK, linewidth=0.7, linestyle=":", label=constant.name)
        left.set(title="cost of 1,000 images", xlabel="% referred to a person")
        left.set_ylim(bottom=min(0, left.get_ylim()[0]))
        left.legend(loc="best")

    def accuracy(right: Axes) -> None:
        known = [np.nan if point.accuracy is None else 100 * point.accuracy for point in points]
        right.plot(asked, known, color=_FIRST)
        if own.accuracy is not None:
            right.plot(100 * own.asked, 100 * own.accuracy, "o", color=_SECOND)
        right.set(title="accuracy on the rest, %", xlabel="% referred to a person")

    return "".join(_svg(draw, 3.7, 2.8) for draw in (cost, accuracy))


def distributions(before: Floats, after: Floats, num_bins: int = 30) -> str:
    """The histograms of two samples as SVG, in shares.  before, after: (N,), (M,), no NaN."""
    edges = np.histogram_bin_edges(np.concatenate([before, after]), num_bins)

    def draw(axes: Axes) -> None:
        for values, colour in ((before, _FIRST), (after, _SECOND)):
            shares = np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, color=colour, fill=True, alpha=0.25)
            axes.stairs(shares, edges, color=colour)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
        axes.set_ylim(bottom=0)

    return _svg(draw, 3.2, 1.7)


def _svg(draw: Callable[[Axes], None], width_in: float, height_in: float) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="tight")
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true"', text, count=1).replace(
        "<svg", '<svg focusable="false"', 1
    )
