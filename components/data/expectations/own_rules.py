"""Runs the rules that come with pergola: comparisons of a column with a number or a set.

A person's own file is run by Great Expectations (components/data/expectations/great_expectations.py), whose
import takes longer than all these rules on a few thousand images. Both give the same rows: see the tests, and
docs/decisions/0021-rules-that-come-along.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.data.expectations.rules import Expectation, Outcome

if TYPE_CHECKING:
    import pandas as pd


class OwnChecker:
    """Runs a list of rules on one table after another, as great_expectations.Checker does."""

    def __init__(self, rules: Sequence[Expectation]) -> None:
        self.rules = rules

    whole = False  # each of these rules looks at one value at a time

    def outcomes(self, table: pd.DataFrame) -> list[Outcome]:
        """For each rule the positions of the rows that fail it."""
        return [_outcome(rule, table[rule.column]) for rule in self.rules]


def _outcome(rule: Expectation, values: pd.Series) -> Outcome:
    about_missing = rule.expect == "expect_column_values_to_be_null"
    looked_at = len(values) if about_missing else int(values.notna().sum())
    return Outcome(np.flatnonzero(_fails(rule, values)).tolist(), looked_at)


def _fails(rule: Expectation, values: pd.Series) -> pd.Series:
    """Which values fail the rule. Missing values fail only a rule on missing values."""
    if rule.expect == "expect_column_values_to_be_null":
        return values.notna()
    if rule.expect == "expect_column_values_to_be_in_set":
        return values.notna() & ~values.isin(rule.arguments["value_set"])
    assert rule.expect == "expect_column_values_to_be_between", rule
    low, high = rule.arguments.get("min_value", -np.inf), rule.arguments.get("max_value", np.inf)
    return (values < low) | (values > high)
