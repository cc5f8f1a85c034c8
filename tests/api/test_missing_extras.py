"""After `pip install pergola-ml` without extras, each command says in one sentence what it needs."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from pergola import extras
from tests.support import environments, images

SENTENCE = (
    r"`{command}` needs [\w().\- ]+, which is not installed\. "
    r'Install it: pip install "pergola-ml\[{extra}\]"\n'
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An environment with the base dependencies and nothing else."""
    folder = environments.environment(tmp_path_factory.mktemp("base") / "venv")
    environments.link(folder, *environments.base_requirements("pergola-ml"))
    environments.install(folder, environments.ROOT, "-e")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with a data set, and a workspace with one model and a registry."""
    folder = tmp_path_factory.mktemp("project")
    images.write_folder(folder / "leaves", classes=2, per_class=3)
    model = folder / "pergola-work" / "models" / "leaves" / "1"
    model.mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"")
    (folder / "pergola-work" / "pergola.json").write_text(json.dumps({"layout": 1}))
    (folder / "pergola-work" / "mlflow.db").write_text("")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("run leaves", "train"),
        ("validate leaves", "train"),
        ("versions", "train"),
        ("drift", "train"),
        ("retrain leaves", "train"),
        ("compare-architectures leaves", "train"),
        ("tune leaves", "train"),
        ("expectations infer leaves", "train"),
        ("serve --port 0 --rest-port 0", "serve"),
        ("tune-batching leaves/class_0/000.png", "serve"),
        ("compile", "kubeflow"),
        ("submit leaves --model leaves", "kubeflow"),
        ("runs --host http://localhost:1", "kubeflow"),
        ("schedule list --host http://localhost:1", "kubeflow"),
        ("deploy dev", "kubeflow"),
    ],
)
def test_command_names_itself_and_the_extra(base, project, command, extra):
    done = environments.run(base, "pergola", *command.split(), cwd=project)
    words = command.split()[: 2 if command.startswith("schedule") else 1]
    wanted = SENTENCE.format(command=" ".join(["pergola", *words]), extra=extra)
    assert done.returncode == 2, done.stderr
    assert re.search(f"^pergola: {wanted}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["push 1 --store s3://models/x", "sync gs://models/x out --once"])
def test_object_store_names_its_extra(base, project, command):
    done = environments.run(base, "pergola", *command.split(), cwd=project)
    assert done.returncode == 2, done.stderr
    assert 'pip install "pergola-ml[sync]"' in done.stderr and "Traceback" not in done.stderr


def test_json_document_carries_the_sentence(base, project):
    done = environments.run(base, "pergola", "run", "leaves", "--json", cwd=project)
    answer = json.loads(done.stdout)
    assert done.returncode == answer["status"] == 2
    assert "`pergola run` needs " in answer["error"]


@pytest.mark.parametrize("flag", ["--version", "--model_base_path=/models/leaves"])
def test_model_server_names_the_extra(base, project, flag):
    done = environments.run(base, "pergola-model-server", flag, cwd=project)
    wanted = SENTENCE.format(command="pergola-model-server", extra="serve")
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(f"pergola-model-server: {wanted}", done.stderr), done.stderr


@pytest.mark.parametrize(
    "call", ["run('leaves')", "load('leaves', 1)", "load('pergola-work/models/leaves/1')"]
)
def test_python_call_names_the_extra(base, project, call):
    code = f"import pergola\ntry: pergola.{call}\nexcept pergola.InputError as error: print(error)"
    done = environments.run(base, "python", "-c", code, cwd=project)
    extra = "train" if call.startswith("run") else "serve"
    wanted = SENTENCE.format(command=f"pergola.{call.partition('(')[0]}", extra=extra)
    assert re.fullmatch(wanted, done.stdout), done.stdout + done.stderr


def test_base_installation_predicts_and_shows_help(base, project):
    for command in (["--help"], ["config"], ["predict", "--help"]):
        assert environments.run(base, "pergola", *command, cwd=project).returncode == 0
    code = "import pergola; pergola.Client('localhost:1', model='leaves').close()"
    done = environments.run(base, "python", "-c", code, cwd=project)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bug_of_ours_is_not_reported_as_a_missing_extra():
    assert extras.missing("pergola.components.nowhere", "pergola run") is None
    assert extras.missing(None, "pergola run") is None


def imported_packages() -> set[str]:
    """Top-level names that the product imports, without the standard library and its own."""
    found = set()
    for folder in ("pergola", "components", "k8s", "pipelines", "serving"):
        for file in (environments.ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add((node.module or "").partition(".")[0])
    return found - {"pergola", *sys.stdlib_module_names}


def test_every_import_of_the_product_is_in_the_base_or_in_an_extra():
    """A package whose import name is not its distribution's must be in PACKAGES."""
    base = {"click", "google", "grpc", "numpy", "PIL"}
    packages = imported_packages() - base
    assert len(packages) > 15
    assert {name for name in packages if extras.missing(name, "pergola run") is None} == set()
