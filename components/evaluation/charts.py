"""Pictures of the report: curves and calibration as SVG, photographs as small data addresses.

SVG takes the page's text colour, so that it can be read on light and dark alike. Equal input gives
equal text: no date, no random identifiers.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the page's text colour
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
    if not history:
        return ""
    epochs = range(1, len(history) + 1)

    def draw(figure: Figure) -> None:
        for axes, figure_name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for key, name, colour in (
                (figure_name, "training", _FIRST),
                (f"val_{figure_name}", "validation", _SECOND),
            ):
                values = [row.get(key, np.nan) for row in history]
                axes.plot(epochs, values, color=colour, label=name, marker="." if len(history) < 30 else "")
            axes.axvline(best_epoch, color=_INK, linewidth=0.7, linestyle=":")
            axes.set(title=figure_name, xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(loc="best")

    return _svg(draw, 7.2, 2.6)


def reliability(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 10) -> str:
    """Accuracy by confidence beside the diagonal, and how many pictures stand behind it, as SVG.

    probabilities: (N, C).  labels: int (N,).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    shares = np.bincount(bins, weights=right, minlength=num_bins) / np.maximum(counts, 1)
    centres = (np.arange(num_bins) + 0.5) / num_bins

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.7, linestyle=":")
        axes.bar(centres[counts > 0], shares[counts > 0], width=0.9 / num_bins, color=_FIRST, alpha=0.75)
        for x, y, count in zip(centres, shares, counts, strict=True):
            if count:
                axes.text(x, y + 0.01, str(count), ha="center", fontsize=7)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.1))

    return _svg(draw, 3.6, 2.6)


def thumbnail(image: bytes, side_px: int = 96) -> str:
    """A photograph as a small data address; "" when Pillow cannot read it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft("RGB", (2 * side_px, 2 * side_px))
            picture = opened.convert("RGB")
        scale = side_px / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        enlarged = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        return _data_address(picture.resize(size, enlarged), quality=72)
    except (OSError, ValueError):
        return ""


def contact_sheet(image: bytes, width_px: int = 1200) -> str:
    """A larger picture, such as the preview of the augmentation, as a data address; "" when unreadable."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            picture = opened.convert("RGB")
        if picture.width > width_px:
            picture = picture.resize((width_px, max(1, round(picture.height * width_px / picture.width))))
        return _data_address(picture.crop((0, 0, picture.width, min(picture.height, 2 * width_px))), 75)
    except (OSError, ValueError):
        return ""


def _data_address(picture: object, quality: int) -> str:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _svg(draw: Callable[[Figure], None], width_in: float, height_in: float) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="tight")
        draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1).replace(
        "<svg", '<svg focusable="false"', 1
    )
