"""`pergola expectations`: infer them from a first data set, hold a later one against them.

infer   writes a file that a person reviews and commits
diff    says how another data set differs from it
check   runs it on another data set, by Great Expectations, with a page that shows what failed
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.artifacts.data import CRITICAL, INFO, WARNING
from pergola.components.data.expectations import infer, rules
from pergola.components.errors import InputError
from pergola.components.settings import Settings
from pergola.components.workspace import Workspace
from pergola.pipelines.local import run
from pergola.pipelines.local.progress import Show
from pergola.pipelines.local.result import ValidateResult

ACTIONS = ("infer", "diff", "check")
NOT_MET = 3  # exit status
_ORDER = (CRITICAL, WARNING, INFO)


@dataclass(frozen=True)
class Found:
    """What an action answers. status: of the process."""

    words: str
    json: Mapping[str, Any]
    status: int = 0


def act(
    action: str,
    dataset: Path,
    file: Path,
    settings: Settings,
    workspace: Workspace,
    *,
    show: Show,
    fail_on: str,
) -> Found:
    """Do one of ACTIONS with the expectations in `file`.

    fail_on: the least severity of a finding for which `check` ends with status 3.
    Raises InputError for a file that is there already (infer) or cannot be read, and for too few images.
    """
    if action == "infer":
        return _infer(dataset, file, settings, workspace, show)
    if action == "diff":
        return _diff(dataset, file, settings, workspace, show)
    return _check(dataset, file, settings, workspace, show, fail_on)


def _infer(dataset: Path, file: Path, settings: Settings, workspace: Workspace, show: Show) -> Found:
    if file.exists():
        raise InputError(
            f"{file} is there already and may hold a person's decisions: `pergola expectations diff` "
            "compares with it; name another with --file, or move it away."
        )
    profile = infer.infer(run.scan(dataset, settings, workspace, show=show))
    if profile.num_images < infer.MIN_IMAGES:
        raise InputError(
            f"{dataset} has {profile.num_images} images that can be read, too few to infer anything from: "
            f"wanted at least {infer.MIN_IMAGES}."
        )
    records.write_atomic(file, infer.to_toml(profile))
    inferred = len(list(infer.inferred_rules(profile)))
    text = (
        f"{file}: {inferred} expectations inferred from {profile.num_images:,} images in "
        f"{len(profile.shares)} classes, after those that come with pergola.\n"
        "Review it, commit it, then:\n"
        f"  pergola expectations check LATER_PHOTOS --file {file}\n"
        f"  pergola run DATASET --set validate.expectations={file}"
    )
    return Found(text, {"file": str(file), "inferred": inferred, **records.to_dict(profile)})


def _diff(dataset: Path, file: Path, settings: Settings, workspace: Workspace, show: Show) -> Found:
    expected = rules.load(file)
    found = infer.changes(expected, infer.infer(run.scan(dataset, settings, workspace, show=show)))
    lines = [f"{one.what:<24}expected {one.expected}; now {one.now}" for one in found]
    text = "\n".join(lines) or f"No difference from {file} that is worth a word."
    return Found(text, {"file": str(file), "changes": [records.to_dict(one) for one in found]})


def _check(
    dataset: Path, file: Path, settings: Settings, workspace: Workspace, show: Show, fail_on: str
) -> Found:
    rules.load(file)  # a broken file is told before the images are read
    wanted = dataclasses.replace(settings.validate, expectations=str(file), max_looked_at=0)
    result = run.validate(dataset, dataclasses.replace(settings, validate=wanted), workspace, show=show)
    failed = _failed(result, fail_on)
    verdict = "The data meets" if not failed else "The data does not meet"
    text = "\n".join([result.words(), f"{verdict} the expectations in {file}."])
    return Found(text, {**result.to_json(), "met": not failed, "file": str(file)}, NOT_MET if failed else 0)


def _failed(result: ValidateResult, fail_on: str) -> bool:
    grave = _ORDER[: _ORDER.index(fail_on) + 1]
    return any(finding.severity in grave for finding in result.findings)
