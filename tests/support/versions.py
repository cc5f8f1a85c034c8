"""Folders that look like published versions, for everything that moves them without loading them."""

from __future__ import annotations

from pathlib import Path


def saved_model(folder: Path, content: str = "one", num_bytes: int = 1000) -> Path:
    """A folder with a graph, variables and an asset; `content` makes it another model."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets.extra").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph " + content.encode())
    (folder / "variables" / "variables.index").write_bytes(b"index " + content.encode())
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(
        (content * num_bytes)[:num_bytes].encode()
    )
    (folder / "assets.extra" / "grüße und mehr.txt").write_text(content, encoding="utf-8")
    return folder


def labels(sync, model="leaves"):
    """Label -> version, as a sync has written it for the server."""
    return sync.status().models[model].labels
