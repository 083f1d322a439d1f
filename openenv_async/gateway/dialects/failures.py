"""Errors as agents understand them: a status that is retried only where a retry can help.

Clients of all dialects retry 408, 409, 429 and from 500 on, and nothing else; those of OpenAI and
Anthropic obey the header ``x-should-retry`` before that. So an error that stays for good is a 400
(401 and 413 where they say more), whatever status its class has elsewhere.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

import msgspec

from openenv_async.errors import (
    CallerError,
    OpenEnvError,
    PayloadTooLarge,
    ResponderFailed,
    ResponderRateLimited,
    ServerBusy,
    SessionClosed,
    SessionNotFound,
    Unauthorized,
)

__all__ = ["Failure", "Kind", "failure_of", "openai_error", "openai_fields"]

Kind: TypeAlias = Literal[
    "refused", "missing", "unauthorized", "too_large", "context", "rate", "overloaded", "failed"
]
"""Decision of an agent: change the call, its path, its key, its size or the history; wait; try
again."""
_STATUS: Final[dict[Kind, int]] = {
    "refused": 400,
    "missing": 404,
    "unauthorized": 401,
    "too_large": 413,
    "context": 400,
    "rate": 429,
    "overloaded": 503,
    "failed": 500,
}
_OPENAI_TYPES: Final[dict[Kind, str]] = {
    "rate": "rate_limit_error",
    "overloaded": "server_error",
    "failed": "server_error",
}
_OVERFLOW: Final = re.compile(
    r"maximum context length|context (window|length|size)|exceeds? the (available )?context"
    r"|longer than the model|prompt is too long|input.{0,40}too long",
    re.IGNORECASE,
)
"""Words of vLLM, SGLang, llama.cpp and others for a prompt that does not fit the model."""
_encode: Final = msgspec.json.Encoder().encode


class Failure(msgspec.Struct, kw_only=True):
    """An error as an agent is told it.

    Attributes:
        kind: by the decision that the agent makes.
        status: of the HTTP answer.
        headers: that tell whether and when to try again.
        message: of the error.
    """

    kind: Kind
    status: int
    headers: dict[str, str]
    message: str


def failure_of(error: OpenEnvError) -> Failure:
    """Return what an agent is told of an error."""
    kind = _kind(error)
    may_retry = kind in ("rate", "overloaded") or (kind == "failed" and error.retryable)
    headers = {
        "content-type": "application/json",
        "x-should-retry": "true" if may_retry else "false",
    }
    after = error.detail.get("retry_after")
    if may_retry and isinstance(after, int | float | str):
        headers["retry-after"] = f"{after:g}" if isinstance(after, float) else str(after)
    status = _STATUS[kind]
    if kind == "failed" and not may_retry:
        status = 400
    return Failure(kind=kind, status=status, headers=headers, message=error.message)


def _kind(error: OpenEnvError) -> Kind:
    match error:
        case Unauthorized() | SessionClosed() | SessionNotFound():
            return "unauthorized"
        case PayloadTooLarge():
            return "too_large"
        case ResponderRateLimited():
            return "rate"
        case ServerBusy():
            return "rate" if "retry_after" in error.detail else "overloaded"
        case ResponderFailed():
            if error.detail.get("status") in (400, 413, 422):
                return "context" if _OVERFLOW.search(error.message) else "refused"
            return "failed"
        case CallerError():
            return "missing" if error.detail.get("status") == 404 else "refused"
        case _:
            return "overloaded" if error.http_status == 503 else "failed"


def openai_fields(error: OpenEnvError, kind: Kind) -> dict[str, Any]:
    """Return the error object of OpenAI's dialects."""
    field = error.detail.get("field")
    return {
        "message": error.message,
        "type": _OPENAI_TYPES.get(kind, "invalid_request_error"),
        "param": field if isinstance(field, str) else None,
        "code": "context_length_exceeded" if kind == "context" else error.code,
    }


def openai_error(error: OpenEnvError) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an error in OpenAI's dialects."""
    failure = failure_of(error)
    body = _encode({"error": openai_fields(error, failure.kind)})
    return failure.status, failure.headers, body
