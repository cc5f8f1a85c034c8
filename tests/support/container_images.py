"""The built images, run as a cluster would: any user id, a read-only root, no capabilities."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support import required

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ENGINE = os.environ.get("ENGINE") or ("podman" if shutil.which("podman") else "docker")
USER = 123456
NEVER_REQUIRED = ("gpu",)  # 7 GB, and 45 GB of disk while it is built


def environment() -> dict[str, str]:
    """Of the engine; with its settings for restricted machines, where there are any."""
    settings = ROOT / ".tools" / "containers.conf"
    return {**os.environ, **({"CONTAINERS_CONF": str(settings)} if settings.exists() else {})}


def image(target: str) -> str:
    """The name of an image; skips the test when it was not built."""
    name = f"pergola:{VERSION}-{target}"
    if shutil.which(ENGINE) is None:
        missing("no container engine: install podman or docker")
    if subprocess.run([ENGINE, "image", "inspect", name], capture_output=True, env=environment()).returncode:
        reason = f"no image {name}: scripts/images {target} builds it"
        if target in NEVER_REQUIRED:
            pytest.skip(reason)
        missing(reason)
    return name


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where containers are required."""
    required.missing(required.CONTAINERS, reason)


def run_and_read(client: Any, image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
    """A container's exit status, its log on stdout: what kfp's DockerRunner does, with podman.

    kfp has the engine remove the container at its end, and asks for its status afterwards. Docker keeps it
    until it was asked; podman does not, and every status would be 0. What this machine sets for
    OpenBLAS holds in the container, too: kernels round differently, and results are compared by their bytes.
    """
    same = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
    options["environment"] = {**same, **options.get("environment", {})}
    container = client.containers.run(image=image, command=command, detach=True, volumes=volumes, **options)
    try:
        for line in container.logs(stream=True):
            sys.stdout.write(line.decode(errors="replace"))
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


@contextlib.contextmanager
def docker_api() -> Iterator[str]:
    """The address of an API as Docker has it: Docker's own, or one that podman offers for as long as this."""
    if ENGINE != "podman":
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix://{folder}/podman.sock"
        service = subprocess.Popen([ENGINE, "system", "service", "--time=0", address], env=environment())
        try:
            ends = time.monotonic() + 30
            while not Path(folder, "podman.sock").exists():
                assert service.poll() is None and time.monotonic() < ends, "podman offers no API"
                time.sleep(0.1)
            yield address
        finally:
            service.terminate()
            service.wait(30)


def command(
    target: str,
    *words: str,
    mounts: tuple[tuple[Path, str, str], ...] = (),
    name: str = "",
    variables: dict[str, str] | None = None,
) -> list[str]:
    """The command that runs words in an image."""
    volumes = [f"--volume={source}:{place}:{mode}" for source, place, mode in mounts]
    settings = [f"--env={key}={value}" for key, value in (variables or {}).items()]
    return [
        ENGINE, "run", "--rm", "--read-only", "--tmpfs=/tmp", f"--user={USER}:{USER}", "--network=host",
        "--cap-drop=all", "--security-opt=no-new-privileges", *([f"--name={name}"] if name else []),
        *volumes, *settings, image(target), *words,
    ]  # fmt: skip


def run(target: str, *words: str) -> str:
    """What words print in an image; fails when they do."""
    done = subprocess.run(
        command(target, *words), capture_output=True, text=True, timeout=300, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def remove(name: str) -> None:
    """End a container."""
    subprocess.run([ENGINE, "rm", "--force", name], capture_output=True, env=environment())
