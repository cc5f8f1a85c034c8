"""Check: grey images among coloured ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import INFO, Finding
from pergola.components.data.checks.facts import MAX_PATHS, CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings

_MIN_COLOURED = 0.9  # share of coloured images from which a grey one is odd
_MAX_GREY = 1.0  # colourfulness below which an image is grey


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding when few images are grey and all others are coloured."""
    features = facts.features
    if features is None:
        return CheckResult()
    grey = np.flatnonzero(grey_among_colour(features.colours))
    if not len(grey):
        return CheckResult()
    paths = tuple(features.paths[image] for image in grey)
    message = (
        f"{len(paths):,} of {len(features.ids):,} images are grey, the others coloured, such as "
        f"'{paths[0]}'. If one class has more grey images than another, a model learns that."
    )
    return CheckResult((Finding("grey_among_colour", INFO, len(paths), paths[:MAX_PATHS], message),))


def grey_among_colour(colours: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which images are grey in a data set of coloured ones, bool (N,). colours: of ImageFeatures."""
    is_grey = colours < _MAX_GREY
    coloured = np.mean(~is_grey) if len(colours) else 0.0
    return is_grey if coloured >= _MIN_COLOURED else np.zeros(len(colours), np.bool_)
