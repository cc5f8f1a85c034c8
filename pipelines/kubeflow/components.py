"""Rows of a pipeline as Kubeflow components. EDGE: kfp.

A component's source is one call into pod.py, which kfp copies and runs alone in the image. It has typed
artifacts, one struct parameter per section of settings that its steps declare (or all settings as TOML, for a
step that declares all), and `code`, the digest of its steps' code: nothing reads it, but Kubeflow's cache is
keyed by it.
"""

import linecache
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Markdown, Metrics, Model, Output

from pergola.components.steps.context import ALL
from pergola.pipelines.definition import STORE, Pipeline, Step
from pergola.pipelines.kubeflow import pod, visuals

IMAGE = "pergola"  # replaced when a pipeline is compiled
KINDS = {"manifest": "Dataset", "split": "Dataset", "shards": "Dataset",
         "training": "Model", "export": "Model"}  # fmt: skip
NAMES = {"Artifact": Artifact, "ClassificationMetrics": ClassificationMetrics, "Dataset": Dataset,
         "HTML": HTML, "Input": Input, "Markdown": Markdown, "Metrics": Metrics, "Model": Model,
         "NamedTuple": NamedTuple, "Output": Output}  # fmt: skip


def component_of(pipeline: Pipeline, steps: Sequence[Step], name: str) -> Any:
    """One component that runs these steps in this order."""
    decides = any(step.output == "decision" for step in steps)
    inputs, outputs = artifacts_of(steps)
    parameters = parameters_of(steps)
    parameters |= {key: f"Input[{kind_of(key)}]" for key in inputs}
    parameters |= {key: f"Output[{kind_of(key)}]" for key in outputs}
    for step in steps:
        parameters |= {key: f"Output[{page.kind}]" for key, page in visuals.PAGES.get(step.name, {}).items()}
    if len(steps) > 1:
        parameters["steps"] = "Output[Markdown]"
    call = f"pod.run({pipeline.place!r}, {[step.name for step in steps]!r}, locals())"
    return _component(name, parameters, call, "str" if decides else "")


def part_of(pipeline: Pipeline, step: Step) -> Any:
    """A component that does part `index` of `count` of a step's work."""
    parameters = {**parameters_of([step]), "index": "int", "count": "int"}
    parameters |= {key: f"Input[{kind_of(key)}]" for key in step.inputs} | {"part": "Output[Dataset]"}
    return _component(
        f"{step.name}_part", parameters, f"pod.run_part({pipeline.place!r}, {step.name!r}, locals())"
    )


def merge_of(pipeline: Pipeline, step: Step) -> Any:
    """A component that merges all parts of a step's work into its artifact."""
    parameters = parameters_of([step]) | {"parts": "Input[list[Dataset]]"}
    parameters |= {key: f"Input[{kind_of(key)}]" for key in step.inputs}
    parameters |= {step.output: f"Output[{kind_of(step.output)}]"}
    call = f"pod.merge_parts({pipeline.place!r}, {step.name!r}, locals())"
    return _component(f"merge_{step.name}_parts", parameters, call)


def check_of(sections: Sequence[str]) -> Any:
    """A component that checks all settings before any work is done, and lists the data set."""
    parameters = {"dataset": "str", "model": "str", "workspace": "str"}
    parameters |= {f"{section}{pod.SUFFIX}": "dict" for section in sections}
    returns = 'NamedTuple("Checked", [("settings", str), ("listing", str)])'
    return _component("check", parameters, "tasks.check(locals())", returns, module="tasks")


def kind_of(artifact: str) -> str:
    """Kind of an artifact, as kfp names it."""
    return KINDS.get(artifact, "Artifact")


def artifacts_of(steps: Sequence[Step]) -> tuple[list[str], list[str]]:
    """Names of the artifacts that a group takes from other tasks, and of those that it makes."""
    outputs = [step.output for step in steps]
    inputs = [name for step in steps for name in step.inputs if name not in outputs]
    if any(step.outcomes for step in steps) and "decision" not in outputs:
        inputs.append("decision")
    return list(dict.fromkeys(inputs)), outputs


def parameters_of(steps: Sequence[Step]) -> dict[str, str]:
    """Parameters besides artifacts -> type."""
    found = {"dataset": "str", "model": "str", "workspace": "str", "code": "str"}
    if any(step.observes and step.parts for step in steps):
        found["listing"] = "str"
    if any(step.accelerator for step in steps):
        # Inside an exit handler or a condition kfp 2.17 drops parameters that only resources use.
        found |= {"accelerator": "str", "accelerator_count": "str"}
    if any(STORE in step.secrets for step in steps):
        found |= {"store": "str", "release": "bool"}
    if any(step.output == "decision" for step in steps):
        found["hold"] = "bool"
    if any(step.releases and ALL in step.settings for step in steps):
        found["asked_settings"] = "str"
    if any(ALL in step.settings for step in steps):
        return found | {"settings": "str"}
    return found | {f"{section}{pod.SUFFIX}": "dict" for section in sections_of(steps)}


def sections_of(steps: Sequence[Step]) -> list[str]:
    """Sections of settings that steps declare."""
    names = [name.partition(".")[0] for step in steps for name in (*step.settings, *step.reads)]
    return list(dict.fromkeys(names))


def code_of(steps: Sequence[Step]) -> str:
    """Digest of the code of all steps."""
    return "-".join(step.code_digest()[:12] for step in steps)


def _component(
    name: str, parameters: Mapping[str, str], call: str, returns: str = "", *, module: str = "pod"
) -> Any:
    """A component with these parameters (name -> type) whose body is one call.

    kfp reads the source of a function from its file, so the generated text goes into linecache.
    """
    source = "\n".join((
        f"def {name}(",
        *(f"    {key}: {kind}," for key, kind in parameters.items()),
        f"){f' -> {returns}' if returns else ''}:",
        f"    from pergola.pipelines.kubeflow import {module}",
        "",
        f"    {'return ' if returns else ''}{call}",
        "",
    ))  # fmt: skip
    file = f"<pergola component {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = dict(NAMES)
    exec(compile(source, file, "exec"), namespace)
    return dsl.component(namespace[name], base_image=IMAGE, install_kfp_package=False)
