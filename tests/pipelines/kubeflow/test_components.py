import pytest

from pergola.pipelines.definition import TRAINING
from pergola.pipelines.kubeflow import components, ops, visuals

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

STEPS = pytest.mark.parametrize("step", TRAINING.steps, ids=lambda step: step.name)


def spec_of(*steps):
    component = components.component_of(TRAINING, steps, steps[0].name)
    return component.component_spec


@STEPS
def test_a_step_becomes_a_component_with_its_artifacts_settings_and_code(step):
    spec = spec_of(step)
    inputs, outputs = spec.inputs, spec.outputs
    assert {"dataset", "model", "workspace", "code"} <= set(inputs) and set(step.inputs) <= set(inputs)
    pages = set(visuals.PAGES.get(step.name, ()))
    assert set(outputs) == {step.output} | pages | ({"Output"} if step.name == "gate" else set())
    structs = {name for name, field in inputs.items() if field.type.startswith("Dict")}
    assert structs == (
        set()
        if "*" in step.settings
        else {f"{name.partition('.')[0]}_settings" for name in (*step.settings, *step.reads)}
    )
    assert ("decision" in inputs) == (bool(step.outcomes) or "decision" in step.inputs)


@STEPS
def test_every_page_and_every_metadata_is_of_an_artifact_that_exists(step):
    """A step that is renamed must not lose what Kubeflow shows of it."""
    assert set(visuals.METADATA.get(step.name, ())) <= {step.output}
    assert set(visuals.PAGES) | set(visuals.METADATA) <= {step.name for step in TRAINING.steps}


def test_a_group_takes_what_it_does_not_make_itself_and_reports_its_steps():
    steps = [step for step in TRAINING.steps if step.group == "evaluate"]
    assert components.artifacts_of(steps) == (
        ["export", "manifest", "shards", "split", "champion", "validation", "augmentation", "training"],
        ["evaluation", "smoke_test", "champion_evaluation", "decision", "report", "reference"],
    )
    outputs = spec_of(*steps).outputs
    assert outputs["steps"].type.startswith("system.Markdown@") and outputs["Output"].type == "String"


def test_tasks_that_record_the_last_run_get_the_settings_from_before_a_search():
    """`register` records them for a rejected model, `deliver` for an accepted one."""
    for name in ("register", "deliver"):
        assert {"settings", "asked_settings"} <= set(components.parameters_of([TRAINING.by_name[name]]))
    assert {"store", "release"} <= set(components.parameters_of([TRAINING.by_name["deliver"]]))
    assert not {"store", "asked_settings"} & set(components.parameters_of([TRAINING.by_name["report"]]))


def test_components_install_nothing_and_take_the_image_that_is_asked_for():
    written = [value for value in vars(ops).values() if type(value).__name__ == "PythonComponent"]
    made = [components.component_of(TRAINING, [step], step.name) for step in TRAINING.steps]
    assert len(written) == 4
    for component in (*written, *made, components.check_of(["scan"])):
        container = component.component_spec.implementation.container
        assert container.image == components.IMAGE
        assert not any("pip install" in part for part in container.command + container.args)
