"""Answers of model servers over HTTP: what to read of them, and what to show."""

from __future__ import annotations

import datetime
import email.utils
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from openenv_async.endpoints.redaction import redacted
from openenv_async.types import MAX_SECONDS

__all__ = [
    "MAX_SIZE",
    "PASSING",
    "UNKNOWN_FIELD",
    "asked_wait",
    "check_base_url",
    "shown",
    "whole_body",
]

PASSING: Final = frozenset((408, 409, 425, 429))
"""Statuses below 500 of what passes by itself."""
UNKNOWN_FIELD: Final = frozenset((400, 403, 422))
"""Statuses with which servers refuse a field that they do not know."""
MAX_SIZE: Final = 16 * 1024 * 1024
"""Bytes of an answer."""


def check_base_url(url: str, place: str) -> None:
    """Refuse a base URL that is none, or that holds a secret. Messages do not repeat it whole.

    Args:
        url: of an OpenAI-compatible API.
        place: of its key, such as "in the environment variable OPENAI_API_KEY".

    Raises:
        ValueError: it is refused.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{redacted(url)!r} is not a base URL: it begins with http:// or https://")
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        what = "a name or password" if "@" in parts.netloc else "a query"
        raise ValueError(
            f"the base URL of {parts.hostname} has {what}: give the URL alone, and the key {place}"
        )
    if redacted(url, {}) != url:
        raise ValueError(
            f"the base URL of {parts.hostname} has a key in its path: give the URL alone, and the"
            f" key {place}"
        )


async def whole_body(response: Any, max_size: int = MAX_SIZE) -> bytes:
    """Return a response's body.

    Raises:
        ValueError: it is too long.
    """
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > max_size:
            response.close()
            raise ValueError(f"it is more than {max_size} bytes long")
        parts.append(part)
    return b"".join(parts)


def shown(text: str, key: str) -> str:
    """Return one short line without the key: endpoints like to repeat it."""
    if key:
        text = text.replace(key, "***")
    return " ".join(text.split())[:300]


def asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that an endpoint asks to wait; 0 where it does not."""
    for name, unit in (("Retry-After-Ms", 1e-3), ("Retry-After", 1.0)):
        text = headers.get(name, "")
        try:
            seconds = float(text) * unit
        except ValueError:
            continue
        return seconds if 0 < seconds < MAX_SECONDS else 0.0
    try:
        until = email.utils.parsedate_to_datetime(headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    if until.tzinfo is None:  # "-0000" says UTC, too
        until = until.replace(tzinfo=datetime.UTC)
    return max(0.0, until.timestamp() - time.time())
