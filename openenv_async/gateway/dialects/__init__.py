"""Dialects of model providers: each reads requests into calls and writes answers.

A dialect does no I/O and keeps nothing between requests, so that one object serves all sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from openenv_async.gateway.calls import Dialect
from openenv_async.gateway.dialects.chat import ChatDialect

__all__ = ["DIALECTS", "ROUTES", "models_page"]

DIALECTS: Final[dict[str, Dialect]] = {dialect.name: dialect for dialect in (ChatDialect(),)}
"""The dialects by their names."""
ROUTES: Final[dict[str, Dialect]] = {
    "/v1/chat/completions": DIALECTS["chat"],
}
"""The dialect of each path that a call is posted to."""


def models_page(dialect: str, names: Sequence[str]) -> bytes:
    """Return the body of ``GET /v1/models``.

    Args:
        dialect: ``messages`` for Anthropic's form, any other for OpenAI's.
        names: of the models.
    """
    if dialect == "messages":
        models = [
            {
                "type": "model",
                "id": name,
                "display_name": name,
                "created_at": "1970-01-01T00:00:00Z",
            }
            for name in names
        ]
        return msgspec.json.encode(
            {
                "data": models,
                "has_more": False,
                "first_id": names[0] if names else None,
                "last_id": names[-1] if names else None,
            }
        )
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": "openenv"} for name in names
    ]
    return msgspec.json.encode({"object": "list", "data": listed})
