"""Telling a request that is sent again from another one under the same number.

Rules:

- A number belongs to the kind of its request, its payload, and a reset's seed and episode id.
  Deadline, credit and acknowledgement may differ: they are of the sending, not of the request.
- The request itself is remembered beside its reply; of a large one a digest of its payload.
- A client may send again in another format, over another transport: then the payloads say the
  same when one of them, read and written in the other's format, is the other.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from openenv_async.engine.requests import transcode
from openenv_async.errors import OpenEnvError, ProtocolError
from openenv_async.models import Format
from openenv_async.protocol.frames import Close, Request, Reset, State, Step
from openenv_async.spec import EnvironmentSpec

__all__ = ["LARGE", "Digest", "another_request", "is_same_request", "remembered"]

LARGE: Final = 4 * 1024
"""Bytes of payload above which only a digest is remembered."""


class Digest(msgspec.Struct):
    """A request without its payload, which was large."""

    request: Request
    payload: int


_BARE: Final[dict[type, Request]] = {
    Reset: Reset(0, 0, 0),
    State: State(0, 0),
    Close: Close(0, 0),
}
"""Requests that nothing but their kind tells apart, one for all sessions that made such a one."""


_RENDER: Final = State(0, 0, render=True)


def remembered(request: Request) -> Request | Digest:
    """Return what of a request is kept beside its reply."""
    if isinstance(request, Step | Reset):
        payload = request.payload
        if payload is not None and len(payload) > LARGE:
            return Digest(msgspec.structs.replace(request, payload=b""), hash(bytes(payload)))
        if payload is not None or isinstance(request, Step):
            return request
        if request.seed is not None or request.episode_id is not None:
            return request
    if isinstance(request, State) and request.render:
        return _RENDER
    return _BARE[type(request)]


def is_same_request(
    spec: EnvironmentSpec,
    first: Request | Digest,
    first_format: Format,
    again: Request,
    again_format: Format,
) -> bool:
    """Return whether ``again`` is ``first`` sent again.

    Args:
        spec: whose payloads they are.
        first: the request that took the number.
        first_format: of its payload.
        again: the one that came under the same number.
        again_format: of its payload.
    """
    digest = first.payload if isinstance(first, Digest) else None
    request = first.request if isinstance(first, Digest) else first
    if type(request) is not type(again):
        return False
    if isinstance(request, State) and isinstance(again, State):
        return request.render == again.render
    if not isinstance(request, Step | Reset) or not isinstance(again, Step | Reset):
        return True
    if isinstance(request, Reset) and isinstance(again, Reset):
        if (request.seed, request.episode_id) != (again.seed, again.episode_id):
            return False
        if again.payload is None:
            return digest is None and _is_empty(request.payload, first_format)
    payload = again.payload or b""
    if digest is not None:
        same = [payload] if first_format == again_format else []
        same += _rewritten(spec, again, again_format, first_format)
        return any(hash(bytes(each)) == digest for each in same)
    if first_format == again_format and payload == request.payload:
        return True
    if request.payload is None:
        return _is_empty(payload, again_format)
    forms = _rewritten(spec, request, first_format, "msgpack")
    return any(each in forms for each in _rewritten(spec, again, again_format, "msgpack"))


def another_request(seq: int) -> ProtocolError:
    """The error of a request under the number of another one."""
    return ProtocolError(
        f"request {seq} was another one: its number came with other content (a number is used once;"
        " a process that was forked must open a session of its own)"
    )


def _is_empty(payload: bytes | memoryview | None, format: Format) -> bool:
    """Return whether a map of options has none."""
    return payload is None or bytes(payload) == (b"\x80" if format == "msgpack" else b"{}")


def _rewritten(spec: EnvironmentSpec, request: Any, source: Format, target: Format) -> list[bytes]:
    """The payload in ``target``: as it is declared, and as plain values."""
    forms: list[bytes] = []
    try:
        value = spec.codec("any", source).decode(request.payload)
        forms.append(spec.codec("any", target).encode(value))
    except OpenEnvError:
        pass
    if isinstance(request, Step):
        try:
            if source == target:
                codec = spec.codec("action", source)
                forms.append(codec.encode(codec.decode(request.payload)))
            else:
                forms.append(bytes(transcode(spec, request, source, target).payload))
        except OpenEnvError:
            pass
    return forms
