"""What scripts/docs adds to MkDocs: decisions in the navigation, nothing loaded from other hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

# What a browser fetches without being asked. Plain links (<a href>) are not among them.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?((?:https?:)?//[^"' >]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon))"""
    r"""[^>]*\bhref=["']?((?:https?:)?//[^"' >]+)"""
)


def on_config(config: Any) -> Any:
    """List every decision record, oldest first."""
    folder = Path(config.docs_dir, "decisions")
    records = [f"decisions/{path.name}" for path in sorted(folder.glob("*.md"))]
    config.nav = [{"Decisions": records} if "Decisions" in entry else entry for entry in config.nav]
    return config


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Raises PluginError for a page that would make a reader's browser ask another host."""
    found = _FETCHED.search(output)
    if found:
        address = found[1] or found[2]
        raise PluginError(f"{page.file.src_uri} loads {address}. Keep a copy below docs/ and link to that.")
    return output
