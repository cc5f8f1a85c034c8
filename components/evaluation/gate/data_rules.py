"""Gate rules on what the checks found in the data and nobody corrected. Off unless a limit is set."""

from __future__ import annotations

from collections.abc import Iterator

from pergola.components.artifacts.data import WARNING, Finding
from pergola.components.artifacts.decision import Rule
from pergola.components.evaluation.gate.settings import GateInputs, GateSettings
from pergola.components.formatting import count, percent

LABEL_ERROR = "label_error"


def has_few_label_errors(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The share of images whose label looks wrong does not exceed the limit."""
    limit = settings.max_label_errors
    if limit >= 1:
        return None
    if inputs.validation is None:
        return Rule("label_errors", None, limit, False, "gate.max_label_errors needs the checks of the data.")
    flagged = sum(found.count for found in open_warnings(inputs) if found.check == LABEL_ERROR)
    total = inputs.validation.num_images
    share = flagged / max(1, total)
    message = (
        f"{flagged:,} of {total:,} labels look wrong to the checks ({percent(share)}); at most "
        f"{percent(limit)} may."
    )
    return Rule("label_errors", share, limit, share <= limit, message)


def has_few_findings(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The number of open warnings does not exceed the limit."""
    limit = settings.max_findings
    if limit < 0:
        return None
    if inputs.validation is None:
        message = "gate.max_findings needs the checks of the data."
        return Rule("findings", None, limit, False, message, unit="count")
    found = list(open_warnings(inputs))
    names = f" ({', '.join(name_of(one) for one in found)})" if found else ""
    message = f"{count(len(found), 'warning')} about the data{names}; at most {limit} may be open."
    return Rule("findings", len(found), limit, len(found) <= limit, message, unit="count")


def open_warnings(inputs: GateInputs) -> Iterator[Finding]:
    """Warnings about the data that this model was trained on."""
    findings = inputs.validation.findings if inputs.validation else ()
    return (found for found in findings if found.severity == WARNING)


def name_of(finding: Finding) -> str:
    """The check that found it, as words."""
    return finding.check.replace("_", " ")
