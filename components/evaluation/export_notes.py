"""What an exported model holds besides its network, as it is written down in the SavedModel's own folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pergola.components.stats.costs import Costs
from pergola.components.stats.temperature import Temperature

EXTRA = "assets.extra"  # of a SavedModel: files that servers leave alone


@dataclass(frozen=True)
class Inside:
    """A model without notes, such as one that is older or was not exported by pergola, holds nothing."""

    temperature: float = 1.0  # by which it divides its logits
    costs: Costs | None = None  # by which it decides

    @classmethod
    def of(cls, saved_model: Path) -> Self:
        """Read what components/training/export.py wrote. Raises InputError for a damaged file."""
        folder = saved_model / EXTRA
        fitted = Temperature.load(folder) if (folder / Temperature.FILE).is_file() else None
        costs = Costs.load(folder) if (folder / Costs.FILE).is_file() else None
        return cls(fitted.value if fitted else 1.0, costs)
