"""Dialects of model providers: each reads requests into calls and writes answers.

A dialect does no I/O and keeps nothing between requests, so that one object serves all sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from openenv_async.gateway.calls import Dialect
from openenv_async.gateway.dialects.chat import ChatDialect
from openenv_async.gateway.dialects.messages import MessagesDialect
from openenv_async.gateway.dialects.responses import ResponsesDialect

__all__ = ["COUNT_ROUTES", "DIALECTS", "ROUTES", "count_page", "models_page"]

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect for dialect in (ChatDialect(), ResponsesDialect(), MessagesDialect())
}
"""The dialects by their names."""
ROUTES: Final[dict[str, Dialect]] = {
    "/v1/chat/completions": DIALECTS["chat"],
    "/v1/responses": DIALECTS["responses"],
    "/v1/messages": DIALECTS["messages"],
}
"""The dialect of each path that a call is posted to."""
COUNT_ROUTES: Final[dict[str, Dialect]] = {
    "/v1/responses/input_tokens": DIALECTS["responses"],
    "/v1/messages/count_tokens": DIALECTS["messages"],
}
"""The dialect of each path that a call is posted to for the number of its tokens."""


def count_page(dialect: str, tokens: int) -> bytes:
    """Return the body that tells the number of tokens of a call's prompt."""
    if dialect == "messages":
        return msgspec.json.encode({"input_tokens": tokens})
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": tokens})


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
