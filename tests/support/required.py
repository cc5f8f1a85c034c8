"""What a test needs and a machine may lack: skipped there, unless a variable says that it must be there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

CONTAINERS, CLUSTER = "PERGOLA_CONTAINERS", "PERGOLA_CLUSTER"


def is_required(variable: str) -> bool:
    """Whether what the variable stands for has to be there."""
    return os.environ.get(variable) == "required"


def missing(variable: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where nothing may be missing."""
    if is_required(variable):
        pytest.fail(reason)
    pytest.skip(reason)
