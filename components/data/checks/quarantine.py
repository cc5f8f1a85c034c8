"""Check: more files are excluded than the settings allow."""

from __future__ import annotations

import numpy as np

from pergola.components.artifacts.data import CRITICAL, Finding
from pergola.components.data.checks.facts import CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.manifest.index import NO_IMAGE


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A critical finding when too many files are lost. A copy whose original is used is not lost."""
    image, used = facts.index.image, facts.used
    in_use = np.zeros(len(facts.index.first) + 1, bool)  # the last one stands for NO_IMAGE
    in_use[image[used]] = True
    in_use[NO_IMAGE] = False
    lost, total = int((~used & ~in_use[image]).sum()), facts.manifest.num_rows
    if lost <= settings.max_quarantined * total:
        return CheckResult()
    message = (
        f"{lost:,} of {total:,} files would be excluded, more than the share of {settings.max_quarantined:g} "
        "that validate.max_quarantined allows: fix the data, or raise the limit."
    )
    return CheckResult((Finding("quarantine", CRITICAL, lost, (), message),))
