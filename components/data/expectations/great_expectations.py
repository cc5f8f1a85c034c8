"""EDGE: Great Expectations. Which rows of a table fail which rules.

The import takes seconds, so it is delayed until rules are run. Nothing is sent anywhere: analytics are off,
and the context is in memory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pergola.components.data.expectations.rules import Expectation, Outcome
from pergola.components.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_ROW = "_row"
_COMPARE_ROWS = ("unique", "increasing", "decreasing", "z_scores")  # in names of expectations on each value


@contextmanager
def quiet() -> Iterator[Any]:
    """The package great_expectations, without telemetry and its warnings about modules of its own."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx

        yield gx


def make_silent(context: Any) -> None:
    """No telemetry and no progress bars."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)


class Checker:
    """Runs a list of rules on one table after another. whole: they need all rows in one table."""

    def __init__(self, rules: Sequence[Expectation]) -> None:
        """Raises InputError for a rule that Great Expectations does not know, or with invalid arguments."""
        with quiet() as gx:
            self.rules = rules
            context = gx.get_context(mode="ephemeral")
            make_silent(context)
            suite = context.suites.add(gx.ExpectationSuite(name="rules"))
            for number, rule in enumerate(rules):
                suite.add_expectation(_expectation(rule, number))
            self.whole = any(_needs_all_rows(one) for one in suite.expectations)
            asset = context.data_sources.add_pandas("memory").add_dataframe_asset("table")
            self._definition = gx.ValidationDefinition(
                name="rules", data=asset.add_batch_definition_whole_dataframe("whole"), suite=suite
            )
            context.validation_definitions.add(self._definition)

    def outcomes(self, table: pd.DataFrame) -> list[Outcome]:
        """For each rule the positions of the rows that fail it, or what the table as a whole fails it with.

        Raises InputError when a rule names a column that does not exist or does not fit its values.
        """
        outcomes = [Outcome() for _ in self.rules]
        if not self.rules or table.empty:
            return outcomes
        with quiet():
            result = self._definition.run(
                batch_parameters={"dataframe": table.assign(**{_ROW: range(len(table))})},
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": [_ROW],
                    "return_unexpected_index_query": False,
                },
            )
        for found in result.results:
            number = found.expectation_config.meta["rule"]
            outcomes[number] = _outcome(found, self.rules[number])
        return outcomes


def _expectation(rule: Expectation, number: int) -> Any:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        kind = get_expectation_impl(rule.expect)
    except ExpectationNotFoundError:
        raise InputError(f"Check '{rule.check}': Great Expectations has no '{rule.expect}'.") from None
    if rule.quarantine and _concerns_table(kind):
        raise InputError(
            f"Check '{rule.check}': '{rule.expect}' does not check each value by itself, so that it cannot "
            "exclude images. Remove 'quarantine', or use an expectation that does."
        )
    try:
        column = {"column": rule.column} if rule.column else {}
        return kind(meta={"rule": number}, **column, **rule.arguments)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"Check '{rule.check}': '{rule.expect}' does not accept these arguments ({reason})."
        ) from None


def _concerns_table(kind: type) -> bool:
    """Whether an expectation is met or not by a table as a whole, such as one on a mean."""
    from great_expectations.expectations import expectation as kinds

    each = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    return not issubclass(kind, each)


def _needs_all_rows(expectation: Any) -> bool:
    """Whether parts of a table cannot be checked one by one. Of what is not Great Expectations' own: yes."""
    kind = type(expectation)
    foreign = not kind.__module__.startswith("great_expectations.")
    compares = any(word in expectation.expectation_type for word in _COMPARE_ROWS)
    return foreign or compares or _concerns_table(kind)


def _outcome(found: Any, rule: Expectation) -> Outcome:
    result = found.result
    if found.exception_info and not found.success and not result:
        raise InputError(
            f"Check '{rule.check}' on column '{rule.column}' could not be run: "
            f"{_reason(found.exception_info)}."
        )
    if "element_count" not in result:
        return Outcome(observed="" if found.success else str(result.get("observed_value", "not met")))
    rows = sorted(int(row[_ROW]) for row in result.get("unexpected_index_list") or ())
    about_missing = rule.expect.endswith(("_to_be_null", "_to_not_be_null"))
    missing = 0 if about_missing else result.get("missing_count") or 0
    return Outcome(rows, result["element_count"] - missing)


def _reason(info: Any) -> str:
    """The message of Great Expectations' exception; it gives either one, or one per metric."""
    several = [one for one in info.values() if isinstance(one, dict)]
    infos = [info] if "exception_message" in info else several
    return " ".join(str(next((one.get("exception_message") for one in infos), info)).split())
