"""What a classifier predicts for images: as arrays, image by image, and as a pandas table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pergola import extras
from pergola.serving.client.results import Classification

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ImagePrediction:
    """What was predicted for one image."""

    image: str  # its path, or "image 3" for one that has none
    label: str  # the likeliest class
    probability: float  # of that class, 0 to 1
    probabilities: Mapping[str, float]  # class -> probability, likeliest first
    version: int
    decision: str | None = None  # of the lowest expected cost, from a model that knows costs


@dataclass(frozen=True, repr=False)
class Predictions(Classification):
    """The predictions of one model version for N images; what `Client.classify_images` gives, and more.

    `predictions[0]` is the first image's, iteration gives one after the other, `to_pandas()` a table.
    version is 0 for a model that was loaded from a folder without a number.
    """

    images: tuple[str, ...] = ()  # N paths, "image 3" where there is none

    def __getitem__(self, index: int) -> ImagePrediction:
        place = range(len(self))[index]
        ((label, probability), *_) = best = self.top(len(self.classes))[place]
        decision = None if self.decisions is None else self.decisions[place]
        return ImagePrediction(
            self.images[place], label, probability, dict(best), self.version, decision
        )

    def __iter__(self) -> Iterator[ImagePrediction]:
        return map(self.__getitem__, range(len(self)))

    def to_pandas(self) -> pd.DataFrame:
        """A row an image: image, label, probability, version, decision (if the model has one), and
        "p(<class>)" for each class."""
        with extras.explained("Predictions.to_pandas"):
            import pandas as pd

        columns = {
            "image": self.images,
            "label": self.labels,
            "probability": self.probability,
            "version": [self.version] * len(self),
            **({"decision": self.decisions} if self.decisions is not None else {}),
            **{f"p({name})": self.probabilities[:, i] for i, name in enumerate(self.classes)},
        }
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return f"Predictions({len(self)} images, model='{self.model}', version={self.version})"

    def __str__(self) -> str:
        width = max(map(len, self.images))
        lines = [f"{self.model} version {self.version}"]
        for one in self:
            others = ", ".join(f"{name} {p:.1%}" for name, p in [*one.probabilities.items()][1:3])
            decision = f" -> {one.decision}" if one.decision else ""
            lines.append(f"  {one.image:<{width}}  {one.label} {one.probability:.1%}{decision}  ({others})")
        return "\n".join(lines)
