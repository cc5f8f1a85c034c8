"""Results of `pergola run` and `pergola validate`: for --json, and as a summary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pergola.components import records
from pergola.components.artifacts.data import (
    CRITICAL,
    INFO,
    SPLITS,
    WARNING,
    Finding,
    Split,
    ValidationReport,
)
from pergola.components.artifacts.decision import (
    Decision,
    Rule,
)
from pergola.components.artifacts.release import Registration
from pergola.components.artifacts.training import Export
from pergola.components.evaluation import figures
from pergola.components.release.champions import live_version
from pergola.pipelines import summaries
from pergola.pipelines.local.reproduce import OriginalVersion, Reproduction

if TYPE_CHECKING:
    from pergola.pipelines.local.engine import Engine
    from pergola.pipelines.local.runs import Run


@dataclass(frozen=True, repr=False)
class RunResult:
    """What came of `pergola run`. A held or rejected model is an outcome, not an error."""

    run: str
    outcome: str  # "accepted", "held" or "rejected"
    reasons: tuple[str, ...]
    rules: tuple[Rule, ...]  # of the gate, each with value, interval, limit and verdict
    version: int | None  # registered; None if rejected
    champion: int | None  # the version that is live after the run
    model: str
    metrics: Mapping[str, float | None]  # on the test split, unless the name says otherwise
    counts: Mapping[str, Any]  # images, quarantined by reason, train, validation, test
    seconds: Mapping[str, float]  # step -> duration in this run, 0 if reused
    reused: tuple[str, ...]
    model_path: str  # of the SavedModel that was evaluated
    report: str
    reproduction: Reproduction | None = None  # with --reproduce
    warnings: tuple[str, ...] = ()  # open ones about the data

    def to_json(self) -> dict[str, Any]:
        """Plain data. "decision" and "again" are former names of "outcome" and "reproduction"."""
        plain = records.to_dict(self)
        return {**plain, "decision": self.outcome, "again": plain["reproduction"]}

    @property
    def decision(self) -> str:
        """The former name of `outcome`."""
        return self.outcome

    def __repr__(self) -> str:
        return f"RunResult(model='{self.model}', version={self.version}, outcome='{self.outcome}')"

    def __str__(self) -> str:
        return self.summary().strip()

    def summary(self) -> str:
        """The decision, its reasons, the main metrics and what to do next."""
        scores = self.metrics
        lines = [
            "",
            f"{self.outcome.upper()}: {self.model}{self._fate()}",
            *([self.reproduction.summary()] if self.reproduction else []),
            *(f"  reason  {reason}" for reason in self.reasons),
            *(f"  warning {warning}" for warning in self.warnings),
            f"  test accuracy {_percent(scores['accuracy'])}, macro F1 {_percent(scores['macro_f1'])}, "
            f"train accuracy {_percent(scores['train_accuracy'])}, calibration error "
            f"{_percent(scores.get('calibration_error'))}, {self.counts['test']:,} test images",
            *_cost_summary(scores),
            f"  report  {self.report}",
        ]
        if self.reused:
            everything = len(self.reused) == len(self.seconds)
            lines.insert(
                1,
                "Nothing changed: all steps were reused."
                if everything
                else f"Reused: {', '.join(self.reused)}.",
            )
        if self.version:
            following = "serve" if self.version == self.champion else f"promote {self.version}"
            lines += [f"  model   {self.model_path}", f"  next    pergola {following}"]
        return "\n".join(lines)

    def _fate(self) -> str:
        if self.version:
            others = f"version {self.champion} is the champion" if self.champion else "there is no champion"
            here = "is the champion" if self.version == self.champion else f"is registered; {others}"
            return f" version {self.version} {here}."
        return (
            f", reproduction of version {self.reproduction.version}; nothing is released."
            if self.reproduction
            else " is not released."
        )


def result_of(engine: Engine, run: Run, original: OriginalVersion | None) -> RunResult:
    """The result of a finished run. Copies the report to the folder of the run, with the run in its title."""
    from pergola.components.evaluation.report.report import with_run

    context, done = engine.context, engine.done
    decision = Decision.load(engine.output("decision").folder)
    page = run.folder / "report.html"
    version = _version(engine) if decision.registers and not original else None
    text = (engine.output("report").folder / "report.html").read_text(encoding="utf-8")
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    records.write_atomic(page, with_run(text, model=context.model, version=version, run=run.id, date=date))
    published = context.workspace.models / context.model / str(version)
    export = engine.output("export")
    splits = Split.load(engine.output("split").folder).counts
    validation = ValidationReport.load(engine.output("validation").folder)
    reproduction = (
        original.compared(decision, Export.load(export.folder), trained=not done["train"].reused)
        if original
        else None
    )
    return RunResult(
        run=run.id,
        outcome=decision.outcome,
        reasons=decision.reasons,
        rules=decision.rules,
        version=version,
        champion=live_version(context.workspace, context.model),
        model=context.model,
        metrics=figures.of(engine.output("evaluation").folder),
        counts={**summaries.data_counts(validation), **{split: splits.get(split, 0) for split in SPLITS}},
        seconds={step: 0.0 if output.reused else round(output.seconds, 2) for step, output in done.items()},
        reused=tuple(step for step, output in done.items() if output.reused),
        model_path=str(published if published.is_dir() else export.folder / "saved_model"),
        report=str(page),
        reproduction=reproduction,
        warnings=decision.warnings,
    )


def _version(engine: Engine) -> int:
    return Registration.load(engine.output("registration").folder).version


@dataclass(frozen=True)
class ValidateResult:
    """The outcome of `pergola validate`."""

    ok: bool
    findings: tuple[Finding, ...]
    counts: Mapping[str, Any]
    page: str
    relabel: str = ""  # the ranked list of suspicious labels; empty if labels were not checked

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return records.to_dict(self)

    def summary(self) -> str:
        """One line per finding, most severe first, and the verdict."""
        order = {CRITICAL: 0, WARNING: 1, INFO: 2}
        findings = sorted(self.findings, key=lambda finding: order.get(finding.severity, 3))
        lines = [f"{f.severity:<9}{f.check:<18}{f.message}" for f in findings]
        verdict = (
            "The data set can be used."
            if self.ok
            else "The data set cannot be used: fix the critical findings."
        )
        last = [f"Page: {self.page}"]
        if self.relabel:
            last.append(f"Labels, most suspicious first: {self.relabel}")
        return "\n".join([*lines, verdict, *last])


def _cost_summary(scores: Mapping[str, float | None]) -> list[str]:
    cost, saved = scores.get("cost_per_1000"), scores.get("cost_saved_per_1000")
    if cost is None or saved is None:
        return []
    beside = f"{abs(saved):.4g} {'less' if saved >= 0 else 'more'} than the best constant prediction"
    return [f"  1,000 images cost {cost:.4g}, {beside}"]


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
