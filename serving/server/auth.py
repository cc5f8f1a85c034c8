"""The bearer token that a server asks its callers for, on both ports. Health checks need none."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from pergola.serving.server.config.errors import BadConfig
from pergola.serving.wire.contract import TOKEN_VARIABLE

NEEDED = "This server needs a token: send the header 'authorization: Bearer TOKEN'"
WRONG = "The token is not one that this server accepts"


class Tokens:
    """The tokens that are accepted; with none, everybody is let in."""

    def __init__(self, tokens: tuple[str, ...] = ()) -> None:
        self._expected = tuple(f"Bearer {token}".encode() for token in tokens)

    def refusal(self, header: str | bytes | None) -> str:
        """Why a call with this `authorization` header is refused; "" if it is not.

        Takes the same time whatever the header has in common with a token.
        """
        if not self._expected:
            return ""
        if not header:
            return NEEDED
        given = header.encode() if isinstance(header, str) else header
        scheme, _, token = given.partition(b" ")
        given = scheme.capitalize() + b" " + token.strip()
        matches = [hmac.compare_digest(given, expected) for expected in self._expected]
        return "" if any(matches) else WRONG


def read_tokens(path: Path | None) -> Tokens:
    """The tokens of a file, one a line, else of the environment's PERGOLA_SERVER_TOKEN.

    Several in the file let callers change from one to the next. Raises BadConfig.
    """
    if path is None:
        return Tokens(tuple(os.environ.get(TOKEN_VARIABLE, "").split()))
    try:
        tokens = tuple(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(message=f"Cannot read the token file {path}: {error}") from error
    if not tokens:
        raise BadConfig(message=f"The token file {path} is empty. Write one token a line into it")
    return Tokens(tokens)
