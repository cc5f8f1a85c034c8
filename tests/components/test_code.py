"""Which code decides a step's result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pergola.components import code
from pergola.pipelines.definition import TRAINING

ROOT = Path(__file__).parents[2]
STEPS = TRAINING.steps
WITHOUT_RESULT = {  # they decide where a result is told, or how it is put together from parts, not what it is
    "pergola.components.release.registry.tracker",
    "pergola.components.data.partitions",
    "pergola.components.release.last_run",
    "pergola.components.data.gx_project.project",
}


def reached(step: str) -> set[str]:
    return code.reached(TRAINING.by_name[step].code)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_declared_roots_reach_all_that_a_step_imports(step):
    functions = (step.function, *((step.parts.part, step.parts.merge) if step.parts else ()))
    used = {module for function in functions for module in code.imported_by(function)}
    assert used - code.reached(step.code) <= WITHOUT_RESULT


def test_helpers_of_a_step_count_as_well():
    assert "pergola.components.release.provenance" in code.imported_by(TRAINING.by_name["register"].function)


def test_reached_follows_imports_inside_functions():
    assert "pergola.serving.wire.images" in reached("shards")
    assert "pergola.components.data.manifest.image_metadata" in reached("scan")


@pytest.mark.parametrize("step", ["scan", "split", "gate", "publish"])
def test_a_step_does_not_depend_on_training(step):
    assert not [module for module in reached(step) if module.startswith("pergola.components.training")]


def test_training_depends_neither_on_the_gate_nor_on_the_server():
    others = ("pergola.components.evaluation", "pergola.serving.server", "pergola.components.release")
    assert not [module for module in reached("train") if module.startswith(others)]


@pytest.mark.parametrize("step", ["smoke_test", "final_test"])
def test_steps_that_ask_a_server_depend_on_the_server(step):
    assert {"pergola.serving.server.app", "pergola.serving.server.core.predictor"} <= reached(step)


def test_libraries_are_those_of_the_step_and_no_others():
    assert {"tensorflow", "keras"} <= code.libraries(TRAINING.by_name["train"].code)
    gate = code.libraries(TRAINING.by_name["gate"].code)
    assert not gate & {"tensorflow", "keras", "mlflow", "great_expectations"} and "numpy" in gate
    assert "great_expectations" in code.libraries(TRAINING.by_name["validate"].code)


CHANGES = {
    "comment": ("components/training/fit.py", lambda text: text + "\n# changed\n", []),
    "docstring": (
        "components/training/fit.py",
        lambda text: text.replace('"""Training', '"""Teaching', 1),
        [],
    ),
    "statement": ("components/training/fit.py", lambda text: text + "\nCHANGED = 1\n", ["train"]),
    "server": ("serving/server/core/predictor.py", lambda text: text + "\nCHANGED = 1\n", ["smoke_test"]),
    "template": (
        "components/evaluation/report/report.html.j2",
        lambda text: text + "<!-- changed -->\n",
        ["report"],
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of our code, apart, with links as in a checkout."""
    root = tmp_path_factory.mktemp("copy")
    (root / "pergola").mkdir()
    for package in ("components", "serving", "pipelines", "k8s"):
        subprocess.run(["cp", "-r", str(ROOT / package), str(root / package)], check=True)
        (root / "pergola" / package).symlink_to(root / package)
    (root / "pergola" / "__init__.py").write_text("")
    return root


@pytest.fixture(scope="module")
def before(copy):
    return _keys(copy)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_keys_change_with_code_and_with_nothing_else(copy, before, change):
    name, edit, redone = CHANGES[change]
    file = copy / name
    text = file.read_text()
    try:
        assert edit(text) != text
        file.write_text(edit(text))
        after = _keys(copy)
    finally:
        file.write_text(text)
    assert [step for step in before if before[step] != after[step]] == redone


def _keys(folder: Path) -> dict[str, str]:
    program = (
        "from pergola.pipelines.definition import TRAINING\n"
        "for name in ('scan', 'train', 'smoke_test', 'gate', 'report'):\n"
        "    print(name, TRAINING.by_name[name].code_digest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    return dict(line.split() for line in done.stdout.splitlines())
