"""The training pipeline, once: a table that reads from top to bottom. pipelines/local and pipelines/kubeflow
run it.

    scan -> validate -> split -> shards -> augment -> train -> export -> champion -> evaluate -> smoke_test
         -> evaluate_champion -> gate -> report -> reference -> register -> publish -> final_test -> confirm
         (-> deliver)

A row's inputs are the parameters of its function, named after the artifacts that other rows make. A rejected
model ends with its report and its entry in the registry, a held one with a version number there, and both are
good runs. docs/contributing.md shows how to add a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pergola.components import code, records
from pergola.components.artifacts.decision import ACCEPTED, HELD
from pergola.components.steps import data, model, release
from pergola.components.steps.context import ALL, Context
from pergola.pipelines import summaries

REGISTRY, STORE = "registry", "store"  # secrets that a step can need
COMPONENTS = "pergola.components"


@dataclass(frozen=True)
class Parts:
    """How a step is done by several workers at once: the function of a part, and the one that merges all
    parts."""

    part: Callable[..., Any]
    merge: Callable[..., Any]


@dataclass(frozen=True)
class Step:
    """One row: what is done, what it depends on, and how engines may treat it."""

    name: str
    function: Callable[..., Any]  # (context, out, *inputs) -> record; see components/steps
    output: str  # name of the artifact that it makes
    code: tuple[str, ...]  # modules whose code decides the result, with all that they import
    group: str  # rows in a row with the same group can share a Kubeflow task
    settings: tuple[str, ...] = ()  # "section", "section.key" or "*": a change of them redoes the step
    reads: tuple[str, ...] = ()  # settings that only say where inputs lie; what they decide is in the inputs
    observes: Callable[[Context], str] | None = (
        None  # digest of what it depends on besides inputs and settings
    )
    check: Callable[[Context, Mapping[str, Path]], None] | None = None  # of its inputs, in every run
    describe: Callable[[Path], str] = lambda folder: ""  # its output in a few words
    parts: Parts | None = None
    resumes: bool = False  # continues from a partial output
    always: bool = False  # depends on what no key holds, such as the registry: done in every run
    outcomes: tuple[str, ...] = ()  # of the gate, with which it is done; empty: with any
    releases: bool = False  # not done when a version is only reproduced
    secrets: tuple[str, ...] = ()
    decodes: bool = False  # reads encoded images, which nobody vouches for
    accelerator: bool = False
    refuses: bool = (
        False  # raises InputError for what pages of earlier steps show, so these must come through
    )
    retry: bool = True  # trying again can help: storage, network, a lost node
    verifies: tuple[
        str, ...
    ] = ()  # inputs whose content is hashed again first, whatever their time stamps say
    still: Callable[[Context, Path], bool] | None = None  # whether what it did outside of its folder is there
    local: bool = True  # part of a run on a laptop

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the artifacts that it takes."""
        return tuple(inspect.signature(self.function).parameters)[2:]

    @property
    def has_effects(self) -> bool:
        """Whether it changes anything besides its output: such a step is never taken from a cache blindly."""
        return self.still is not None

    def is_done_when(self, outcome: str) -> bool:
        """Whether it is done after the gate came to this outcome."""
        return not self.outcomes or outcome in self.outcomes

    def code_digest(self) -> str:
        """Of its function and everything that its roots reach."""
        functions = (self.function, *((self.parts.part, self.parts.merge) if self.parts else ()))
        return "-".join(code.of_step(function, self.code)[:20] for function in functions)

    def settings_in(self, context: Context) -> dict[str, Any]:
        """The settings that a change of which redoes it, as plain values; a file counts by its content."""
        if ALL in self.settings:
            return records.to_dict(context.settings)
        found: dict[str, Any] = {}
        for name in self.settings:
            section, _, key = name.partition(".")
            part = records.content_of(getattr(context.settings, section))
            found[name] = part[key] if key else part
        return found

    def context(self, context: Context) -> Context:
        """The context with the settings that it declares, and no others."""
        return context.limited_to((*self.settings, *self.reads))


@dataclass(frozen=True)
class Pipeline:
    """Steps in an order in which each finds its inputs made."""

    name: str
    steps: tuple[Step, ...]
    place: str = field(default="", compare=False)  # "module:attribute", where a pod finds it

    def __post_init__(self) -> None:
        made: set[str] = set()
        for step in self.steps:
            if missing := [name for name in step.inputs if name not in made]:
                raise ValueError(
                    f"Step {step.name} takes {', '.join(missing)}, which no step before it makes."
                )
            if not step.code:
                raise ValueError(f"Step {step.name} declares no code: its results would be reused for ever.")
            made.add(step.output)

    @cached_property
    def by_name(self) -> dict[str, Step]:
        """Steps by name."""
        return {step.name: step for step in self.steps}

    @cached_property
    def makers(self) -> dict[str, Step]:
        """Steps by the artifact that they make."""
        return {step.output: step for step in self.steps}


