"""Messages: batches of frames in msgpack (binary) or JSON (text).

A message is an array of frames. In msgpack a payload is a ``bin`` that holds an object encoded
on its own; in JSON it is that object in place.

Rules of this file:

- Size and depth are bounded before anything is decoded.
- The fast path decodes a whole message in one call, into Structs that forbid unknown fields, so
  it cannot recurse. Whatever that path refuses is looked at frame by frame: unknown trailing
  fields of a newer peer are ignored, and one bad frame does not cost its neighbours.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec

from openenv_async.depth import check_json_depth, check_msgpack_depth
from openenv_async.errors import PayloadTooLarge, ProtocolError, sendable
from openenv_async.protocol.frames import (
    CLIENT_FRAMES,
    PAYLOAD_FIELDS,
    SERVER_FRAMES,
    ClientFrame,
    Frame,
    Observation,
    ServerFrame,
)
from openenv_async.types import MAX_DEPTH

__all__ = [
    "SUBPROTOCOLS",
    "BadFrame",
    "FrameCodec",
    "JsonCodec",
    "MsgpackCodec",
    "WireMessage",
    "decode_map",
    "encode_map",
    "frame_codec",
    "frame_size",
    "split_batch",
    "too_large",
]

_FRAME_DEPTH: Final = 8
"""Containers inside containers that a header may have: the batch, the frame, a future field."""
_OVERHEAD: Final = 96
"""Bytes allowed for the header of a frame when a batch is measured."""

SUBPROTOCOLS: Final = {"openenv.v1.msgpack": "msgpack", "openenv.v1.json": "json"}

Role = Literal["server", "client"]
WireMessage = bytes | memoryview | str
"""What a transport carries: octets, or text."""


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that could not be read; where it was meant to go, as far as that is known."""

    channel: int
    seq: int
    error: ProtocolError


class FrameCodec(Protocol):
    """One wire format of messages. ``decode`` reads what the other role sends."""

    format: Literal["msgpack", "json"]
    text: bool

    def decode(self, message: WireMessage) -> Sequence[Any]: ...

    def encode(self, frames: Sequence[Frame]) -> bytes: ...


def _table(role: Role) -> dict[int, type[Frame]]:
    classes = CLIENT_FRAMES if role == "server" else SERVER_FRAMES
    return {int(typing.cast(int, cls.__struct_config__.tag)): cls for cls in classes}


def _address(items: Sequence[Any]) -> tuple[int, int]:
    """Channel and seq of a frame that may be anything."""
    numbers = [
        item if type(item) is int and 0 <= item < 2**63 else 0 for item in (*items[1:3], 0, 0)
    ]
    return numbers[0], numbers[1]


def _lenient(items: Any, table: dict[int, type[Frame]]) -> Frame | BadFrame:
    if type(items) is not list or not items:
        return BadFrame(0, 0, ProtocolError("a frame must be a non-empty array [kind, ...]"))
    kind = items[0]
    cls = table.get(kind) if type(kind) is int else None
    if cls is None:
        kind_text = repr(kind) if isinstance(kind, int | str) else type(kind).__name__
        error = ProtocolError(f"unknown frame kind {kind_text[:40]}: known are {sorted(table)}")
        return BadFrame(*_address(items), error)
    try:
        return msgspec.convert(items[: len(cls.__struct_fields__) + 1], cls)
    except (msgspec.ValidationError, RecursionError) as exc:
        error = ProtocolError(f"malformed {cls.__name__} frame: {exc}")
        return BadFrame(*_address(items), error)


def _payload_places(cls: type[Frame]) -> dict[int, bool]:
    """Where a frame has payloads, and whether ``null`` there means that there is none.

    A payload that a frame must have may itself be the value ``null``.
    """
    return {
        i: not field.required
        for i, field in enumerate(msgspec.structs.fields(cls))
        if field.name in PAYLOAD_FIELDS
    }


class MsgpackCodec:
    """Messages as msgpack; the hot path."""

    format: Literal["msgpack", "json"] = "msgpack"
    text = False

    def __init__(self, role: Role, max_size: int) -> None:
        self._max_size = max_size
        self._table = _table(role)
        union = ClientFrame if role == "server" else ServerFrame
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(list[union])  # type: ignore[valid-type]  # the union is a value, as msgspec wants it
        self.encode = msgspec.msgpack.Encoder().encode

    def decode(self, message: WireMessage) -> Sequence[Any]:
        """Frames in order; a ``BadFrame`` in place of each that cannot be read.

        Raises:
            ProtocolError: the message as a whole is no batch of frames.
            PayloadTooLarge: it is larger than the limit that was exchanged.
        """
        if len(message) > self._max_size:
            raise too_large(len(message), self._max_size)
        if isinstance(message, str):
            raise ProtocolError("text message on a msgpack connection: send binary messages")
        try:
            return self._decoder.decode(message)  # type: ignore[no-any-return]  # a list of frames
        except (msgspec.MsgspecError, ValueError):  # a str that is not UTF-8 is a ValueError
            return self._decode_slowly(message)

    def _decode_slowly(self, message: bytes | memoryview) -> Sequence[Any]:
        check_msgpack_depth(message, _FRAME_DEPTH)
        try:
            batch = msgspec.msgpack.decode(message)
        except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as exc:
            raise ProtocolError(f"malformed message: {exc}") from None
        if type(batch) is not list:
            raise ProtocolError("a message must be an array of frames")
        return [_lenient(items, self._table) for items in batch]


