"""Objects of an overlay, built with kustomize."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Object = Mapping[str, Any]

_TIMEOUT_S = 120
# What others stand on comes first; a kind that is not named comes last.
_ORDER = (
    "Namespace", "CustomResourceDefinition", "ServiceAccount", "Role", "ClusterRole", "RoleBinding",
    "ClusterRoleBinding", "ConfigMap", "Secret", "PersistentVolumeClaim", "Service", "NetworkPolicy",
)  # fmt: skip


class ManifestError(ValueError):
    """A folder that cannot be built."""


def build(folder: Path) -> list[Object]:
    """The objects that kustomize makes of a folder, in the order in which they are to be applied.

    Raises ManifestError when the folder is no kustomization, is broken, or no kustomize is installed.
    """
    import yaml

    if not (folder / "kustomization.yaml").is_file():
        raise ManifestError(f"{folder} is no overlay: it has no kustomization.yaml.")
    done = subprocess.run(
        [*_command(), str(folder)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ManifestError(f"kustomize cannot build {folder}: {done.stderr.strip()}")
    return ordered([thing for thing in yaml.safe_load_all(done.stdout) if thing])


def ordered(objects: list[Object]) -> list[Object]:
    """Namespaces, accounts and settings before the pods that need them."""
    return sorted(objects, key=lambda o: _ORDER.index(o["kind"]) if o["kind"] in _ORDER else len(_ORDER))


def name_of(thing: Object) -> str:
    """Kind and name, as people say them: Deployment/model-server."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


def _command() -> list[str]:
    for name, verb in (("kustomize", "build"), ("kubectl", "kustomize")):
        found = shutil.which(name)
        if found:
            return [found, verb]
    raise ManifestError("Neither kustomize nor kubectl is on the PATH. Install one of them.")
