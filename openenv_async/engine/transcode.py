"""Payloads from one format into another, for a session that changes its door or its process."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from openenv_async.models import Format
from openenv_async.protocol.codec import decode_map, encode_map
from openenv_async.protocol.frames import (
    Begun,
    Failed,
    Frame,
    Observation,
    Open,
    Partial,
    Reset,
    StateIs,
    Step,
)
from openenv_async.spec import EnvironmentSpec

__all__ = ["transcode"]


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
    if isinstance(frame, Partial) and not frame.whole:
        kind = "any"
    changes: dict[str, Any] = {}
    if frame.payload is not None:
        value = spec.codec(cast(Any, kind), source).decode(frame.payload)
        changes["payload"] = spec.codec(cast(Any, kind), target).encode(value)
    info = getattr(frame, "info", None)
    if info is not None:
        changes["info"] = spec.codec("any", target).encode(spec.codec("any", source).decode(info))
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
