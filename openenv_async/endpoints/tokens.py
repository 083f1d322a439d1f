"""Access tokens: what they may hold and where a program gets its own from.

A token travels as ``Authorization: Bearer TOKEN`` or, from browsers, as the WebSocket subprotocol
``openenv.bearer.TOKEN``. It is never part of a URL, a command line or a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = [
    "ADMIN_TOKEN_VARIABLE",
    "AGENT_TOKEN_VARIABLE",
    "TOKEN_VARIABLE",
    "TOKEN_VARIABLES",
    "check_token",
    "find_token",
    "read_token",
]

TOKEN_VARIABLE: Final = "OPENENV_TOKEN"
ADMIN_TOKEN_VARIABLE: Final = "OPENENV_ADMIN_TOKEN"
AGENT_TOKEN_VARIABLE: Final = "OPENENV_AGENT_TOKEN"
TOKEN_VARIABLES: Final = frozenset({TOKEN_VARIABLE, ADMIN_TOKEN_VARIABLE, AGENT_TOKEN_VARIABLE})
"""Variables that no process of an environment is given."""
_TOKEN: Final = re.compile(r"[!-+\--~]{1,4096}")
"""Visible ASCII without the comma, which separates subprotocols."""


def check_token(token: str) -> str:
    """The token itself.

    Raises:
        TypeError: it is not text.
        ValueError: it cannot be sent in a header; the message does not show it.
    """
    if not isinstance(token, str):
        raise TypeError(f"a token is text, got a value of type {type(token).__name__}")
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            "a token is 1 to 4096 visible ASCII characters without spaces and commas"
            " (leave it out for none)"
        )
    return token


def read_token(path: str | os.PathLike[str]) -> str:
    """The token in a file, without the white space around it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no token.
    """
    try:
        return check_token(Path(path).read_text("utf-8").strip())
    except ValueError as exc:  # a UnicodeDecodeError would show the content
        raise ValueError(f"{os.fspath(path)} holds no token: a token is one word") from (
            None if isinstance(exc, UnicodeDecodeError) else exc
        )


def find_token(
    path: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    variable: str = TOKEN_VARIABLE,
) -> str | None:
    """The token of ``path`` if one is given, else that of the variable, else ``None``.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no token where one should be.
    """
    if path is not None:
        return read_token(path)
    token = environ.get(variable)
    if token is None:
        return None
    try:
        return check_token(token.strip())
    except ValueError as exc:
        raise ValueError(f"{variable}: {exc}") from None
