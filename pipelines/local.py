"""Every step in order, in one process. A newcomer starts here.

    scan -> validate -> split -> shards -> augment -> train -> export -> evaluate -> rehearse
         -> gate -> report -> register -> publish -> confirm

Steps hand folders to each other (components/artifacts.py); pipelines/reuse.py decides which need
to be done. A rejected model stops after its report, and that is a good run.
"""

from __future__ import annotations

import logging
import re
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components import artifacts, records, steps
from components.errors import InputError
from pipelines import config, reuse
from pipelines.results import RunResult, ValidateResult
from pipelines.runs import Run
from pipelines.show import Show
from pipelines.workspace import Workspace, explain_disk

log = logging.getLogger(__name__)

STEPS = (
    "scan", "validate", "split", "shards", "augment", "train", "export", "evaluate",
    "evaluate_champion", "rehearse", "gate", "report", "register", "publish", "confirm",
)  # fmt: skip