TRAINING = Pipeline(
    "training",
    (
        Step(
            "scan", data.scan, "manifest", group="data", decodes=True,
            code=(f"{COMPONENTS}.data.manifest.scan", f"{COMPONENTS}.data.sources.source"),
            settings=("scan",), observes=data.listing, describe=summaries.scan,
            parts=Parts(data.scan_part, data.merge_scans),
        ),
        Step(
            "validate", data.validate, "validation", group="data", decodes=True,
            code=(f"{COMPONENTS}.data.checks.validate", f"{COMPONENTS}.data.page",
                  f"{COMPONENTS}.data.sources.source"),
            settings=("validate",), reads=("scan", "model"), observes=data.content_network,
            describe=summaries.validate,
        ),
        Step(
            "split", data.split, "split", group="data", code=(f"{COMPONENTS}.data.split",),
            settings=("split",), reads=("release.allow_contract_changes",), check=data.check_belongs,
            refuses=True, describe=summaries.split,
        ),
        Step(
            "shards", data.shards, "shards", group="data", decodes=True,
            code=(f"{COMPONENTS}.data.shards", f"{COMPONENTS}.data.sources.source"),
            settings=("shards",), reads=("scan",),
            describe=summaries.shards, parts=Parts(data.shards_part, data.merge_shards),
        ),
        Step(
            "augment", model.augment, "augmentation", group="train", decodes=True, accelerator=True,
            retry=False, code=(f"{COMPONENTS}.training.augmentation.augment",),
            settings=("augment", "train.seed"), reads=("export.costs",), check=data.check_costs,
            describe=summaries.augment,
        ),
        Step(
            "train", model.train, "training", group="train", decodes=True, accelerator=True,
            code=(f"{COMPONENTS}.training.fit",),
            settings=("train", "model"), describe=summaries.train, resumes=True,
        ),
        Step(
            "export", model.export, "export", group="train", decodes=True, accelerator=True, retry=False,
            code=(f"{COMPONENTS}.training.export",), settings=("export",), describe=summaries.export,
        ),
        Step(
            "champion", model.champion, "champion", group="champion", secrets=(REGISTRY,), always=True,
            code=(f"{COMPONENTS}.release.champions", f"{COMPONENTS}.release.repair",
                  f"{COMPONENTS}.release.anchor"),
            describe=summaries.champion,
        ),
        Step(
            "evaluate", model.evaluate, "evaluation", group="evaluate", decodes=True, retry=False,
            code=(f"{COMPONENTS}.evaluation.evaluate", f"{COMPONENTS}.evaluation.loaded_model"),
            settings=("evaluate",), describe=summaries.evaluate,
        ),
        Step(
            "smoke_test", model.smoke_test, "smoke_test", group="evaluate", decodes=True,
            code=(f"{COMPONENTS}.release.smoke_test", "pergola.serving.server.app"),
            settings=("smoke_test",), describe=summaries.smoke_test,
        ),
        Step(
            "evaluate_champion", model.evaluate_champion, "champion_evaluation", group="evaluate",
            decodes=True, retry=False,
            code=(f"{COMPONENTS}.evaluation.evaluate", f"{COMPONENTS}.evaluation.loaded_model"),
            settings=("evaluate",), describe=summaries.evaluate_champion,
        ),
        Step(
            "gate", model.gate, "decision", group="evaluate",
            code=(f"{COMPONENTS}.evaluation.gate.gate", f"{COMPONENTS}.release.anchor"),
            settings=("gate", "release.allow_contract_changes"), observes=model.hold,
            describe=summaries.gate, retry=False,
        ),
        Step(
            "report", release.report, "report", group="evaluate", decodes=True, retry=False,
            code=(f"{COMPONENTS}.evaluation.report.report",), settings=(ALL,), describe=summaries.report,
        ),
        Step(
            "reference", model.reference, "reference", group="evaluate", decodes=True, retry=False,
            outcomes=(ACCEPTED, HELD), releases=True,
            code=(f"{COMPONENTS}.evaluation.drift.reference", f"{COMPONENTS}.evaluation.loaded_model"),
            describe=summaries.reference,
        ),
        Step(
            "register", release.register, "registration", group="release", releases=True, secrets=(REGISTRY,),
            code=(f"{COMPONENTS}.release.registry.registry", f"{COMPONENTS}.release.provenance"),
            settings=(ALL,),
            verifies=("export",), still=release.is_registered, describe=summaries.register,
        ),
        Step(
            "publish", release.publish, "publication", group="release", outcomes=(ACCEPTED,), releases=True,
            code=(f"{COMPONENTS}.store.publish",), settings=("release.signing_key",),
            verifies=("export", "reference"),
            still=release.is_published, describe=summaries.publish,
        ),
        Step(
            "final_test", release.final_test, "final_test", group="final_test", outcomes=(ACCEPTED,),
            releases=True, decodes=True, settings=("gate.max_difference", "smoke_test"),
            code=(f"{COMPONENTS}.release.confirm", f"{COMPONENTS}.release.smoke_test",
                  "pergola.serving.server.app"),
            verifies=("publication",), still=release.has_passed, describe=summaries.final_test,
        ),
        Step(
            "confirm", release.confirm, "confirmation", group="confirm", outcomes=(ACCEPTED,), releases=True,
            secrets=(REGISTRY,), code=(f"{COMPONENTS}.release.confirm", f"{COMPONENTS}.release.champions"),
            verifies=("publication",), still=release.is_confirmed, describe=summaries.confirm,
        ),
        Step(
            "deliver", release.deliver, "delivery", group="confirm", outcomes=(ACCEPTED,), releases=True,
            secrets=(STORE,), settings=(ALL,), always=True, local=False,
            code=(f"{COMPONENTS}.store.model_store", f"{COMPONENTS}.store.release_record"),
        ),
    ),
    place="pergola.pipelines.definition:TRAINING",
)  # fmt: skip
