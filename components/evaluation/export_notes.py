"""The temperature and costs of an exported model, stored in the SavedModel's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pergola.components.stats.costs import Costs
from pergola.components.stats.temperature import Temperature

EXTRA = "assets.extra"  # of a SavedModel: files that servers ignore


@dataclass(frozen=True)
class ExportNotes:
    """The notes of a SavedModel; the defaults for one without notes, such as an older one."""

    temperature: float = 1.0  # the model divides its logits by this
    costs: Costs | None = None  # of its decisions
    chosen: Temperature | None = None  # why the temperature is what it is; None: the model was not calibrated

    @classmethod
    def of(cls, saved_model: Path) -> Self:
        """The notes that components/training/export.py wrote. Raises InputError for a damaged file."""
        folder = saved_model / EXTRA
        fitted = Temperature.load(folder) if (folder / Temperature.FILE).is_file() else None
        costs = Costs.load(folder) if (folder / Costs.FILE).is_file() else None
        return cls(fitted.value if fitted else 1.0, costs, fitted)
