import ast
import inspect
from pathlib import Path

import pytest

from pergola.components import steps
from pergola.pipelines.kubeflow import ops, pod_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

COMPONENTS = {name: value for name, value in vars(ops).items() if type(value).__name__ == "PythonComponent"}
AT_A_DESK = {"ladder"}  # compares networks for a person; no run needs it
WALK = ("scan", "validate", "split", "shards", "augment", "train", "export", "evaluate", "smoke_test", "gate")


def bodies():
    tree = ast.parse(Path(inspect.getsourcefile(ops)).read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_ops_has_a_component_a_step():
    functions = [name for name, value in vars(steps).items() if inspect.isfunction(value)]
    ours = {name for name in functions if getattr(steps, name).__module__ == steps.__name__}
    walk = {name for name in ours if not name.startswith("_")} - AT_A_DESK
    assert walk <= set(COMPONENTS)


def test_ops_are_thin_and_import_what_they_use():
    for name, node in bodies().items():
        statements = [
            s for s in node.body if not isinstance(s, ast.Expr) or not isinstance(s.value, ast.Constant)
        ]
        assert len(statements) <= 8, name
        froms = [s for s in statements if isinstance(s, ast.ImportFrom)]
        assert any((s.module or "").startswith("components") for s in froms), name


def test_ops_have_one_struct_of_their_own_and_their_code():
    for name in WALK:
        inputs = COMPONENTS[name].component_spec.inputs
        assert "code" in inputs, name
        assert name == "export" or inputs["settings"].type.startswith("Dict"), name


def test_ops_install_nothing_and_take_the_image_that_is_asked_for():
    for component in COMPONENTS.values():
        container = component.component_spec.implementation.container
        assert container.image == ops.IMAGE
        assert not any("pip install" in part for part in container.command + container.args)


def test_ops_show_figures_where_kubeflow_looks_for_them():
    outputs = {name: component.component_spec.outputs or {} for name, component in COMPONENTS.items()}
    kinds = {output.type for spec in outputs.values() for output in spec.values()}
    wanted = ("ClassificationMetrics", "Metrics", "HTML", "Markdown", "Model", "Dataset")
    assert all(any(kind.startswith(f"system.{name}@") for kind in kinds) for name in wanted)
    assert list(outputs["gate"]) == ["decision", "verdict", "Output"]


def test_champion_record_survives_a_round_trip(tmp_path):
    for version in (None, 3):
        pod_model.Champion(version).save(tmp_path)
        assert pod_model.Champion.load(tmp_path).version == version
