"""EDGE: Great Expectations. Which rows of a table fail which rules.

The import takes seconds, so it is delayed until rules are run. Nothing is sent anywhere: analytics are off,
and the context is in memory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pergola.components.data.expectations.rules import Expectation
from pergola.components.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_ROW = "_row"


class Checker:
    """Runs a list of rules on one table after another."""

    def __init__(self, rules: Sequence[Expectation]) -> None:
        """Raises InputError for a rule that Great Expectations does not know, or with invalid arguments."""
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It imports deprecated modules.
            import great_expectations as gx
            from great_expectations.data_context.types.base import ProgressBarsConfig

            self.rules = rules
            context = gx.get_context(mode="ephemeral")
            context.enable_analytics(False)
            context.variables.progress_bars = ProgressBarsConfig(globally=False)
            suite = context.suites.add(gx.ExpectationSuite(name="rules"))
            for number, rule in enumerate(rules):
                suite.add_expectation(_expectation(rule, number))
            asset = context.data_sources.add_pandas("memory").add_dataframe_asset("table")
            self._definition = gx.ValidationDefinition(
                name="rules", data=asset.add_batch_definition_whole_dataframe("whole"), suite=suite
            )
            context.validation_definitions.add(self._definition)

    def failing(self, table: pd.DataFrame) -> list[list[int]]:
        """For each rule the positions of the rows that fail it, ascending.

        Raises InputError when a rule names a column that does not exist or does not fit its values.
        """
        if not self.rules or table.empty:
            return [[] for _ in self.rules]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = self._definition.run(
                batch_parameters={"dataframe": table.assign(**{_ROW: range(len(table))})},
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": [_ROW],
                    "return_unexpected_index_query": False,
                },
            )
        failing: list[list[int]] = [[] for _ in self.rules]
        for outcome in result.results:
            number = outcome.expectation_config.meta["rule"]
            failing[number] = _rows(outcome, self.rules[number])
        return failing


def _expectation(rule: Expectation, number: int) -> Any:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation import ColumnMapExpectation
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        kind = get_expectation_impl(rule.expect)
    except ExpectationNotFoundError:
        raise InputError(f"Check '{rule.check}': Great Expectations has no '{rule.expect}'.") from None
    if not issubclass(kind, ColumnMapExpectation):
        raise InputError(
            f"Check '{rule.check}': '{rule.expect}' does not check each value of a column by itself. "
            "Use an expectation that does."
        )
    try:
        return kind(column=rule.column, meta={"rule": number}, **rule.arguments)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"Check '{rule.check}': '{rule.expect}' does not accept these arguments ({reason})."
        ) from None


def _rows(outcome: Any, rule: Expectation) -> list[int]:
    if outcome.exception_info and "unexpected_index_list" not in outcome.result and not outcome.success:
        raise InputError(
            f"Check '{rule.check}' on column '{rule.column}' could not be run: "
            f"{_reason(outcome.exception_info)}."
        )
    return sorted(int(row[_ROW]) for row in outcome.result.get("unexpected_index_list") or ())


def _reason(info: Any) -> str:
    """The message of Great Expectations' exception; it gives either one, or one per metric."""
    several = [one for one in info.values() if isinstance(one, dict)]
    infos = [info] if "exception_message" in info else several
    return " ".join(str(next((one.get("exception_message") for one in infos), info)).split())
