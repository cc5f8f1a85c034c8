from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pergola.components.errors import InputError
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
