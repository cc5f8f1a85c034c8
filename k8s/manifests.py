"""The Kubernetes objects of an overlay, built with kustomize."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Object = Mapping[str, Any]

_TIMEOUT_S = 120
# Kinds that others depend on come first; kinds that are not listed come last.
_ORDER = (
    "Namespace", "CustomResourceDefinition", "ServiceAccount", "Role", "ClusterRole", "RoleBinding",
    "ClusterRoleBinding", "ConfigMap", "Secret", "PersistentVolumeClaim", "Service", "NetworkPolicy",
)  # fmt: skip


class ManifestError(ValueError):
    """An overlay that cannot be built."""


def build(folder: Path) -> list[Object]:
    """The objects of an overlay, in the order in which to apply them.

    Raises ManifestError when the folder holds no valid kustomization, or when neither kustomize nor kubectl
    is installed.
    """
    import yaml

    if not (folder / "kustomization.yaml").is_file():
        raise ManifestError(f"{folder} is not an overlay: it has no kustomization.yaml.")
    done = subprocess.run(
        [*_command(), str(folder)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ManifestError(f"kustomize cannot build {folder}: {done.stderr.strip()}")
    return ordered([thing for thing in yaml.safe_load_all(done.stdout) if thing])


def ordered(objects: list[Object]) -> list[Object]:
    """The same objects: namespaces, accounts and ConfigMaps before the pods that need them."""
    return sorted(objects, key=lambda o: _ORDER.index(o["kind"]) if o["kind"] in _ORDER else len(_ORDER))


def name_of(thing: Object) -> str:
    """Kind and name, as kubectl shows them: Deployment/model-server."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


def _command() -> list[str]:
    for name, verb in (("kustomize", "build"), ("kubectl", "kustomize")):
        found = shutil.which(name)
        if found:
            return [found, verb]
    raise ManifestError("Neither kustomize nor kubectl is on the PATH. Install one of them.")
