"""A .keras file that is the same for the same network: without time stamps and memory addresses."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any


def save(network: Any, path: Path) -> None:
    """Write the network atomically. Keras can load it in safe mode."""
    import keras

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.partial.keras")
    try:
        network.save(partial)
        with zipfile.ZipFile(partial) as source:
            contents = {name: source.read(name) for name in sorted(source.namelist())}
        contents["metadata.json"] = json.dumps({"keras_version": keras.__version__}).encode()
        contents["config.json"] = _numbered(contents["config.json"].decode()).encode()
        with zipfile.ZipFile(partial, "w") as target:
            for name, content in contents.items():
                target.writestr(zipfile.ZipInfo(name), content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _numbered(config: str) -> str:
    """Keras identifies shared objects by address: replace it by a number in order of appearance."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers) + 1))

    return re.sub(r'("shared_object_id": )(\d+)', number, config)
