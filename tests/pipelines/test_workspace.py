from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest

from pergola.components.errors import InputError
from pergola.components.release.registry.registry import Registry
from pergola.components.workspace import SERVE_LOCK, Workspace


def test_workspace_refuses_a_folder_with_other_things(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty and no workspace"):
        Workspace(tmp_path).create()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_workspace_refuses_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        Workspace(tmp_path / "file").create()


def test_workspace_refuses_another_layout(tmp_path):
    Workspace(tmp_path).create()
    (tmp_path / "pergola.json").write_text(json.dumps({"layout": 99}))
    with pytest.raises(InputError, match="has layout 99"):
        Workspace(tmp_path).create()


def test_require_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="pergola run DATASET"):
        Workspace(tmp_path).require()


def test_require_takes_the_volume_of_a_pipeline(tmp_path):
    """Pods publish to <volume>/models: what looks at versions works there, too."""
    (tmp_path / "models").mkdir()
    Workspace(tmp_path).require()


def test_lock_is_held_by_one_and_freed_by_death(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.create()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=f"in use by run one .process {holder.pid}."),
            workspace.lock("two"),
        ):
            pass
        holder.kill()
    with workspace.lock("two"):
        assert "two" in (tmp_path / "lock").read_text()


HOLD = """
import sys, time
from pathlib import Path
from pergola.components.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock("run one"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_server_is_there_while_its_process_holds_the_lock(tmp_path):
    """Its number alone says nothing: another process may have it by now."""
    workspace = Workspace(tmp_path)
    workspace.create()
    record = {"pid": os.getpid(), "grpc": "localhost:1", "rest": "localhost:2"}
    (tmp_path / "serve.json").write_text(json.dumps(record))
    assert workspace.server() == {}
    with workspace.lock("pergola serve", SERVE_LOCK):
        assert workspace.server() == record
    assert workspace.server() == {}


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    Workspace(tmp_path).create()
    monkeypatch.setattr(fcntl, "flock", refuse)  # as on a network file system
    with (
        pytest.raises(InputError, match=r"file locks \(flock\).*local disk"),
        Workspace(tmp_path).lock("x"),
    ):
        pass
    with pytest.raises(InputError, match=r"without file locks"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


READ_ONLY = """
import sys
from pathlib import Path
from pergola.components.errors import InputError
from pergola.components.release.registry.registry import Registry
from pergola.components.workspace import Workspace
from pergola.pipelines.serve.session import Ports, serve
workspace = Workspace(Path(sys.argv[1]))
for act in (workspace.create, lambda: workspace.lock("x").__enter__(),
            lambda: Registry(workspace.tracking_uri), lambda: serve(workspace, Ports(0, 0), report=print)):
    try:
        act()
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv, to give up root's rights")
def test_a_read_only_workspace_is_one_sentence(tmp_path):
    root = tmp_path / "work"
    Workspace(root).create()
    (root / "scratch").rmdir()
    root.chmod(0o555)
    no_rights = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    command = [*(no_rights if os.getuid() == 0 else []), sys.executable, "-c", READ_ONLY, str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    root.chmod(0o755)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and all("cannot be written: choose another folder" in line for line in lines), (
        lines
    )


def test_a_damaged_serve_json_is_no_server(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.create()
    (tmp_path / "serve.json").write_text(json.dumps({"pid": os.getpid(), "frpc": "localhost:1", "rest": ""}))
    assert workspace.server() == {}
