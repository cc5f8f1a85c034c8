"""Virtual environments without an installation: links to the packages that are here already.

folder = environment(tmp_path / "venv")                        # nothing of ours
link(folder, "click", "numpy")                                 # these, and what they depend on
install(folder, wheel)                                         # ours, as pip would
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def uv() -> str:
    """The uv that scripts/setup uses."""
    return shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


def build(kind: str, source: Path, out: Path) -> Path:
    """A distribution of `source`; kind: "wheel" or "sdist". The build backend comes from uv's cache."""
    command = [uv(), "build", "--quiet", f"--{kind}", "--out-dir", str(out), str(source)]
    done = subprocess.run([*command, "--offline"], capture_output=True, text=True)
    if done.returncode:  # not in the cache
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = [file for file in out.iterdir() if file.suffix in (".whl", ".gz")]
    return built


def environment(folder: Path) -> Path:
    """A new virtual environment with nothing in it."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder


def site_packages(folder: Path) -> Path:
    """Where an environment's packages lie."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "lib" / version / "site-packages"


def install(folder: Path, wheel: Path, *flags: str) -> None:
    """Install a wheel (or, with "-e", a source tree) alone, without what it depends on."""
    command = [uv(), "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(folder)]
    done = subprocess.run([*command, *flags, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def link(folder: Path, *names: str) -> None:
    """Link these distributions, and all that they depend on without extras."""
    waiting, seen = list(names), set[str]()
    while waiting:
        distribution = metadata.distribution(waiting.pop())
        if distribution.name in seen:
            continue
        seen.add(distribution.name)
        for top in {str(file).split("/")[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            place = site_packages(folder) / top
            if not place.exists():
                place.symlink_to(Path(str(distribution.locate_file(top))))
        waiting += [r.name for r in map(Requirement, distribution.requires or ()) if _applies(r)]


def base_requirements(name: str) -> list[str]:
    """What a distribution needs without extras."""
    return [r.name for r in map(Requirement, metadata.requires(name) or ()) if _applies(r)]


def share_packages(folder: Path) -> None:
    """Make all packages of this environment importable, behind the environment's own."""
    own = Path(metadata.distribution("numpy").locate_file(""))  # type: ignore[arg-type]
    (site_packages(folder) / "shared.pth").write_text(f"{own}\n")


def run(folder: Path, *command: str, cwd: Path, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """A program of the environment (python, pergola, …), as a shell in `cwd` would start it."""
    kept = {k: v for k, v in os.environ.items() if not re.match(r"PYTHON|VIRTUAL_ENV|PERGOLA_", k)}
    program = str(folder / "bin" / command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=cwd, env=kept, capture_output=True, text=True, timeout=timeout_s
    )


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
