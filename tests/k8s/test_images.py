"""The built images, run as a cluster would: any user id, a read-only root, no capabilities.

scripts/images builds them; a test whose image is not there is skipped, saying so.
"""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from pergola.components.store import release_record
from pergola.components.store.model_store import open_store
from tests.support.container_images import ENGINE, USER, VERSION, command, environment, image, remove, run
from tests.support.versions import saved_model

pytestmark = pytest.mark.containers

LIMITS_MB = {"cpu": 2600, "gpu": 7000, "sync": 250}


@pytest.mark.parametrize("target", LIMITS_MB)
def test_image_is_small_and_says_what_it_is(target):
    name = image(target)
    inspected = [ENGINE, "image", "inspect", name, "--format"]
    size = subprocess.run([*inspected, "{{.Size}}"], capture_output=True, text=True, env=environment()).stdout
    assert int(size) <= LIMITS_MB[target] * 1_000_000
    labels = '{{index .Config.Labels "org.opencontainers.image.version"}} {{.Config.User}}'
    text = subprocess.run([*inspected, labels], capture_output=True, text=True, env=environment()).stdout
    assert text.split() == [VERSION, "10001:10001"]


@pytest.mark.parametrize("target", LIMITS_MB)
def test_image_holds_no_compiler_and_no_cache(target):
    assert run(target, "sh", "-c", "command -v gcc cc g++ make uv; true") == ""
    assert (
        run(target, "sh", "-c", "find / -xdev -name '*.whl' -o -xdev -path '*/.cache/*' 2>/dev/null; true")
        == ""
    )


def canonical(text: str) -> str:
    """Names of packages as the package index compares them."""
    return re.sub(r"[-_.]+", "-", text).lower()


INSTALLED = (
    "from importlib import metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
)


@pytest.mark.parametrize("target", LIMITS_MB)
def test_image_lists_its_packages_and_holds_their_licences(target):
    """What is listed is what is installed; our own package is in neither list of third parties."""
    listed = json.loads(run(target, "cat", "/opt/pergola/share/packages.cdx.json"))["components"]
    names = {canonical(f"{part['name']}=={part['version']}") for part in listed}
    installed = {canonical(one) for one in run(target, "python3", "-c", INSTALLED).split()}
    assert names == {one for one in installed if not one.startswith("pergola-ml==")}
    notices = canonical(run(target, "cat", "/opt/pergola/share/THIRD-PARTY-NOTICES"))
    assert [p for p in listed if canonical(f"\n{p['name']} {p['version']}: ") not in notices] == []


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_every_step_can_be_imported(target):
    run(
        target,
        "python3",
        "-c",
        "import tensorflow, mlflow, kfp, pergola.components.steps, pergola.pipelines.kubeflow.ops; "
        "import pergola.serving.server.app",
    )
    assert "pergola" in run(target, "pergola", "--help")


@pytest.mark.parametrize("target", LIMITS_MB)
def test_image_imports_nothing_from_the_working_directory(target):
    planted = "cd /tmp && mkdir pergola && echo 'raise SystemExit(9)' > pergola/__init__.py"
    text = run(target, "sh", "-c", f"{planted} && python3 -c 'import pergola; print(pergola.__file__)'")
    assert text.startswith("/opt/pergola/")


def test_sync_image_holds_no_tensorflow():
    text = run(
        "sync",
        "python3",
        "-c",
        "import importlib.util as u; print(u.find_spec('tensorflow'), u.find_spec('numpy'))",
    )
    assert text.split() == ["None", "None"]


def test_sync_image_can_import_the_client_of_every_kind_of_store():
    run("sync", "python3", "-c", "import s3fs, gcsfs")


def test_sync_image_follows_a_store_until_sigterm(tmp_path):
    for folder in ("store", "served"):
        (tmp_path / folder).mkdir()
    store = open_store(tmp_path / "store")
    store.put(saved_model(tmp_path / "model"), "leaves", 1)
    store.change("leaves", lambda r: release_record.make_stable(r, 1))
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
        remove(name)
        process.wait(30)
