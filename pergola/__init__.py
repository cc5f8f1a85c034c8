"""From a folder of images to a classifier that people can rely on.

    import pergola

    result = pergola.run("leaves/")                       # validate, train, evaluate, gate, publish
    print(pergola.load("leaves").predict(["new.jpg"]))    # the champion, in this process
    pergola.Client("localhost:8500", model="leaves")      # a running server; needs no TensorFlow

Every name is imported when it is first used: `import pergola` loads nothing but this file. See docs/api.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pergola.classifier import Classifier, load
    from pergola.components.artifacts.evaluation import Evaluation
    from pergola.components.errors import InputError, PergolaError, StepError
    from pergola.local_run import run
    from pergola.pipelines.local.result import RunResult
    from pergola.predictions import Predictions
    from pergola.serving.client import AsyncClient, Client
    from pergola.serving.client.errors import ClientError

    __version__: str

_MODULES = {
    "AsyncClient": "pergola.serving.client.async_client",
    "Classifier": "pergola.classifier",
    "Client": "pergola.serving.client.client",
    "ClientError": "pergola.serving.client.errors",
    "Evaluation": "pergola.components.artifacts.evaluation",
    "InputError": "pergola.components.errors",
    "PergolaError": "pergola.components.errors",
    "Predictions": "pergola.predictions",
    "RunResult": "pergola.pipelines.local.result",
    "StepError": "pergola.components.errors",
    "load": "pergola.classifier",
    "run": "pergola.local_run",
}

__all__ = [
    "AsyncClient",
    "Classifier",
    "Client",
    "ClientError",
    "Evaluation",
    "InputError",
    "PergolaError",
    "Predictions",
    "RunResult",
    "StepError",
    "__version__",
    "load",
    "run",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("pergola-ml")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'pergola' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
