"""Names from outside (files, classes, columns) where a reader would take them for more than text.

A terminal obeys control characters and turns text around at bidirectional ones, a spreadsheet computes cells
that begin like a formula, and Markdown has markup of its own. HTML pages escape markup by themselves.
"""

from __future__ import annotations

import re
from typing import Any

# All but tab and newline that a terminal obeys, and what changes the direction of text or is not seen.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_MARKUP = re.compile(r"([\\`*\[\]<>|#!~$&])")
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto):")


def visible(text: str) -> str:
    r"""The text with control and bidirectional characters spelled out, for terminals, logs and pages.

    >>> visible("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    """
    return _UNSEEN.sub(lambda found: _spelled(found.group()), text)


def visible_json(text: str) -> str:
    r"""A JSON document with the same characters as escapes, which mean the same to whatever reads it."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def cell(value: Any) -> Any:
    """A value for a CSV file: a text that a spreadsheet would compute gets an apostrophe before it.

    >>> cell("=1+1"), cell("oak"), cell(-1.5)
    ("'=1+1", 'oak', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def from_cell(text: str) -> str:
    """What `cell` was given.

    >>> from_cell("'=1+1"), from_cell("'oak'")
    ('=1+1', "'oak'")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def markdown(text: str) -> str:
    """A text for one cell or line of Markdown, where it is shown as it is.

    >>> markdown("a|b <img>")
    'a\\\\|b \\\\<img\\\\>'
    """
    line = visible(text.replace("\n", " ").replace("\t", " "))
    return _ADDRESS.sub(r"\1\\:", _MARKUP.sub(r"\\\1", line))


def _spelled(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"
