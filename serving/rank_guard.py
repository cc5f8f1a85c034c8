"""Keeps a tensor of the wrong rank from aborting the process inside a convolution."""

from __future__ import annotations

from typing import Any


def guard(meta_graph: Any) -> None:
    """Insert rank checks into a MetaGraphDef, in place."""


def plain_text(message: str) -> str:
    """The text of an error."""
    return message
