"""EDGE: Great Expectations. Our checks as custom expectations, such as expect_check_blank_to_find_nothing.

The store of a project's suites names this module, so that Great Expectations loads it with the project, and
knows these expectations, wherever pergola is installed.
"""

from __future__ import annotations

from great_expectations.data_context.store import TupleFilesystemStoreBackend as TupleFilesystemStoreBackend
from great_expectations.expectations.registry import get_expectation_impl

from pergola.components.data.checks.validate import CHECKS
from pergola.components.data.expectations import rules, suite

COUNT = "expect_column_values_to_be_between"  # how much a check found that is no rule on a column


def _define(check: str, base: str, meaning: str) -> None:
    """An expectation named after a check. Great Expectations registers it when the class is made."""
    name = "".join(part.title() for part in suite.own_type(check).split("_"))
    members = {"__module__": __name__, "__doc__": meaning, "__annotations__": {"description": str}}
    type(name, (get_expectation_impl(base),), {**members, "description": meaning})


def _define_all() -> None:
    default = rules.load(rules.DEFAULT)
    for rule in {rule.check: rule for rule in (*default.images, *default.classes)}.values():
        _define(rule.check, rule.expect, rule.meaning)
    for check in CHECKS:
        if check.meaning:
            _define(check.name, COUNT, check.meaning)


_define_all()
