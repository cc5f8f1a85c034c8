"""The walk as a Kubeflow pipeline: the same steps as pipelines/local/run.py, in the same order.

Every step gets its settings as one struct parameter, which a run can override; the defaults are the
settings with which the pipeline was compiled. What nothing changed is taken from Kubeflow's cache: a
scan is keyed by a digest of what lies in the folder, each step by its inputs, its settings and its code.

This file must not postpone annotations (`from __future__ import annotations`): kfp reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pergola.components import code, records
from pergola.pipelines.kubeflow.cluster import ClusterSettings, configured, knows_itself, on_accelerator
from pergola.pipelines.settings import Settings

ACCELERATOR = "nvidia.com/gpu"


@dataclass(frozen=True)
class Place:
    """Where a run keeps and delivers what it makes. Parameters, as they stand in a pipeline function."""

    workspace: Any
    store: Any
    release: Any
    ui: Any  # address of Kubeflow's pages, for links


@dataclass(frozen=True)
class Nodes:
    """On what the train step runs."""

    accelerator: Any
    accelerator_count: Any
    selector: Any
    tolerations: Any


@dataclass(frozen=True)
class Asked:
    """What a run is asked for."""

    dataset: Any
    model: Any
    sections: dict[str, Any]  # "scan", "train", … -> struct parameter
    place: Place
    nodes: Nodes


def build(settings: Settings, cluster: ClusterSettings) -> Any:
    """The pipeline "training", with these settings as defaults of its parameters."""

    def body(steps: "Steps") -> None:
        steps.all_after(steps.scan())

    about = "From images to a published version, or to a reasoned no."
    return pipeline("training", about, settings, cluster, body)


def pipeline(
    name: str, about: str, settings: Settings, cluster: ClusterSettings, body: "Callable[[Steps], None]"
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
        retrain: dict[str, Any] = default["retrain"],
        workspace: str = cluster.workspace,
        accelerator: str = ACCELERATOR,
        accelerator_count: str = "0",
        node_selector: dict[str, Any] = {},  # noqa: B006
        tolerations: list[Any] = [],  # noqa: B006
        store: str = "",
        release: bool = False,
        ui: str = "",
    ) -> None:
        given = {
            "scan": scan,
            "validate": validate,
            "split": split,
            "shards": shards,
            "augment": augment,
            "model": network,
            "train": train,
            "export": export,
            "evaluate": evaluate,
            "smoke_test": smoke_test,
            "gate": gate,
            "retrain": retrain,
        }
        place = Place(workspace, store, release, ui)
        nodes = Nodes(accelerator, accelerator_count, node_selector, tolerations)
        asked = Asked(dataset, model, given, place, nodes)
        with dsl.ExitHandler(finish(asked, cluster), name="run"):
            body(Steps(asked, cluster))

    return made


def sections(settings: Settings) -> dict[str, dict[str, Any]]:
    """Struct parameters from settings: without empty values, which Kubeflow does not take.

    A file of costs goes along as its text: no pod has to find it, and what depends on it is keyed by it.
    """
    from pergola.components.evaluation.costs import read_text

    plain = records.to_dict(settings)
    if settings.export.costs:
        plain["export"]["costs"] = read_text(settings.export.costs)
    return {name: {k: v for k, v in part.items() if v is not None} for name, part in plain.items()}


def finish(asked: Asked, cluster: ClusterSettings) -> Any:
    """The exit task: tells how the run ended, whatever happened."""
    from kfp import dsl

    from pergola.pipelines.kubeflow import ops

    task = ops.finish(
        run=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        model=asked.model,
        workspace=asked.place.workspace,
        ui=asked.place.ui,
    )
    return configured(task, "finish", cluster, cache=False)


class Steps:
    """Makes the tasks of a pipeline that is being built, each with its pod's settings."""

    def __init__(self, asked: Asked, cluster: ClusterSettings) -> None:
        from pergola.pipelines.kubeflow import ops

        self.asked, self.cluster, self.ops = asked, cluster, ops
        self.settings = self._set("settings", ops.settings(**self._settings()), retry=False)
        self.told = self.settings.output  # settings that the report tells

    def scan(self) -> Any:
        """Images -> manifest; the listing is made in every run, the scan only when it changed."""
        asked = self.asked
        place = {"dataset": asked.dataset, "workspace": asked.place.workspace}
        found = self._set("listing", self.ops.listing(scan=asked.sections["scan"], **place), cache=False)
        found.after(self.settings)  # bad settings are told before any work is done
        given = {"listing": found.output, "settings": asked.sections["scan"], **place}
        if self.cluster.partitions == 1:
            return self._step("scan", **given)
        return self._step("merge_scans", parts=self._parts("scan_part", **given), retry=False)

    def changes(self, scan: Any) -> Any:
        """Whether it is time, for new images or settings, drift or age: "changed" or "unchanged"."""
        asked = self.asked
        task = self.ops.changes(
            manifest=scan.outputs["manifest"],
            model=asked.model,
            settings=self.settings.output,
            retrain=asked.sections["retrain"],
            workspace=asked.place.workspace,
        )
        return self._set("changes", task, cache=False).outputs["Output"]

    def all_after(self, scan: Any) -> None:
        """Everything from the manifest on."""
        from kfp import dsl

        done = self._judged(self._trained(self._data(scan.outputs["manifest"])))
        told = self._recorded(done)
        with dsl.If(done["verdict"] == "accepted", name="accepted"):
            self._released(done, told)

    def _data(self, manifest: Any) -> dict[str, Any]:
        asked, given = self.asked, self.asked.sections
        place = {"dataset": asked.dataset, "workspace": asked.place.workspace}
        validation = self._step("validate", manifest=manifest, settings=given["validate"], scan=given["scan"],
                                network=given["model"], **place).outputs["validation"]  # fmt: skip
        split = self._step("split", manifest=manifest, validation=validation, settings=given["split"],
                           model=asked.model, workspace=asked.place.workspace).outputs["split"]  # fmt: skip
        shards = self._shards(manifest, split, place).outputs["shards"]
        return {"manifest": manifest, "validation": validation, "split": split, "shards": shards}

    def _shards(self, manifest: Any, split: Any, place: dict[str, Any]) -> Any:
        given = {"manifest": manifest, "split": split, "settings": self.asked.sections["shards"]}
        pictures = {"scan": self.asked.sections["scan"], **place}
        if self.cluster.partitions == 1:
            return self._step("shards", **given, **pictures)
        parts = self._parts("shards_part", **given, **pictures)
        return self._step("merge_shards", parts=parts, **given, retry=False)

    def _parts(self, name: str, **inputs: Any) -> Any:
        """One task a partition of the data set, all at once; gives what they made, together."""
        from kfp import dsl

        count = self.cluster.partitions
        with dsl.ParallelFor(list(range(count)), name=f"{name}s".replace("_", "-")) as index:
            part = self._step(name, index=index, count=count, **inputs)
        return dsl.Collected(part.outputs["part"])

    def _trained(self, done: dict[str, Any]) -> dict[str, Any]:
        shards = done["shards"]
        given = self._tuned(shards)
        augmentation = self._step("augment", shards=shards, settings=given["augment"], train=given["train"],
                                  retry=False).outputs["augmentation"]  # fmt: skip
        train = self._train(shards, augmentation, given)
        training = train.outputs["training"]
        export = self._step(
            "export", training=training, shards=shards, settings=given["export"], retry=False
        ).outputs["export"]
        return {**done, "augmentation": augmentation, "training": training, "export": export}

    def _tuned(self, shards: Any) -> dict[str, Any]:
        """The sections of settings, as given or as a search found them; the report then tells those."""
        asked, nodes, given = self.asked, self.asked.nodes, self.asked.sections
        if not self.cluster.tune_trials:
            return given
        search = {"trials": self.cluster.tune_trials, "minutes": self.cluster.tune_minutes}
        task = self._step("tune", shards=shards, augment=given["augment"], network=given["model"],
                          train=given["train"], search=search, model=asked.model,
                          workspace=asked.place.workspace, accelerator=nodes.accelerator,
                          accelerator_count=nodes.accelerator_count)  # fmt: skip
        on_accelerator(task, nodes.accelerator, nodes.accelerator_count, nodes.selector, nodes.tolerations)
        found = {name: task.outputs[name] for name in ("augment", "network", "train")}
        told = self.ops.settings(**{**self._settings(), **found})
        self.told = self._set("settings", told, retry=False).set_display_name("settings, tuned").output
        return {**given, "augment": found["augment"], "model": found["network"], "train": found["train"]}

    def _train(self, shards: Any, augmentation: Any, given: dict[str, Any]) -> Any:
        """One pod, or a pod that makes a TrainJob of several workers and follows it."""
        asked, nodes = self.asked, self.asked.nodes
        inputs = {
            "shards": shards,
            "augmentation": augmentation,
            "settings": given["train"],
            "architecture": given["model"],
            "model": asked.model,
            "workspace": asked.place.workspace,
            "accelerator": nodes.accelerator,
            "accelerator_count": nodes.accelerator_count,
            "code": code.of_step("train"),
        }
        if self.cluster.workers == 1:
            task = self._set("train", self.ops.train(**inputs))
            return on_accelerator(
                task, nodes.accelerator, nodes.accelerator_count, nodes.selector, nodes.tolerations
            )
        task = self.ops.train_workers(workers=self.cluster.worker_pods(), node_selector=nodes.selector,
                                      tolerations=nodes.tolerations, **inputs)  # fmt: skip
        return knows_itself(self._set("train_workers", task))

    def _judged(self, done: dict[str, Any]) -> dict[str, Any]:
        asked, given, export = self.asked, self.asked.sections, done["export"]
        images = {"export": export, "shards": done["shards"], "split": done["split"]}
        manifest, settings = done["manifest"], given["evaluate"]
        evaluation = self._step(
            "evaluate", manifest=manifest, settings=settings, retry=False, **images
        ).outputs["evaluation"]
        smoke_test = self._step("smoke_test", export=export, evaluation=evaluation,
                               settings=given["smoke_test"]).outputs["smoke_test"]  # fmt: skip
        rival = self.ops.champion(
            settings=given["evaluate"], model=asked.model, workspace=asked.place.workspace, **images
        )
        champion = self._set("champion", rival, cache=False).outputs["champion"]
        gate = self._step("gate", evaluation=evaluation, champion=champion, smoke_test=smoke_test,
                          settings=given["gate"], retry=False)  # fmt: skip
        return {**done, "evaluation": evaluation, "smoke_test": smoke_test, "champion": champion,
                "decision": gate.outputs["decision"], "verdict": gate.outputs["Output"]}  # fmt: skip

    def _recorded(self, done: dict[str, Any]) -> Any:
        asked = self.asked
        shown = {name: artifact for name, artifact in done.items() if name != "verdict"}
        report = self._step("report", model=asked.model, settings=self.told, retry=False, **shown)
        names = ("manifest", "validation", "split", "training", "export", "evaluation", "decision")
        told = self.ops.register(
            report=report.outputs["report"],
            dataset=asked.dataset,
            model=asked.model,
            settings=self.told,
            asked=self.settings.output,
            workspace=asked.place.workspace,
            **{name: done[name] for name in names},
        )
        return self._set("register", told, cache=False).outputs["registration"]

    def _released(self, done: dict[str, Any], registration: Any) -> None:
        asked, given = self.asked, self.asked.sections
        reference = self._step("reference", export=done["export"], shards=done["shards"],
                               evaluation=done["evaluation"], retry=False).outputs["reference"]  # fmt: skip
        publish = self.ops.publish(
            registration=registration,
            export=done["export"],
            reference=reference,
            workspace=asked.place.workspace,
        )
        publication = self._set("publish", publish, cache=False).outputs["publication"]
        confirm = self.ops.confirm(publication=publication, evaluation=done["evaluation"], gate=given["gate"],
                                   smoke_test=given["smoke_test"],
                                   workspace=asked.place.workspace)  # fmt: skip
        confirmation = self._set("confirm", confirm, cache=False).outputs["confirmation"]
        deliver = self.ops.deliver(
            confirmation=confirmation,
            manifest=done["manifest"],
            store=asked.place.store,
            release=asked.place.release,
            settings=self.settings.output,
            workspace=asked.place.workspace,
        )
        self._set("deliver", deliver, cache=False)

    def _step(self, name: str, *, retry: bool = True, **inputs: Any) -> Any:
        """A task of a step of components/steps.py, keyed by its code as well."""
        return self._set(name, getattr(self.ops, name)(code=code.of_step(name), **inputs), retry=retry)

    def _set(self, name: str, task: Any, *, retry: bool = True, cache: bool = True) -> Any:
        return configured(task, name, self.cluster, retry=retry, cache=cache)

    def _settings(self) -> dict[str, Any]:
        given = {name: part for name, part in self.asked.sections.items() if name != "retrain"}
        return {"network": given.pop("model"), "model": self.asked.model, **given}
