"""The folder that sync writes and a server beside it loads from.

<folder>/<model>/<version>/…  complete, verified versions
<folder>/models.config        for the server to poll
<folder>/sync.json            the state of models.config, for sync after a restart
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pergola.components import records
from pergola.components.errors import InputError, PergolaError
from pergola.components.store import checksums, models_config
from pergola.components.store.models_config import ConfigEntry

CONFIG = "models.config"
STATE = "sync.json"
_log = logging.getLogger(__name__)


class ServedFolder:
    """One folder. Call `restore` first: it removes versions that are incomplete, damaged or not trusted.

    public_key: of whom must have signed a version; None: anybody.
    """

    def __init__(self, root: Path, public_key: Path | None = None) -> None:
        self.root = root.resolve()
        self._public_key = public_key

    def check(self, path: Path) -> None:
        """Raises SignatureError for a version that is not signed as it must be."""
        if self._public_key is not None:
            checksums.verify_signature(path, self._public_key)

    def restore(self) -> dict[str, ConfigEntry]:
        """The entries of models.config whose versions are complete.

        Raises InputError for a folder that sync did not write.
        """
        try:
            state = json.loads((self.root / STATE).read_bytes())
        except FileNotFoundError:
            self._refuse_others()
            state = {}
        except ValueError:
            state = {}
        for leftover in self.root.glob("*/.incoming-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for path in self.root.glob("*/[0-9]*"):
            self._drop_unless_whole(path)
        return {name: self._restored(name, data) for name, data in state.items()}

    def path(self, model: str, version: int) -> Path:
        """The folder of a version, whether it exists or not."""
        return self.root / model / str(version)

    def has(self, model: str, version: int) -> bool:
        """Whether a version is here and complete."""
        return self.path(model, version).is_dir()

    def versions(self, model: str) -> list[int]:
        """The versions here, whether in use or not."""
        folder = self.root / model
        return [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []

    def remove(self, model: str, version: int) -> None:
        """Delete a version that is no longer served."""
        shutil.rmtree(self.path(model, version), ignore_errors=True)
        _log.info("model=%s version=%d removed", model, version)

    def write(self, configs: Mapping[str, ConfigEntry]) -> None:
        """Write both files atomically, and only if they change, since the server polls.

        The first models.config has at least one version: a server that starts waits for it.
        """
        data = {name: {"versions": c.versions, "labels": dict(c.labels)} for name, c in configs.items()}
        _write_if_changed(self.root / STATE, json.dumps(data, indent=1) + "\n")
        is_first = not (self.root / CONFIG).exists()
        if is_first and not any(config.versions for config in configs.values()):
            return
        if _write_if_changed(self.root / CONFIG, models_config.to_text(configs, self.root)):
            _log.info("config=%s", {name: dict(c.labels) for name, c in configs.items()})

    def _restored(self, model: str, data: Mapping[str, object]) -> ConfigEntry:
        config = records.from_dict(ConfigEntry, data, f"{self.root / STATE}: {model}")
        return ConfigEntry(
            tuple(v for v in config.versions if self.has(model, v)),
            {label: v for label, v in config.labels.items() if self.has(model, v)},
        )

    def _refuse_others(self) -> None:
        if self.root.is_dir() and any(p.is_dir() and p.name != "lost+found" for p in self.root.iterdir()):
            raise InputError(
                f"{self.root} holds folders that sync did not write. Give it a folder of its own."
            )

    def _drop_unless_whole(self, path: Path) -> None:
        try:
            checksums.verify(path)
            self.check(path)
        except (PergolaError, OSError) as error:
            _log.warning("version=%s dropped message=%s", path, error)
            shutil.rmtree(path, ignore_errors=True)


def _write_if_changed(path: Path, text: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == text:
            return False
    records.write_atomic(path, text)
    os.chmod(path, 0o644)
    return True
