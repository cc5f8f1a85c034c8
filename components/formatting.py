"""Numbers as people read them, in pages, messages and command output: one format per kind of quantity."""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "–"

Interval = Sequence[float]  # low and high end


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage: "91.2%".

    >>> percent(0.9123), percent(None)
    ('91.2%', '–')
    """
    return MISSING if share is None else f"{100 * share:.{digits}f}%"


def percent_interval(interval: Interval | None, digits: int = 1) -> str:
    """An interval of shares: "88.0% to 94.3%"."""
    if interval is None:
        return MISSING
    return f"{percent(interval[0], digits)} to {percent(interval[1], digits)}"


def points(share: float) -> str:
    """A difference of two shares in percentage points: "-1.2 points"."""
    return f"{100 * share:.1f} points"


def points_interval(interval: Interval) -> str:
    """An interval of differences: "-1.2 to 0.4 points"."""
    return f"{100 * interval[0]:.1f} to {points(interval[1])}"


def signed_points(share: float) -> str:
    """A difference of two shares in percentage points, for a column: "+1.2".

    >>> signed_points(0.012)
    '+1.2'
    """
    return f"{100 * share:+.1f}"


def signed_points_interval(interval: Interval) -> str:
    """An interval of differences, for a column: "-1.2 to +0.4"."""
    return f"{signed_points(interval[0])} to {signed_points(interval[1])}"


def number(value: float) -> str:
    """A number with three significant digits, or with separators when it is a count or 1,000 and more.

    >>> number(12345), number(0.01234), number(1234.5)
    ('12,345', '0.0123', '1,234')
    """
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def number_interval(interval: Interval) -> str:
    """An interval of numbers: "1.2 to 3.4"."""
    return f"{number(interval[0])} to {number(interval[1])}"


def probability(value: float) -> str:
    """A p-value or a difference of probabilities, two significant digits: "0.012"."""
    return f"{value:.2g}"


def count(num: int, noun: str, plural: str = "") -> str:
    """How many of something.

    >>> count(1, "image"), count(1200, "image"), count(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{num:,} {noun if num == 1 else plural or noun + 's'}"


def megabytes(num_bytes: float) -> str:
    """A size: "12.3 MB" (1 MB is 1,000,000 bytes)."""
    return f"{number(num_bytes / 1e6)} MB"


def milliseconds(value: float) -> str:
    """A duration: "12.3 ms"."""
    return f"{number(value)} ms"