class JsonCodec:
    """Messages as JSON text, for debugging and for languages without msgpack."""

    format: Literal["msgpack", "json"] = "json"
    text = True

    def __init__(self, role: Role, max_size: int) -> None:
        self._max_size = max_size
        self._table = _table(role)
        self._batch = msgspec.json.Decoder(list[msgspec.Raw])
        self._frame = msgspec.json.Decoder(list[msgspec.Raw])
        self._payloads = {cls: _payload_places(cls) for cls in (*CLIENT_FRAMES, *SERVER_FRAMES)}

    def decode(self, message: WireMessage) -> Sequence[Any]:
        """As ``MsgpackCodec.decode``."""
        try:
            data = message.encode() if isinstance(message, str) else message
        except UnicodeEncodeError as exc:
            raise ProtocolError(f"a message must be UTF-8: {exc}") from None
        if len(data) > self._max_size:
            raise too_large(len(data), self._max_size)
        check_json_depth(data, _FRAME_DEPTH + MAX_DEPTH)
        try:
            batch = self._batch.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
            raise ProtocolError(f"a message must be a JSON array of frames: {exc}") from None
        return [self._read(raw) for raw in batch]

    def _read(self, raw: msgspec.Raw) -> Frame | BadFrame:
        try:
            items: list[Any] = list(self._frame.decode(raw))
            kind = msgspec.json.decode(items[0]) if items else None
            cls = self._table.get(kind) if type(kind) is int else None
            payloads = self._payloads[cls] if cls is not None else {}
            for i, item in enumerate(items):
                if i - 1 in payloads:
                    absent = payloads[i - 1] and bytes(item) == b"null"
                    items[i] = None if absent else bytes(item)
                else:
                    items[i] = msgspec.json.decode(item)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
            return BadFrame(0, 0, ProtocolError(f"malformed frame: {exc}"))
        return _lenient(items, self._table)

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """The message as UTF-8."""
        batch = []
        for frame in frames:
            cls = type(frame)
            values = list(msgspec.structs.astuple(frame))
            for i in self._payloads[cls]:
                if values[i] is not None:
                    values[i] = msgspec.Raw(values[i])
            batch.append([cls.__struct_config__.tag, *values])
        return msgspec.json.encode(batch)


def frame_codec(subprotocol: str, role: Role, max_size: int) -> MsgpackCodec | JsonCodec:
    """The codec of a negotiated WebSocket subprotocol."""
    if SUBPROTOCOLS[subprotocol] == "msgpack":
        return MsgpackCodec(role, max_size)
    return JsonCodec(role, max_size)


def split_batch(frames: Sequence[Frame], limit: int) -> list[Sequence[Frame]]:
    """Consecutive slices of ``frames`` of about ``limit`` bytes each, never an empty one."""
    slices: list[Sequence[Frame]] = []
    start = size = 0
    for i, frame in enumerate(frames):
        cost = frame_size(frame)
        if size and size + cost > limit:
            slices.append(frames[start:i])
            start, size = i, 0
        size += cost
    if start < len(frames):
        slices.append(frames[start:])
    return slices


def frame_size(frame: Frame) -> int:
    """About how many bytes a frame takes in a message, from above."""
    if type(frame) is Observation:  # the common one
        return _OVERHEAD + len(frame.payload) + (0 if frame.info is None else len(frame.info))
    size = _OVERHEAD
    for name in frame.__struct_fields__:
        value = getattr(frame, name)
        if isinstance(value, bytes | memoryview | str):
            size += len(value)
    return size


def encode_map(values: dict[str, Any] | None, format: str) -> bytes | None:
    """A small map of plain values as a payload; ``None`` and empty give ``None``."""
    if not values:
        return None
    encode = msgspec.msgpack.encode if format == "msgpack" else msgspec.json.encode
    try:
        return encode(values, enc_hook=str)
    except (ValueError, TypeError, OverflowError, RecursionError):
        # An environment's own error may carry anything; the error must arrive all the same.
        return encode({sendable(str(k)): sendable(str(v)) for k, v in values.items()})


def decode_map(payload: bytes | memoryview | None, format: str) -> dict[str, Any]:
    """The reverse of ``encode_map``.

    Raises:
        ProtocolError: it is not a map, or nested too deep.
    """
    if payload is None:
        return {}
    check = check_msgpack_depth if format == "msgpack" else check_json_depth
    check(payload, _FRAME_DEPTH)
    decode: Any = msgspec.msgpack.decode if format == "msgpack" else msgspec.json.decode
    try:
        return typing.cast(dict[str, Any], decode(payload, type=dict[str, Any]))
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise ProtocolError(f"malformed map: {exc}") from None


def too_large(size: int, limit: int) -> PayloadTooLarge:
    """The error for a message over a limit, in bytes."""
    return PayloadTooLarge(
        f"message of {size:,} bytes is over the limit of {limit:,}: raise max_message_size"
        " on the receiving side or send less",
        size=size,
        limit=limit,
    )
