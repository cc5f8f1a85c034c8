"""`pergola.run`: the training pipeline from Python, as `pergola run` does it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola import extras

if TYPE_CHECKING:
    from pergola.components.workspace import Workspace
    from pergola.pipelines.local.progress import Display
    from pergola.pipelines.local.result import RunResult

DEFAULT_WORKSPACE = "pergola-work"


def run(
    dataset: str | Path,
    *,
    workspace: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    force: str | None = None,
    release: bool = True,
    quiet: bool = False,
) -> RunResult:
    """Images to a published model version, or to a rejected model and the reasons why.

        result = pergola.run("leaves/", settings={"train.epochs": 20})
        result.decision, result.version, result.metrics["accuracy"]

    dataset: a folder with a folder of images for each class, a CSV or Parquet list, IDX files, CIFAR batches,
    an .npz, or an archive.  workspace: folder of runs and models; by default PERGOLA_WORKSPACE or
    ./pergola-work.  config: a TOML file of settings.  settings: single ones, {"train.epochs": 20} or
    {"train": {"epochs": 20}}, which take precedence.  force: a step from which everything is redone.
    release: False: register a version and release nothing.  quiet: show no progress.

    What did not change since the last run is reused. Raises InputError for what the caller can fix, StepError
    when a step failed. A rejected model is a result, not an error.
    """
    overrides = _overrides(settings or {})
    with extras.explained("pergola.run"), unguarded_main():
        from pergola.components import settings as sections
        from pergola.pipelines.local import run as local

        library_defaults()
        place = open_workspace(workspace)
        command = ["pergola", "run", str(dataset), "--workspace", str(place.root)]
        command += ["--config", str(config)] if config is not None else []
        command += [] if release else ["--no-release"]
        command += [word for override in overrides for word in ("--set", override)]
        wanted = sections.load(Path(config) if config is not None else None, overrides)
        with _display(quiet) as show:
            return local.run(
                Path(dataset),
                wanted,
                place,
                show=show,
                force=force,
                command=shlex.join(command),
                release=release,
            )


def open_workspace(folder: str | Path | None) -> Workspace:
    """The workspace at `folder`, by default where the commands have theirs."""
    from pergola.components.workspace import Workspace

    return Workspace(Path(folder or os.environ.get("PERGOLA_WORKSPACE") or DEFAULT_WORKSPACE))


def library_defaults() -> None:
    """Quiet native logs and no telemetry of the libraries, unless the environment says otherwise."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")


@contextmanager
def unguarded_main() -> Iterator[None]:
    """Let worker processes start from a script without `if __name__ == "__main__":`.

    multiprocessing runs the caller's script again in each worker, to find functions that are defined there;
    ours are not, and a script that calls `pergola.run` on its top level would start itself for ever.
    """
    main: dict[str, Any] = sys.modules["__main__"].__dict__
    hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def _overrides(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """{"train.epochs": 3} or {"train": {"epochs": 3}} as the command line has it: "train.epochs=3"."""
    from pergola.components.records import toml_value

    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and "." not in name
        flat |= {f"{name}.{key}": each for key, each in value.items()} if nested else {name: value}
    return tuple(f"{name}={toml_value(value)}" for name, value in flat.items())


@contextmanager
def _display(quiet: bool) -> Iterator[Display]:
    """Progress on standard error, which in a notebook is the cell's output."""
    from pergola.pipelines.local.native import own_stderr
    from pergola.pipelines.local.progress import Display, SilentDisplay

    if quiet:
        yield SilentDisplay()
        return
    try:
        is_descriptor = sys.stderr.fileno() == 2  # which native libraries' messages are led away from
    except (OSError, ValueError, AttributeError):
        is_descriptor = False
    if not is_descriptor:
        yield Display(sys.stderr)
        return
    with own_stderr() as stream:
        yield Display(stream)
