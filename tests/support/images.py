"""The built images, run as a cluster would: any user id, a read-only root, no capabilities."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ENGINE = os.environ.get("ENGINE") or ("podman" if shutil.which("podman") else "docker")
USER = 123456


def environment() -> dict[str, str]:
    """Of the engine; with its settings for restricted machines, where there are any."""
    settings = ROOT / ".tools" / "containers.conf"
    return {**os.environ, **({"CONTAINERS_CONF": str(settings)} if settings.exists() else {})}


def image(target: str) -> str:
    """The name of an image; skips the test when it was not built."""
    name = f"pergola:{VERSION}-{target}"
    if shutil.which(ENGINE) is None:
        pytest.skip("no container engine: install podman or docker")
    if subprocess.run([ENGINE, "image", "inspect", name], capture_output=True, env=environment()).returncode:
        pytest.skip(f"no image {name}: scripts/images {target} builds it")
    return name


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
