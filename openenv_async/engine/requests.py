"""Requests of a runner and its replies: the frames, their names, their payload codecs."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from openenv_async.engine.legal import Listed
from openenv_async.errors import OpenEnvError
from openenv_async.models import Format, PayloadCodec
from openenv_async.models.encoding import Place
from openenv_async.protocol.codec import decode_map, encode_map
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Frame,
    Observation,
    Open,
    Opened,
    Partial,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.renamed import renamed_attributes
from openenv_async.schemas.legal import LEGAL_ACTIONS
from openenv_async.spec import EnvironmentSpec

__all__ = [
    "OPERATIONS",
    "Codecs",
    "RunnerReply",
    "RunnerRequest",
    "Unfinished",
    "error_frame",
    "failed",
    "operation",
    "transcode",
]

RunnerRequest = Open | Reset | Step | State | Close
RunnerReply = Opened | Begun | Observation | StateIs | Closed | Failed
OPERATIONS: Final[dict[type, str]] = {
    Open: "open",
    Reset: "reset",
    Step: "step",
    State: "state",
    Close: "close",
}


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A result that must be awaited first, in place of a reply."""

    request: RunnerRequest
    awaitable: Awaitable[Any]

    def drop(self) -> None:
        """Let go of the awaitable unawaited."""
        close = getattr(self.awaitable, "close", None)
        if close is not None:
            close()


class Codecs:
    """The payload codecs of one environment in one format, bound for speed.

    Attributes:
        place: gives memory that large payloads are put into; ``None`` where there is none.
    """

    __slots__ = (
        "decode_action",
        "decode_any",
        "encode_any",
        "encode_info",
        "encode_observation",
        "encode_state",
        "format",
        "place",
    )

    def __init__(self, spec: EnvironmentSpec, format: Format) -> None:
        self.format: Format = format
        self.place: Place | None = None
        self.decode_action = spec.codec("action", format).decode
        self.encode_observation = spec.codec("observation", format).encode
        self.encode_state = spec.codec("state", format).encode
        self.decode_any = spec.codec("any", format).decode
        self.encode_any = spec.codec("any", format).encode
        self.encode_info: Callable[[Any], bytes] = self.encode_any
        if spec.contract.tells_legal:
            self.encode_info = _with_legal_actions(spec, format)


def _with_legal_actions(spec: EnvironmentSpec, format: Format) -> Callable[[Any], bytes]:
    """Return an encoder of infos that encodes legal actions as steps take them."""
    encode_any = spec.codec("any", format).encode
    decode_any = spec.codec("any", format).decode
    several = types.GenericAlias(list, (spec.types["action"],))
    encode_listed = PayloadCodec[Any](several, format).encode

    def encode(info: Any) -> bytes:
        listed = info.get(LEGAL_ACTIONS)
        if type(listed) is Listed and not isinstance(listed[0], dict):
            octets = encode_listed(listed)
            told = msgspec.Raw(octets) if format == "msgpack" else decode_any(octets)
            info = {**info, LEGAL_ACTIONS: told}
        return encode_any(info)

    return encode


def operation(request: RunnerRequest) -> str:
    """The word for a request: open, reset, step, state, render, close."""
    return "render" if type(request) is State and request.render else OPERATIONS[type(request)]


def failed(request: RunnerRequest, error: OpenEnvError, format: str) -> Failed:
    """The reply that carries ``error``."""
    return error_frame(
        request.channel, 0 if isinstance(request, Open) else request.seq, error, format
    )


def error_frame(channel: int, seq: int, error: OpenEnvError, format: str) -> Failed:
    """``error`` as it travels; ``seq`` is 0 where it answers no numbered request."""
    detail = encode_map(error.to_wire(), format)
    return Failed(channel, seq, error.code, error.message, error.retryable, detail)


def transcode(spec: EnvironmentSpec, frame: Any, source: Format, target: Format) -> Any:
    """The same frame with its payloads in ``target``; the frame itself when they are the same.

    Raises:
        InvalidModel, ProtocolError: a payload is not what it should be.
    """
    if source == target:
        return frame
    if isinstance(frame, Failed):
        detail = encode_map(decode_map(frame.payload, source), target)
        return msgspec.structs.replace(frame, payload=detail)
    kind = _KINDS.get(type(frame))
    if kind is None:
        return frame
    if (isinstance(frame, Partial) and not frame.whole) or getattr(frame, "rendered", False):
        kind = "any"
    changes: dict[str, Any] = {}
    if frame.payload is not None:
        value = spec.codec(cast(Any, kind), source).decode(frame.payload)
        changes["payload"] = spec.codec(cast(Any, kind), target).encode(value)
    info = getattr(frame, "info", None)
    if info is not None:
        changes["info"] = spec.codec("any", target).encode(spec.codec("any", source).decode(info))
    if isinstance(frame, Begun):  # only rows of column frames have it, which are of one format
        changes["final"] = None
    return msgspec.structs.replace(frame, **changes)


_KINDS: dict[type[Frame], str] = {
    Open: "any",
    Reset: "any",
    Step: "action",
    Begun: "observation",
    Observation: "observation",
    Partial: "observation",
    StateIs: "state",
}


__getattr__ = renamed_attributes(
    __name__, {"HostReply": "RunnerReply", "HostRequest": "RunnerRequest", "Wire": "Codecs"}
)
