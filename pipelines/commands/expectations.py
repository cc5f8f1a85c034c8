"""`pergola expectations`: infer them from one data set, check another one against them.

infer   writes a file, to be reviewed and committed
diff    lists how another data set differs from it
check   checks another data set with Great Expectations; writes a page that shows what failed
export  writes a file, or without one the built-in rules, as a suite of Great Expectations
import  writes a suite of Great Expectations as a file
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.artifacts.data import CRITICAL, INFO, WARNING
from pergola.components.data.expectations import infer, rules, suite
from pergola.components.disk import explained
from pergola.components.errors import InputError
from pergola.components.formatting import count as number_of
from pergola.components.settings import Settings
from pergola.components.workspace import Workspace
from pergola.pipelines.local import run
from pergola.pipelines.local.progress import Display
from pergola.pipelines.local.result import ValidateResult

NOT_MET_STATUS = 3
DEFAULT_FILE = Path("expectations.toml")
_ORDER = (CRITICAL, WARNING, INFO)


@dataclass(frozen=True)
class ExpectationsResult:
    """Result of an action, as text and for --json. status: exit status of the command."""

    text: str
    json: Mapping[str, Any]
    status: int = 0


def act(
    action: str,
    place: Path,
    file: Path | None,
    settings: Settings,
    workspace: Workspace,
    *,
    show: Display,
    fail_on: str,
) -> ExpectationsResult:
    """Infer, diff or check with the expectations in `file`, export them as a suite, or import them from one.

    place: the data set; for export and import the suite.  file: by default expectations.toml.
    fail_on: the lowest severity of a finding for which `check` exits with status 3.
    Raises InputError if the file to write exists, if one to read cannot be read, and for too few images.
    """
    if action == "export":
        return _export(place, file)
    file = file or DEFAULT_FILE
    if action == "import":
        return _import(place, file)
    if action == "infer":
        return _infer(place, file, settings, workspace, show)
    if action == "diff":
        return _diff(place, file, settings, workspace, show)
    return _check(place, file, settings, workspace, show, fail_on)


def _export(target: Path, file: Path | None) -> ExpectationsResult:
    if file is None and not DEFAULT_FILE.exists():
        file = rules.DEFAULT
    source = file or DEFAULT_FILE
    wanted = rules.load(source)
    _write_new(target, suite.write(wanted, target.stem))
    count = len(wanted.images) + len(wanted.classes)
    what = (
        f"the {count} built-in expectations"
        if source == rules.DEFAULT
        else f"{number_of(count, 'expectation')} of {source}"
    )
    text = (
        f"{target}: a suite of Great Expectations with {what}.\n"
        f"  pergola run DATASET --set validate.expectations={target}"
    )
    return ExpectationsResult(text, {"file": str(target), "expectations": count})


def _import(source: Path, file: Path) -> ExpectationsResult:
    if source.suffix.lower() != ".json":
        raise InputError(f"{source}: expected a suite of Great Expectations, a file that ends in .json.")
    wanted = rules.load(source)
    _write_new(file, rules.to_toml(wanted))
    count = len(wanted.images) + len(wanted.classes)
    text = (
        f"{file}: {number_of(count, 'expectation')} from {source}.\n"
        f"  pergola run DATASET --set validate.expectations={file}"
    )
    return ExpectationsResult(text, {"file": str(file), "expectations": count})


def _write_new(file: Path, text: str) -> None:
    if file.exists():
        raise InputError(f"{file} already exists and may have been edited. Name another file, or move it.")
    with explained(file):
        records.write_atomic(file, text)


def _infer(
    dataset: Path, file: Path, settings: Settings, workspace: Workspace, show: Display
) -> ExpectationsResult:
    if file.exists():
        raise InputError(
            f"{file} already exists and may have been edited. Compare with it (`pergola expectations diff`), "
            "give another file with --file, or move it."
        )
    profile = infer.infer(run.scan(dataset, settings, workspace, show=show))
    if profile.num_images < infer.MIN_IMAGES:
        raise InputError(
            f"{dataset} has {profile.num_images} readable images, too few to infer expectations. At least "
            f"{infer.MIN_IMAGES} are needed."
        )
    records.write_atomic(file, infer.to_toml(profile))
    inferred = len(list(infer.inferred_rules(profile)))
    text = (
        f"{file}: {inferred} expectations inferred from {profile.num_images:,} images in "
        f"{len(profile.shares)} classes, in addition to the built-in ones.\n"
        "Review and commit it, then:\n"
        f"  pergola expectations check NEW_DATASET --file {file}\n"
        f"  pergola run DATASET --set validate.expectations={file}"
    )
    return ExpectationsResult(text, {"file": str(file), "inferred": inferred, **records.to_dict(profile)})


def _diff(
    dataset: Path, file: Path, settings: Settings, workspace: Workspace, show: Display
) -> ExpectationsResult:
    expected = rules.load(file)
    found = infer.changes(expected, infer.infer(run.scan(dataset, settings, workspace, show=show)))
    lines = [f"{one.what:<24}expected {one.expected}; now {one.now}" for one in found]
    text = "\n".join(lines) or f"No significant difference from {file}."
    return ExpectationsResult(text, {"file": str(file), "changes": [records.to_dict(one) for one in found]})


def _check(
    dataset: Path, file: Path, settings: Settings, workspace: Workspace, show: Display, fail_on: str
) -> ExpectationsResult:
    rules.load(file)  # errors in it are reported before the images are read
    checks = dataclasses.replace(settings.validate, expectations=str(file), max_inspected=0)
    result = run.validate(dataset, dataclasses.replace(settings, validate=checks), workspace, show=show)
    failed = _failed(result, fail_on)
    verdict = "The data set meets" if not failed else "The data set does not meet"
    text = "\n".join([result.summary(), f"{verdict} the expectations in {file}."])
    return ExpectationsResult(
        text, {**result.to_json(), "met": not failed, "file": str(file)}, NOT_MET_STATUS if failed else 0
    )


def _failed(result: ValidateResult, fail_on: str) -> bool:
    failing = _ORDER[: _ORDER.index(fail_on) + 1]
    return any(finding.severity in failing for finding in result.findings)
