"""What a step may use besides its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pergola.components.progress import Progress, silent
from pergola.components.settings import Settings
from pergola.components.workspace import Workspace

if TYPE_CHECKING:
    from pergola.components.release.smoke_test import SmokeTestServer
    from pergola.serving.client import Client

ALL = "*"  # every section of the settings


@dataclass(frozen=True)
class RunInfo:
    """Which run a step belongs to. Goes into records of what was done, never into a cached artifact."""

    id: str = ""
    command: str = ""  # as a person typed it
    reason: str = ""  # why there is a run, when nobody typed one
    folder: Path | None = None  # for what differs from run to run, such as latencies


@dataclass(frozen=True)
class Context:
    """The data set, the settings, the workspace, and whoever follows the work."""

    dataset: Path
    model: str  # name under which it is released
    settings: Settings
    workspace: Workspace
    run: RunInfo = field(default_factory=RunInfo)
    progress: Progress = silent
    say: Callable[[str], None] = lambda text: None
    track_epochs: bool = False  # log each epoch to the registry while training
    reproduces: Path | None = None  # provenance of the version that this run reproduces
    server: SmokeTestServer | None = None  # shared by the steps of one process
    hold: bool = False  # a model that the gate accepts is held: registered and not released
    store: str | None = None  # model store to deliver to; None: this engine delivers nothing
    make_stable: bool = False  # a delivered version takes all requests
    asked_settings: str = ""  # as TOML, where a search changed `settings` since

    def limited_to(self, names: Iterable[str]) -> Context:
        """The context with only these settings: "section", "section.key" or "*".

        Reading another one raises LookupError: a step's cache key holds the settings that it declares.
        """
        wanted = frozenset(names)
        if ALL in wanted:
            return self
        return dataclasses.replace(self, settings=cast(Settings, _Declared(self.settings, wanted)))

    @contextmanager
    def smoke_test_server(self) -> Iterator[SmokeTestServer]:
        """A model server of our own: the shared one, or one for this block."""
        if self.server is not None:
            yield self.server
            return
        from pergola.components.release.smoke_test import SmokeTestServer

        with SmokeTestServer(self.settings.smoke_test) as server:
            yield server

    @contextmanager
    def client_of(self, model: str, version: int) -> Iterator[Client]:
        """A client of a server of our own, which serves this version of the published folder."""
        with (
            self.smoke_test_server() as server,
            server.serve(self.workspace.models, model, version) as client,
        ):
            yield client


class _Declared:
    """Settings, or one section of them, of which only some names can be read."""

    def __init__(self, settings: Any, names: frozenset[str]) -> None:
        self._settings, self._names = settings, names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            return getattr(self._settings, name)
        keys = frozenset(rest for head, _, rest in (n.partition(".") for n in self._names) if head == name)
        if not keys:
            raise LookupError(
                f"This step does not declare the setting '{name}', see pipelines/definition.py."
            )
        return _Declared(getattr(self._settings, name), keys)
