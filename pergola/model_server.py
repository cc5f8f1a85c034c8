"""The console script `pergola-model-server`: the server, or one sentence when a package is missing."""

from __future__ import annotations

import sys

from pergola import extras
from pergola.components.errors import InputError


def main() -> int:
    """Gives the exit status: the server's, or 2 when a package that it needs is missing."""
    try:
        with extras.explained("pergola-model-server"):
            from pergola.serving.server.app import main as serve

            return serve()
    except InputError as error:
        sys.stderr.write(f"pergola-model-server: {error}\n")
        return 2
