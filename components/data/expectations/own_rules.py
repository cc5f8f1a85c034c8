"""The rules that come with pergola, run as what they are: comparisons of a column with a number or a set.

A file that a person wrote is run by Great Expectations (components/data/expectations/great_expectations.py),
whose import takes more time than all of these checks on some thousand images. Both give the same rows: see
the tests, and docs/decisions/0021-rules-that-come-along.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.data.expectations.rules import Rule

if TYPE_CHECKING:
    import pandas as pd


class OwnChecker:
    """Runs one list of rules on table after table, as expectations.Checker does."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules

    def failing(self, table: pd.DataFrame) -> list[list[int]]:
        """For each rule the places of the rows that fail it, in order."""
        return [np.flatnonzero(_fails(rule, table[rule.column])).tolist() for rule in self.rules]


def _fails(rule: Rule, values: pd.Series) -> pd.Series:
    """Which values do not meet the rule; a value that is missing meets all but that of missing ones."""
    if rule.expect == "expect_column_values_to_be_null":
        return values.notna()
    if rule.expect == "expect_column_values_to_be_in_set":
        return values.notna() & ~values.isin(rule.arguments["value_set"])
    assert rule.expect == "expect_column_values_to_be_between", rule
    low, high = rule.arguments.get("min_value", -np.inf), rule.arguments.get("max_value", np.inf)
    return (values < low) | (values > high)
