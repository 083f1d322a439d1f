"""JSON-RPC 2.0 as upstream's dialect carries it: requests read, responses made.

Rules:

- A request is an object with ``jsonrpc`` "2.0" and a ``method``; ``id`` is a text, an integer or
  nothing, and a request without one is answered all the same, as upstream does.
- Every answer has ``jsonrpc`` and ``id``, and one of ``result`` and ``error``.
- ``params`` are moved as they are, never decoded further than their top-level keys.
"""

from __future__ import annotations

import enum
import sys
from typing import Any, Final

import msgspec

from openenv_async.errors import PayloadTooLarge, ProtocolError
from openenv_async.models.depth import check_json_containers, check_json_depth
from openenv_async.protocol.frames import MAX_INT
from openenv_async.types import MAX_DEPTH

__all__ = [
    "RpcCode",
    "RpcFailure",
    "RpcRequest",
    "checked",
    "decoded",
    "fields_of",
    "read_request",
    "rpc_error",
    "rpc_result",
    "rpc_text",
    "scalar",
]

_ENVELOPE: Final = 4
"""Containers that a request has around what it carries."""
_encode: Final = msgspec.json.Encoder().encode
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value: Final = msgspec.json.Decoder().decode


class RpcCode(enum.IntEnum):
    """The codes of errors that upstream's dialect has."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    SERVER_ERROR = -32000


class RpcFailure(Exception):
    """Raised where a request is answered with an error.

    Attributes:
        code: of the error.
        message: for people.
        data: what stands beside it.
        request_id: of the request, where it was read.
    """

    def __init__(
        self,
        code: int,
        message: str,
        data: Any = None,
        request_id: str | int | None = None,
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.code = code
        self.message = message
        self.data = data


class RpcRequest(msgspec.Struct):
    """One request; each of its ``params`` is still encoded."""

    id: str | int | None
    method: str
    params: dict[str, msgspec.Raw]

    def text(self, name: str) -> str | None:
        """A parameter that is a text; ``None`` where it is missing or something else."""
        raw = self.params.get(name)
        value = None if raw is None or bytes(raw)[:1] != b'"' else decoded(raw)
        return value if isinstance(value, str) else None


def checked(message: bytes | str | None, max_containers: int = sys.maxsize) -> bytes:
    """Return a message whose depth and size may be read.

    Args:
        message: the body of a request, or a text message of a socket; ``None``: a binary one.
        max_containers: arrays and objects that it may have.

    Raises:
        RpcFailure: it may not.
    """
    if message is None:
        raise _invalid("a message must be text")
    try:
        data = message.encode() if isinstance(message, str) else message
        check_json_depth(data, MAX_DEPTH + _ENVELOPE)
        check_json_containers(data, max_containers)
    except PayloadTooLarge as exc:
        raise _invalid(exc.message) from None
    except (ProtocolError, UnicodeError) as exc:
        raise RpcFailure(RpcCode.PARSE_ERROR, f"Parse error: {exc}") from None
    return data


def read_request(data: bytes | msgspec.Raw) -> RpcRequest:
    """Read a request, whose depth and size were checked already.

    Raises:
        RpcFailure: it is not one; it has no id to answer to.
    """
    try:
        fields = _fields(data)
    except msgspec.ValidationError:
        raise RpcFailure(RpcCode.PARSE_ERROR, "Parse error: not an object") from None
    except (msgspec.MsgspecError, ValueError) as exc:
        raise RpcFailure(RpcCode.PARSE_ERROR, f"Parse error: {exc}") from None
    version, method, number = (
        scalar(fields.get(name), otherwise=[]) for name in ("jsonrpc", "method", "id")
    )
    if version != "2.0":
        raise _invalid("jsonrpc must be '2.0'")
    if not isinstance(method, str):
        raise _invalid("method must be a text")
    if isinstance(number, bool) or not isinstance(number, str | int | None):
        raise _invalid("id must be a text or an integer")
    if isinstance(number, int) and abs(number) > MAX_INT:
        raise _invalid("id must be an integer of 64 bits")
    return RpcRequest(number, method, _params(fields.get("params"), number))


def decoded(raw: msgspec.Raw) -> Any:
    """Return the value of one parameter: reading the request has only found where it ends.

    Raises:
        RpcFailure: it has a number that is too large, or a text that is not UTF-8.
    """
    try:
        return _value(raw)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise RpcFailure(RpcCode.PARSE_ERROR, f"Parse error: {exc}") from None


def _params(raw: msgspec.Raw | None, number: str | int | None) -> dict[str, msgspec.Raw]:
    if raw is None:
        return {}
    found = fields_of(raw)
    if found is None:
        raise RpcFailure(RpcCode.INVALID_PARAMS, "Params must be an object", request_id=number)
    return found


def fields_of(raw: msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """Return the values of an object, each still encoded; ``None`` for anything else."""
    try:
        return _fields(raw)
    except (msgspec.MsgspecError, ValueError):
        return None


def scalar(raw: msgspec.Raw | None, otherwise: Any = None) -> Any:
    """Return a value that is not a container, of which decoding would recurse.

    Args:
        raw: the value; ``None`` where it is missing, which it stays.
        otherwise: stands for a container, and for what cannot be read.
    """
    if raw is None:
        return None
    try:
        return otherwise if bytes(raw)[:1] in (b"[", b"{") else _value(raw)
    except (msgspec.MsgspecError, ValueError):
        return otherwise


def _invalid(why: str) -> RpcFailure:
    return RpcFailure(RpcCode.INVALID_REQUEST, f"Invalid request: {why}")


def rpc_result(number: str | int | None, result: Any) -> dict[str, Any]:
    """The response of a request that succeeded."""
    return {"jsonrpc": "2.0", "id": number, "result": result}


def rpc_error(failure: RpcFailure) -> dict[str, Any]:
    """The response of a request that failed."""
    error = {"code": int(failure.code), "message": failure.message, "data": failure.data}
    return {"jsonrpc": "2.0", "id": failure.request_id, "error": error}


def rpc_text(reply: dict[str, Any]) -> str:
    """A response as a message of a socket."""
    return _encode(reply).decode()
