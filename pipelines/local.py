"""Every step in order, in one process. A newcomer starts here.

    scan -> validate -> split -> shards -> augment -> train -> export -> evaluate -> rehearse
         -> gate -> report -> register -> publish -> confirm

Steps hand folders to each other (components/artifacts.py); pipelines/reuse.py decides which need
to be done. A rejected model stops after its report, and that is a good run.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

STEPS = (
    "scan", "validate", "split", "shards", "augment", "train", "export", "evaluate",
    "evaluate_champion", "rehearse", "gate", "report", "register", "publish", "confirm",
)  # fmt: skip
