"""Experiments on a data set before a run: comparing architectures, tuning settings. Nothing is released.

The data steps are those of `pergola run` and are shared with it. Results are in
<workspace>/experiments/<kind>/<key>/, where the key is a digest of data and settings; an interrupted
experiment continues from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components import digest, records
from pergola.components.settings import Settings
from pergola.components.steps import experiments as steps
from pergola.components.workspace import Workspace
from pergola.pipelines.local import run
from pergola.pipelines.local.progress import Display

if TYPE_CHECKING:
    from pergola.components.training.search.comparison import Row
    from pergola.components.training.search.tune import TuneSettings, Tuning


@dataclass(frozen=True)
class ArchitectureComparison:
    """The outcome of `pergola compare-architectures`."""

    rows: tuple[Row, ...]
    folder: Path  # with ladder.svg, ladder.png and a folder per architecture

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = [{**records.to_dict(row), "gap": row.gap} for row in self.rows]
        for row in rows:
            del row["key"]
        return {"rows": rows, "image": str(self.folder / "ladder.png"), "folder": str(self.folder)}

    def summary(self) -> str:
        """A table and the path of the chart."""
        return f"{_table(self.rows)}\nChart: {self.folder / 'ladder.png'}"


def compare_architectures(
    dataset: Path,
    settings: Settings,
    workspace: Workspace,
    names: Sequence[str],
    *,
    published: bool,
    show: Display,
) -> ArchitectureComparison:
    """Train each architecture on the same splits with the same settings and compare them.

    published: train as in the architectures' publications, without augmentation.
    """
    from pergola.components.training.augmentation.augment import no_variation
    from pergola.components.training.search import comparison

    if published:
        settings = replace(
            settings,
            augment=no_variation(),
            model=replace(settings.model, scaling="unit"),
            train=comparison.published(settings.train, settings.train.epochs or 20),
        )
    with run.prepared(dataset, settings, workspace, show, until="augment") as engine:
        shards, augmentation = engine.output("shards"), engine.output("augmentation")
        sections = [records.to_dict(section) for section in (settings.model, settings.train)]
        key = digest.of_data([shards.sha256, augmentation.sha256, *sections])[:20]
        out = workspace.experiments / "ladder" / key

        def on_row(row: Row, is_new: bool) -> None:
            show.line(f"{row.name:<19}{_scores(row)}  [{f'{row.seconds:.1f} s' if is_new else 'reused'}]")

        rows = steps.ladder(shards.folder, augmentation.folder, out, settings.train, model=settings.model,
                            names=names, progress=show.progress, on_row=on_row)  # fmt: skip
    return ArchitectureComparison(rows, out)


def _scores(row: Row) -> str:
    return f"train {row.train_accuracy:.1%}, test {row.test_accuracy:.1%}, gap {100 * row.gap:.1f} points"


def _table(rows: Sequence[Row]) -> str:
    lines = [
        f"{'architecture':<19}{'parameters':>12}{'epochs':>8}{'train':>9}{'test':>9}{'gap':>8}{'seconds':>10}"
    ]
    lines += [
        f"{row.name:<19}{row.num_parameters:>12,}{row.epochs:>8}{row.train_accuracy:>9.2%}"
        f"{row.test_accuracy:>9.2%}{100 * row.gap:>8.2f}{row.seconds:>10.1f}"
        for row in rows
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class TuneResult:
    """The outcome of `pergola tune`."""

    tuning: Tuning
    config: Path  # for --config
    dataset: Path

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = records.to_dict(self.tuning)
        for trial in (plain["best"], *plain["trials"]):
            del trial["history"]
        return {**plain, "config": str(self.config)}

    def summary(self) -> str:
        """The best trial, why others failed, and what to do next."""
        best = self.tuning.best
        failed = [trial for trial in self.tuning.trials if trial.problem]
        changes = ", ".join(f"{name}={value}" for name, value in best.values.items())
        return "\n".join((
            f"{len(self.tuning.trials)} trials, {len(failed)} failed; the best is {best.id} with validation "
            f"accuracy {best.val_accuracy:.2%} after {best.epochs} epochs",
            f"  {changes}",
            *(f"  trial {trial.id} failed: {trial.problem}" for trial in failed),
            f"  next    pergola run {self.dataset} --config {self.config}",
        ))  # fmt: skip


def tune(
    dataset: Path,
    settings: Settings,
    workspace: Workspace,
    how: TuneSettings,
    *,
    space: Path | None,
    show: Display,
) -> TuneResult:
    """Search for settings of [augment], [model] and [train]. Settings outside the search space are kept."""
    from pergola.components.training.search.space import Tuned, load

    if space:
        load(space)  # errors are reported before any work is done
    base = Tuned(settings.augment, settings.model, settings.train)
    with run.prepared(dataset, settings, workspace, show) as engine:
        shards = engine.output("shards")
        search = [records.to_dict(base), how.method, how.seed, digest.of_file(space) if space else ""]
        key = digest.of_data([shards.sha256, *search])[:20]
        out = workspace.experiments / "tune" / key
        tuning = steps.tune(shards.folder, out, how, base=base, space=space, key=f"tune-{key}",
                            tracking_uri=workspace.tracking_uri, progress=show.progress)  # fmt: skip
    return TuneResult(tuning, out / "best.toml", dataset)
