"""The built images, run as a cluster would: any user id, a read-only root, no capabilities.

scripts/images builds them; a test whose image is not there is skipped, saying so.
"""

import os
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from components.release import traffic
from components.release.store import open_store
from tests.support.versions import saved_model

pytestmark = pytest.mark.containers

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ENGINE = os.environ.get("ENGINE") or ("podman" if shutil.which("podman") else "docker")
LIMITS_MB = {"cpu": 2600, "sync": 250}
USER = 123456


def image(target):
    name = f"pergola:{VERSION}-{target}"
    if shutil.which(ENGINE) is None:
        pytest.skip("no container engine: install podman or docker")
    if subprocess.run([ENGINE, "image", "inspect", name], capture_output=True, env=environment()).returncode:
        pytest.skip(f"no image {name}: scripts/images {target} builds it")
    return name


def environment():
    settings = ROOT / ".tools" / "containers.conf"
    return {**os.environ, **({"CONTAINERS_CONF": str(settings)} if settings.exists() else {})}


def command(target, *words, mounts=(), name=""):
    volumes = [f"--volume={source}:{place}:{mode}" for source, place, mode in mounts]
    return [
        ENGINE, "run", "--rm", "--read-only", "--tmpfs=/tmp", f"--user={USER}:{USER}", "--network=host",
        "--cap-drop=all", "--security-opt=no-new-privileges", *([f"--name={name}"] if name else []), *volumes,
        image(target), *words,
    ]  # fmt: skip


def run(target, *words):
    done = subprocess.run(
        command(target, *words), capture_output=True, text=True, timeout=300, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", ["cpu", "sync"])
def test_image_is_small_and_says_what_it_is(target):
    name = image(target)
    inspected = [ENGINE, "image", "inspect", name, "--format"]
    size = subprocess.run([*inspected, "{{.Size}}"], capture_output=True, text=True, env=environment()).stdout
    assert int(size) <= LIMITS_MB[target] * 1_000_000
    labels = '{{index .Config.Labels "org.opencontainers.image.version"}} {{.Config.User}}'
    text = subprocess.run([*inspected, labels], capture_output=True, text=True, env=environment()).stdout
    assert text.split() == [VERSION, "10001:10001"]


@pytest.mark.parametrize("target", ["cpu", "sync"])
def test_image_holds_no_compiler_and_no_cache(target):
    assert run(target, "sh", "-c", "command -v gcc cc g++ make uv; true") == ""
    assert (
        run(target, "sh", "-c", "find / -xdev -name '*.whl' -o -xdev -path '*/.cache/*' 2>/dev/null; true")
        == ""
    )


def test_every_step_can_be_imported_in_the_cpu_image():
    run(
        "cpu",
        "python3",
        "-c",
        "import tensorflow, mlflow, kfp, components.steps, components.ops, serving.server",
    )
    assert "pergola" in run("cpu", "pergola", "--help")


def test_sync_image_holds_no_tensorflow():
    text = run(
        "sync",
        "python3",
        "-c",
        "import importlib.util as u; print(u.find_spec('tensorflow'), u.find_spec('numpy'))",
    )
    assert text.split() == ["None", "None"]


def test_sync_image_follows_a_store_until_sigterm(tmp_path):
    for folder in ("store", "served"):
        (tmp_path / folder).mkdir()
    store = open_store(tmp_path / "store")
    store.put(saved_model(tmp_path / "model"), "leaves", 1)
    store.change("leaves", lambda r: traffic.make_stable(r, 1))
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    mounts = ((tmp_path / "store", "/store", "ro"), (tmp_path / "served", "/models", "rw"))
    words = ("pergola", "sync", "/store", "/models", "--interval", "0.2", "--port", "0")
    name = f"pergola-test-{os.getpid()}"
    process = subprocess.Popen(command("sync", *words, mounts=mounts, name=name), env=environment())
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "served" / "models.config").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        assert (tmp_path / "served" / "leaves" / "1" / "saved_model.pb").stat().st_uid == USER
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        subprocess.run([ENGINE, "rm", "--force", name], capture_output=True, env=environment())
        process.wait(30)
