"""Optional dependencies: which extra of pergola-ml brings a missing package, in one sentence.

    missing("pandas", "pergola run")
    # `pergola run` needs pandas, which is not installed. Install it: pip install "pergola-ml[train]"

`explained` raises it as an InputError: where commands end, and in the public API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pergola.components.errors import InputError

DISTRIBUTION = "pergola-ml"
EXTRAS = ("serve", "sync", "train", "kubeflow", "sign")  # that people install, the smallest first
# Import names that are not the distribution's with "_" for "-", and packages that come with another.
PACKAGES = {
    "grpc_health": "grpcio-health-checking",
    "h5py": "keras",
    "OpenSSL": "pyopenssl",
    "kfp_server_api": "kfp",
    "sklearn": "scikit-learn",
    "sqlalchemy": "mlflow",
    "tensorflow_serving": "tensorflow-serving-api",
    "urllib3": "kubernetes",
    "yaml": "pyyaml",
}
TITLES = {"tensorflow": "TensorFlow", "keras": "Keras", "mlflow": "MLflow", "kfp": "Kubeflow Pipelines (kfp)"}
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?.*?\bextra == ['\"]([\w-]+)")


def missing(module: str | None, user: str) -> str | None:
    """The sentence for a module that could not be imported; None if no extra brings it.

    module: as in ModuleNotFoundError.name.  user: what needs it, such as "pergola run" or "pergola.load".
    """
    root = (module or "").partition(".")[0]
    package = PACKAGES.get(root, root.replace("_", "-"))
    for extra in (_needed_by(user), *EXTRAS):
        if package in _packages(extra):
            return (
                f"`{user}` needs {TITLES.get(package, package)}, which is not installed. "
                f'Install it: pip install "{DISTRIBUTION}[{extra}]"'
            )
    return None


@contextmanager
def explained(user: str) -> Iterator[None]:
    """Raises InputError with that sentence when an import fails that an extra would satisfy."""
    try:
        yield
    except ModuleNotFoundError as error:
        sentence = missing(error.name, user)
        if sentence is None:
            raise
        raise InputError(sentence) from None


def require(module: str) -> None:
    """Raises ModuleNotFoundError when a module is not installed, without importing it.

    For what happens in another process, whose traceback nobody would see.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)


def _needed_by(user: str) -> str:
    """The extra with which all of a command works, so that it does not stop at the next package."""
    match user.split()[:2]:
        case ["pergola", "serve" | "tune-batching"] | ["pergola-model-server" | "pergola.load"]:
            return "serve"
        case ["pergola", "sync" | "push"]:
            return "sync"
        case ["pergola", "compile" | "submit" | "runs" | "schedule" | "deploy" | "release" | "rollback"]:
            return "kubeflow"
    return "train"


def _packages(extra: str) -> set[str]:
    """Names of the packages of an extra, with those of the extras that it includes."""
    from importlib.metadata import requires

    found: set[str] = set()
    for requirement in requires(DISTRIBUTION) or ():
        parts = _REQUIREMENT.match(requirement)
        if parts and parts[3] == extra:
            included = parts[2].split(",") if parts[1] == DISTRIBUTION else []
            found |= set().union(*map(_packages, included)) if included else {parts[1].lower()}
    return found
