"""Makes a kfp pipeline from a pipeline of pipelines/definition.py: rows become tasks, alone or in groups.

A task gets the settings of its steps as one struct parameter per section, which a run can override; the
defaults are the settings with which the pipeline was compiled. Kubeflow caches tasks by inputs, settings and
code, and the scan also by a digest of the list of images.

This file must not postpone annotations (`from __future__ import annotations`): kfp reads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pergola.components import records
from pergola.components.artifacts.decision import ACCEPTED
from pergola.components.errors import InputError
from pergola.components.settings import Settings
from pergola.pipelines.definition import TRAINING, Pipeline, Step
from pergola.pipelines.kubeflow.cluster import (
    ClusterSettings,
    PodNeeds,
    configured,
    on_accelerator,
    with_pod_identity,
)

ACCELERATOR = "nvidia.com/gpu"
SECTIONS = ("scan", "validate", "split", "shards", "augment", "model", "train", "export", "evaluate",
            "smoke_test", "gate", "release", "retrain")  # fmt: skip


@dataclass(frozen=True)
class RunParameters:
    """Parameters of a run, as kfp passes them inside a pipeline function."""

    dataset: Any
    model: Any
    workspace: Any
    sections: dict[str, Any]  # "scan", "train", … -> struct parameter
    accelerator: Any
    accelerator_count: Any
    node_selector: Any
    tolerations: Any
    store: Any
    release: Any
    hold: Any  # register an accepted model, but leave the champion as it is
    ui: Any  # address of Kubeflow's pages, for links


def build(settings: Settings, cluster: ClusterSettings, steps: Pipeline = TRAINING) -> Any:
    """The pipeline "training", with these settings as defaults of its parameters."""

    def body(tasks: "Tasks") -> None:
        tasks.add(steps.steps)

    about = "From images to a published version, or to a rejection with its reasons."
    return pipeline("training", about, settings, cluster, body, steps)


def build_retraining(settings: Settings, cluster: ClusterSettings, steps: Pipeline = TRAINING) -> Any:
    """The pipeline "retraining", for schedules: trains when a run is due, and otherwise ends at once.

    It decides as `pergola retrain` does (components/release/retrain.py). A run without a reason to train
    succeeds; it costs a list of the images and, when that changed, a scan.
    """

    def body(tasks: "Tasks") -> None:
        from kfp import dsl

        scan, *rest = steps.steps
        tasks.add([scan])
        with dsl.If(tasks.changes() == "changed", name="changed"):
            tasks.add(rest)

    about = "Trains for new images or settings, drift or age, and otherwise ends at once."
    return pipeline("retraining", about, settings, cluster, body, steps)


def pipeline(
    name: str,
    about: str,
    settings: Settings,
    cluster: ClusterSettings,
    body: "Callable[[Tasks], None]",
    steps: Pipeline,
) -> Any:
    """A pipeline with the parameters of a run, whose tasks `body` makes, and an exit task.

    kfp reads parameters from a function's signature, which is why they stand here one by one.
    """
    from kfp import dsl

    default = sections(settings)

    @dsl.pipeline(name=name, description=about)
    def made(
        dataset: str,
        model: str,
        scan: dict[str, Any] = default["scan"],
        validate: dict[str, Any] = default["validate"],
        split: dict[str, Any] = default["split"],
        shards: dict[str, Any] = default["shards"],
        augment: dict[str, Any] = default["augment"],
        network: dict[str, Any] = default["model"],
        train: dict[str, Any] = default["train"],
        export: dict[str, Any] = default["export"],
        evaluate: dict[str, Any] = default["evaluate"],
        smoke_test: dict[str, Any] = default["smoke_test"],
        gate: dict[str, Any] = default["gate"],
        release_settings: dict[str, Any] = default["release"],
        retrain: dict[str, Any] = default["retrain"],
        workspace: str = cluster.workspace,
        accelerator: str = ACCELERATOR,
        accelerator_count: str = "0",
        node_selector: dict[str, Any] = {},  # noqa: B006
        tolerations: list[Any] = [],  # noqa: B006
        store: str = "",
        release: bool = False,
        hold: bool = False,
        ui: str = "",
    ) -> None:
        given = (scan, validate, split, shards, augment, network, train, export, evaluate, smoke_test, gate,
                 release_settings, retrain)  # fmt: skip
        asked = RunParameters(dataset, model, workspace, dict(zip(SECTIONS, given, strict=True)), accelerator,
                      accelerator_count, node_selector, tolerations, store, release, hold, ui)  # fmt: skip
        with dsl.ExitHandler(finish(asked, cluster), name="run"):
            body(Tasks(asked, cluster, steps))

    return made


def sections(settings: Settings) -> dict[str, dict[str, Any]]:
    """Struct parameters from settings, without null values, which Kubeflow does not accept.

    A file of costs is passed as its text: pods need not find the file, and caches depend on its content.
    """
    from pergola.components.stats.costs import read_text

    if settings.release.signing_key:
        raise InputError(
            "release.signing_key names a file, which pods do not have. Leave it out, and sign what a cluster "
            "made where the key is."
        )
    plain = records.to_dict(settings)
    if settings.export.costs:
        plain["export"]["costs"] = read_text(settings.export.costs)
    return {name: {k: v for k, v in part.items() if v is not None} for name, part in plain.items()}


def finish(asked: RunParameters, cluster: ClusterSettings) -> Any:
    """The exit task: reports how the run ended, whatever happened."""
    from kfp import dsl

    from pergola.pipelines.kubeflow import ops

    task = ops.finish(
        run=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        model=asked.model,
        workspace=asked.workspace,
        ui=asked.ui,
    )
    return configured(task, "finish", cluster, PodNeeds(secrets=("webhook",)), cache=False)


def groups_of(steps: Sequence[Step], cluster: ClusterSettings) -> list[list[Step]]:
    """Steps that share a task: neighbours in the same group, except steps that several pods do together."""
    alone = [step.name for step in steps if step.parts] if cluster.partitions > 1 else []
    alone += ["train"] if cluster.workers > 1 else []
    groups: list[list[Step]] = []
    for step in steps:
        last = groups[-1][-1] if groups else None
        joins = last is not None and cluster.group == "auto" and last.group == step.group
        if joins and not {step.name, groups[-1][-1].name} & set(alone):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


class Tasks:
    """Makes the tasks of a pipeline, each with its pod's settings."""

    def __init__(self, asked: RunParameters, cluster: ClusterSettings, steps: Pipeline) -> None:
        from pergola.pipelines.kubeflow import components

        self.asked, self.cluster, self.pipeline, self.components = asked, cluster, steps, components
        self.sections = asked.sections
        self.made: dict[str, Any] = {}
        self.outcome: Any = None
        given = {f"{name}_settings": part for name, part in self.sections.items() if name != "retrain"}
        task = components.check_of([name for name in SECTIONS if name != "retrain"])(
            dataset=asked.dataset, model=asked.model, workspace=asked.workspace, **given
        )
        checked = configured(task, "check", cluster, PodNeeds(), cache=False).outputs
        self.asked_settings = self.settings = checked["settings"]
        self.listing = checked["listing"]

    def add(self, steps: Sequence[Step]) -> None:
        """Tasks for these steps; those that only an accepted model needs come last, under a condition.

        A step for several outcomes has a task in every run, which ends at once when there is nothing to do.
        """
        from kfp import dsl

        groups = groups_of(steps, self.cluster)
        conditional = [group for group in groups if all(step.outcomes == (ACCEPTED,) for step in group)]
        for group in groups:
            if group not in conditional:
                self._group(group)
        if conditional:
            with dsl.If(self.outcome == ACCEPTED, name=ACCEPTED):
                for group in conditional:
                    self._group(group)

    def changes(self) -> Any:
        """Whether a run is due, for new images or settings, drift or age: "changed" or "unchanged"."""
        from pergola.pipelines.kubeflow import ops

        asked = self.asked
        task = ops.changes(manifest=self.made["manifest"], dataset=asked.dataset, model=asked.model,
                           workspace=asked.workspace, settings=self.settings,
                           retrain_settings=asked.sections["retrain"])  # fmt: skip
        return configured(
            task, "changes", self.cluster, PodNeeds(secrets=("registry",)), cache=False
        ).outputs["Output"]

    def _group(self, steps: Sequence[Step]) -> None:
        first = steps[0]
        if first.name == "augment" and self.cluster.tune_trials:
            self._tune()
        if first.parts and self.cluster.partitions > 1:
            self._in_parts(first)
        elif first.name == "train" and self.cluster.workers > 1:
            self._train_workers(first)
        else:
            name = first.name if len(steps) == 1 else first.group
            component = self.components.component_of(self.pipeline, steps, name)
            task = self._configured(component(**self._arguments(steps)), name, steps)
            self._note(task, steps)

    def _in_parts(self, step: Step) -> None:
        """One task per part of the data set, in parallel, and one that merges their outputs."""
        from kfp import dsl

        count, given = self.cluster.partitions, self._arguments([step])
        with dsl.ParallelFor(list(range(count)), name=f"{step.name}-parts") as index:
            part = self.components.part_of(self.pipeline, step)(index=index, count=count, **given)
            self._configured(part, f"{step.name}_part", [step])
        merge = self.components.merge_of(self.pipeline, step)(
            parts=dsl.Collected(part.outputs["part"]), **given
        )
        self._note(self._configured(merge, f"merge_{step.name}_parts", [replace(step, retry=False)]), [step])

    def _tune(self) -> None:
        """A search; all tasks after it use the best settings that it found."""
        from pergola.pipelines.kubeflow import ops

        asked, step = self.asked, self.pipeline.by_name["train"]
        search = {"trials": self.cluster.tune_trials, "minutes": self.cluster.tune_minutes}
        task = ops.tune(shards=self.made["shards"], settings=self.settings, search=search,
                        dataset=asked.dataset, model=asked.model, workspace=asked.workspace,
                        accelerator=asked.accelerator, accelerator_count=asked.accelerator_count,
                        code=self.components.code_of([step]))  # fmt: skip
        found = self._configured(task, "tune", [step]).outputs
        self.sections = {**self.sections, "augment": found["augment"], "model": found["network"],
                         "train": found["train"]}  # fmt: skip
        self.settings = found["settings"]

    def _train_workers(self, step: Step) -> None:
        from pergola.pipelines.kubeflow import ops

        asked, given = self.asked, self._arguments([step])
        task = ops.train_workers(workers=self.cluster.worker_pods(), node_selector=asked.node_selector,
                                 tolerations=asked.tolerations, **given)  # fmt: skip
        needs = PodNeeds(decodes=True, long=True)
        self._note(with_pod_identity(configured(task, "train_workers", self.cluster, needs)), [step])

    def _arguments(self, steps: Sequence[Step]) -> dict[str, Any]:
        """Arguments of the component of these steps."""
        inputs, _ = self.components.artifacts_of(steps)
        asked = self.asked
        values = {
            "dataset": asked.dataset, "model": asked.model, "workspace": asked.workspace,
            "listing": self.listing, "code": self.components.code_of(steps), "settings": self.settings,
            "store": asked.store, "release": asked.release, "hold": asked.hold,
            "asked_settings": self.asked_settings,
            "accelerator": asked.accelerator,
            "accelerator_count": asked.accelerator_count,
            **{f"{name}_settings": part for name, part in self.sections.items()},
        }  # fmt: skip
        wanted = self.components.parameters_of(steps)
        return {key: values[key] for key in wanted} | {name: self.made[name] for name in inputs}

    def _configured(self, task: Any, name: str, steps: Sequence[Step]) -> Any:
        asked, needs = self.asked, PodNeeds.of(steps)
        cache = not any(step.always or step.has_effects for step in steps)
        task = configured(task, name, self.cluster, needs, cache=cache)
        if needs.accelerator:
            on_accelerator(
                task, asked.accelerator, asked.accelerator_count, asked.node_selector, asked.tolerations
            )
        return task

    def _note(self, task: Any, steps: Sequence[Step]) -> None:
        self.made |= {step.output: task.outputs[step.output] for step in steps}
        if any(step.output == "decision" for step in steps):
            self.outcome = task.outputs["Output"]
