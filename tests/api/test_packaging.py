"""The distributions: what is in them, and that an installed wheel works wherever it is used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import environments, images

ROOT = environments.ROOT
FOLDERS = ("components", "k8s", "pipelines", "serving")
RAISES = "raise RuntimeError('a folder of the current directory was imported')\n"
LENIENT = [
    f"--set=gate.{rule}"
    for rule in ("min_accuracy=0", "min_recall=0", "max_gap=1", "max_loss=1", "max_drop=1")
]


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a distribution; of a source distribution without its top folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in members}


def tracked() -> list[str]:
    """The files of the four folders and of pergola/ that are in the repository, without the links."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "pergola", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [name for name in names if name and not (ROOT / name).is_symlink() and (ROOT / name).exists()]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    return environments.build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory) -> Path:
    return environments.build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.mark.slow
def test_wheel_installs_one_package_with_all_files(wheel):
    found = contents(wheel)
    assert {name.partition("/")[0] for name in found} == {"pergola", "pergola_ml-0.2.0.dist-info"}
    assert "pergola/py.typed" in found
    wanted = {name if name.startswith("pergola/") else f"pergola/{name}" for name in tracked()}
    assert wanted <= set(found)


@pytest.mark.slow
def test_source_distribution_holds_each_file_once_and_its_wheel_is_the_same(wheel, sdist, tmp_path):
    found = contents(sdist)
    assert not {name for name in found for folder in FOLDERS if name.startswith(f"pergola/{folder}/")}
    assert set(tracked()) <= set(found)
    assert max(Counter(found).values(), default=1) and "README.md" in found
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = environments.build("wheel", source, tmp_path / "again")
    assert contents(again) == contents(wheel)


@pytest.mark.slow
def test_editable_installation_finds_the_checkout(tmp_path):
    folder = environments.environment(tmp_path / "venv")
    environments.install(folder, ROOT, "-e")
    environments.share_packages(folder)
    code = "import pergola, pergola.components.errors as e; print(pergola.__version__, e.__file__)"
    done = environments.run(folder, "python", "-c", code, cwd=tmp_path)
    assert done.stdout.split() == ["0.2.0", str(ROOT / "pergola" / "components" / "errors.py")], done.stderr


@pytest.mark.parametrize("name", FOLDERS)
def test_generic_name_raises_at_the_root_of_a_checkout(name):
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: Import 'pergola.{name}', not '{name}'" in done.stderr


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel, and with packages that have our folders' names."""
    folder = environments.environment(tmp_path_factory.mktemp("installed") / "venv")
    environments.install(folder, wheel)
    environments.share_packages(folder)
    for name in FOLDERS:
        theirs = environments.site_packages(folder) / name
        theirs.mkdir()
        (theirs / "__init__.py").write_text(f"OWNER = 'the other {name}'\n")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project whose own folders have our folders' names, and must never be imported."""
    folder = tmp_path_factory.mktemp("project")
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(RAISES)
    images.write_folder(folder / "leaves", classes=3, per_class=40, size=16)
    return folder


@pytest.mark.slow
def test_installed_package_leaves_other_names_alone(installed, project, tmp_path):
    names = ", ".join(FOLDERS)
    code = f"import pergola, {names}; print(pergola.__file__); print(*(m.OWNER for m in ({names})), sep='; ')"
    done = environments.run(installed, "python", "-c", code, cwd=tmp_path)
    where, owners = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert owners == "; ".join(f"the other {name}" for name in FOLDERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("pergola", "--help"),
        ("pergola", "--version"),
        ("pergola", "config"),
        ("pergola-model-server", "--version"),
        ("python", "-c", "import pergola; pergola.Client; print(pergola.Predictions, pergola.__version__)"),
    ],
)
def test_command_works_inside_a_project_with_folders_of_the_same_names(installed, project, command):
    done = environments.run(installed, *command, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "0.2.0" in done.stdout or "version" not in command[-1]
    assert "a folder of the current directory" not in done.stderr


@contextmanager
def serving(installed: Path, project: Path) -> Iterator[None]:
    """`pergola serve` in the project's folder, on free ports."""
    program = [installed / "bin" / "pergola", "serve", "--port=0", "--rest-port=0"]
    with subprocess.Popen(program, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        try:
            ends = time.monotonic() + 120
            while not (project / "pergola-work" / "serve.json").exists():
                assert process.poll() is None and time.monotonic() < ends, "the server did not start"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


@pytest.mark.slow
def test_run_serve_and_predict_work_inside_such_a_project(installed, project):
    """The smoke test starts a server, the checks may start processes: none imports from this folder."""
    run = ["run", "leaves", "--json", "--set=model.architecture=cnn_pool", "--set=train.epochs=8", *LENIENT]
    done = environments.run(installed, "pergola", *run, cwd=project, timeout_s=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["decision"], result["version"]) == ("accepted", 1), result["reasons"]
    image = next((project / "leaves").rglob("*.png"))
    code = f"import pergola; print(pergola.load('leaves').predict({str(image)!r})[0].version)"
    done = environments.run(installed, "python", "-c", code, cwd=project)
    assert done.stdout == "1\n", done.stderr
    with serving(installed, project):
        done = environments.run(installed, "pergola", "predict", str(image), "--json", cwd=project)
    assert json.loads(done.stdout)[0]["version"] == 1, done.stderr
    shutil.rmtree(project / "pergola-work")
