"""Child processes end with their parent and import nothing from the current folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pergola.serving.tools.process import ChildProcess, child_environment
from tests.support.servers import ROOT, until


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


PARENT = """
import sys, tempfile, time
from pathlib import Path
from pergola.serving.tools.process import ChildProcess
folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
child = ChildProcess(["sleep", "60"], folder=folder)
print(child.pid, child._watchdog.pid, folder, flush=True)
if sys.argv[2] == "wait": time.sleep(60)
"""


def start_parent(tmp_path: Path, how: str) -> tuple[subprocess.Popen, int, int, Path]:
    """A process that starts a child and then waits, or just exits."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path, how], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    pid, watchdog, folder = parent.stdout.readline().split()
    return parent, int(pid), int(watchdog), Path(folder)


@pytest.mark.parametrize("how", ["wait", "exit"])
def test_child_and_folder_go_when_the_parent_is_killed_or_forgets_them(tmp_path, how):
    parent, pid, watchdog, folder = start_parent(tmp_path, how)
    if how == "wait":
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
    parent.communicate()
    until(lambda: not is_running(pid) and not folder.exists() and not is_running(watchdog), 30)


def test_stop_kills_a_child_that_ignores_sigterm(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    script = "trap '' TERM; echo up; exec sleep 60"
    with open(tmp_path / "log", "wb") as log:
        child = ChildProcess(["bash", "-c", script], output=log, folder=folder)
    until(lambda: (tmp_path / "log").read_text() == "up\n")
    child.stop(0.1)
    assert child.poll() == -signal.SIGKILL
    assert not is_running(child._watchdog.pid) and not folder.exists()


def test_a_program_that_does_not_exist_leaves_nothing(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    with pytest.raises(FileNotFoundError):
        ChildProcess([str(tmp_path / "none")], folder=folder)
    assert not folder.exists()


def test_environment_names_folders_absolutely_and_never_the_current_one(monkeypatch):
    monkeypatch.chdir("/usr")
    outer = {"PYTHONPATH": f"lib{os.pathsep}{os.pathsep}/opt", "A": "1"}
    found = child_environment({"B": "2"}, outer)
    assert (found["A"], found["B"], found["PYTHONSAFEPATH"]) == ("1", "2", "1")
    assert found["PYTHONPATH"].split(os.pathsep)[-2:] == ["/usr/lib", "/opt"]


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder whose packages have the names of pergola's, and end whoever imports them."""
    for name in ("pergola", "serving", "components", "pipelines", "k8s"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported from the current folder')")
    return tmp_path


def run_in(folder: Path, code: str) -> subprocess.CompletedProcess:
    script = folder / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(code)
    return subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)


QUICK = """
from pergola.serving.tools.load_test import Load, measure
from pergola.serving.tools.process import ChildProcess, python_command
from pergola.serving.wire.protos import predict_pb2
with ChildProcess(python_command("pergola.serving.server.app", "--version")) as child:
    assert child.wait() == 0
assert measure(Load("127.0.0.1:1", predict_pb2.PredictRequest(), 1, 0.1, warmup_s=0)).num_failures
"""


def test_server_and_load_test_import_nothing_from_the_current_folder(hostile):
    done = run_in(hostile, QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pergola-model-server" in done.stdout


SLOW = """
import sys
from pathlib import Path
from pergola.components.release.server_process import ServerProcess
from pergola.serving.client import Client
from pergola.serving.tools.child_server import ChildServer
with ChildServer(Path(sys.argv[0]).parents[1] / "half", "half") as server:
    with Client(server.address, model="half") as client:
        assert client.predict({"x": [2.0]})["y"].tolist() == [3.0]
with ServerProcess() as server:
    server.client("none").close()
"""


@pytest.mark.slow
def test_child_server_and_smoke_test_server_work_in_any_current_folder(hostile, half):
    (hostile / "half").symlink_to(half)
    done = run_in(hostile, SLOW)
    assert done.returncode == 0, done.stdout + done.stderr
