"""Each usage error gives one clear sentence and status 2, no traceback, and leaves nothing half written."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from pergola.components.workspace import Workspace
from tests.support import images
from tests.support.command import COMMAND, pergola

NO_CONTENT_CHECKS = ("--set", "validate.max_inspected=0")  # these errors are found without the content checks


@pytest.fixture
def dataset(tmp_path) -> Path:
    return images.write_folder(tmp_path / "dataset", classes=3, per_class=8)


def refused(*arguments: object, workspace: Path, status: int = 2) -> str:
    """The error message of a run that is refused."""
    done = pergola("run", *arguments, *NO_CONTENT_CHECKS, "--workspace", workspace, "--json", timeout_s=120)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert f"pergola: {error}" in done.stderr
    assert not list(workspace.glob("models/*/*"))
    return str(error)


def test_missing_folder(tmp_path):
    assert "absent" in refused(tmp_path / "absent", workspace=tmp_path / "work")


def test_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path / "empty", workspace=tmp_path / "work")


def test_single_class(tmp_path):
    dataset = images.write_folder(tmp_path / "dataset", classes=1, per_class=8)
    assert "class" in refused(dataset, workspace=tmp_path / "work")


@pytest.mark.slow
def test_class_with_too_few_images(dataset, tmp_path):
    for path in sorted((dataset / "class_1").iterdir())[1:]:
        path.unlink()
    assert "class_1" in refused(dataset, workspace=tmp_path / "work")


@pytest.mark.slow
def test_all_images_corrupt(dataset, tmp_path):
    for path in dataset.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    assert "usable" in refused(dataset, workspace=tmp_path / "work")


@pytest.mark.slow
def test_label_list_that_names_missing_files(dataset, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\ndataset/class_0/000.png,a\ndataset/gone.png,b\n")
    assert "gone.png" in refused(tmp_path / "list.csv", workspace=tmp_path / "work")


def test_class_names_that_differ_by_case_only(dataset, tmp_path):
    shutil.copytree(dataset / "class_1", dataset / "CLASS_1")
    error = refused(dataset, workspace=tmp_path / "work")
    assert "CLASS_1" in error and "class_1" in error


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png"])
def test_archive_with_a_path_outside_of_it(dataset, tmp_path, name):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(dataset, "dataset")
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    assert "evil.png" in refused(tmp_path / "photos.tar", workspace=tmp_path / "work")
    assert not (tmp_path / "evil.png").exists() and not Path("/evil.png").exists()


def test_archive_with_a_link_outside_of_it(dataset, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(dataset, "dataset")
        member = tarfile.TarInfo("photos/class_0/link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    assert "link.png" in refused(tmp_path / "photos.tar", workspace=tmp_path / "work")


@pytest.mark.slow
def test_huge_and_bomb_images_are_excluded_with_their_reason(dataset, tmp_path):
    (dataset / "class_0" / "bomb.png").write_bytes(images.bomb())
    command = ("validate", dataset, "--workspace", tmp_path / "work", "--json", *NO_CONTENT_CHECKS)
    done = pergola(*command, "--set", "scan.max_side=20")
    findings = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["unreadable"]["count"] == 25
    done = pergola(*command)
    findings = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["unreadable"]["paths"] == ["class_0/bomb.png"]


def test_read_only_workspace(dataset):
    done = pergola("run", dataset, "--workspace", "/sys/pergola-work", "--json")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "/sys/pergola-work" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("size", ["64k", pytest.param("256k", marks=pytest.mark.slow)])
def test_full_workspace(dataset, tmp_path, size):
    """On a small file system in a mount namespace of its own: full while scanning, or while training."""
    work = tmp_path / "small"
    work.mkdir()
    inside = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} none {work} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    command = [*inside, *COMMAND, "run", str(dataset), "--json", "--workspace", str(work / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "full" in json.loads(done.stdout)["error"]


def test_workspace_in_use(dataset, tmp_path):
    workspace = Workspace(tmp_path / "work")
    workspace.create()
    with workspace.lock("another run"):
        error = refused(dataset, workspace=workspace.root)
    assert f"in use by another run (process {os.getpid()})" in error


def test_model_that_is_not_there(dataset, tmp_path):
    Workspace(tmp_path / "work").create()
    done = pergola("predict", next(dataset.rglob("*.png")), "--workspace", tmp_path / "work", "--json")
    assert done.returncode == 2
    assert "No model is published" in json.loads(done.stdout)["error"]
