"""Messages: batches of frames in msgpack (binary) or JSON (text).

A message is an array of frames. In msgpack a payload is a ``bin`` that holds an object encoded
on its own; in JSON it is that object in place.

Rules of this file:

- Size and depth are bounded before anything is decoded.
- The frames of a message are counted before they are decoded: an empty one takes a byte of the
  message and many of memory.
- The fast path decodes a whole message in one call, into Structs that forbid unknown fields, so
  it cannot recurse. A message that this path refuses is read frame by frame: unknown trailing
  fields of a newer peer are ignored, and one bad frame does not cost its neighbours.
- A reward that JSON has no number for is one of the strings "NaN", "Infinity" and "-Infinity";
  null means that there is none.
"""

from __future__ import annotations

import math
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec
from msgspec.structs import astuple

from openenv_async.errors import OpenEnvError, PayloadTooLarge, ProtocolError, sendable
from openenv_async.models.depth import (
    check_json_depth,
    check_msgpack_depth,
    is_small_msgpack,
    json_items,
)
from openenv_async.protocol.frames import (
    CLIENT_FRAMES,
    MAX_INT,
    MSGPACK_FRAMES,
    PAYLOAD_FIELDS,
    SERVER_FRAMES,
    Begun,
    ClientFrame,
    Close,
    Frame,
    Observation,
    Reset,
    ServerFrame,
    State,
    Step,
)
from openenv_async.types import MAX_DEPTH

__all__ = [
    "SUBPROTOCOLS",
    "BadFrame",
    "FrameCodec",
    "JsonCodec",
    "MsgpackCodec",
    "WireMessage",
    "batch_end",
    "decode_map",
    "encode_map",
    "frame_codec",
    "frame_size",
    "json_reward",
    "read_json_reward",
    "split_batch",
    "too_large",
]

_FRAME_DEPTH: Final = 8
"""Containers inside containers that a header may have: the batch, the frame, a future field."""
_HEADER_VALUES: Final = 256
"""Values that the header of a frame may have, those of fields to come included."""
_MANY: Final = sys.maxsize
_OVERHEAD: Final = 96
"""Bytes allowed for the header of a frame when a batch is measured."""

SUBPROTOCOLS: Final = {"openenv.v1.msgpack": "msgpack", "openenv.v1.json": "json"}

Role = Literal["server", "client"]
_FIELDS: Final = max(len(cls.__struct_fields__) for cls in (*CLIENT_FRAMES, *SERVER_FRAMES))
_Items: Final = msgspec.defstruct(
    "_Items",
    [(f"item{i}", msgspec.Raw, msgspec.Raw()) for i in range(_FIELDS + 1)],
    array_like=True,
)
"""The kind and the fields of a frame in JSON; what follows them is skipped, and never made."""
_msgpack_raws: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
WireMessage = bytes | memoryview | str
"""A message as a transport carries it: octets, or text."""


_REQUESTS: Final = frozenset({Reset, Step, State, Close})
_SPELLED: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that could not be read; where it was meant to go, as far as that is known.

    ``is_request`` says that ``seq`` numbers a request of a session.
    """

    channel: int
    seq: int
    error: OpenEnvError
    is_request: bool = False


def json_reward(reward: float | None) -> float | str | None:
    """A reward as JSON carries it: a number, or the name of one that JSON lacks."""
    if reward is None or math.isfinite(reward):
        return reward
    return "NaN" if reward != reward else "Infinity" if reward > 0 else "-Infinity"


def read_json_reward(reward: Any) -> Any:
    """The reverse of ``json_reward``; whatever is none of its strings is given back."""
    return _SPELLED.get(reward, reward) if type(reward) is str else reward


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
        return BadFrame(*_address(items), error, cls in _REQUESTS)


def _payload_places(cls: type[Frame]) -> dict[int, bool]:
    """Return the places of a frame's payloads, and whether ``null`` there means that there is none.

    A payload that a frame must have may itself be the value ``null``.
    """
    return {
        i: not field.required
        for i, field in enumerate(msgspec.structs.fields(cls))
        if field.name in PAYLOAD_FIELDS
    }


_REWARD_PLACES: Final[dict[Any, int]] = {
    cls: 1 + cls.__struct_fields__.index("reward") for cls in (Begun, Observation)
}


def _header_value(raw: msgspec.Raw) -> Any:
    """A field of a header in JSON; a container in place of a scalar is an empty one.

    Raises:
        msgspec.MsgspecError, ValueError: it is malformed, or a number past 64 bits, which
            nothing but JSON can say.
    """
    octets = bytes(raw)
    if octets[:1] in (b"[", b"{"):
        return []  # never a header's, whatever is in it
    value = msgspec.json.decode(octets)
    if type(value) is int and not -MAX_INT - 1 <= value <= 2 * MAX_INT + 1:
        raise ValueError("an integer has more than 64 bits")
    return value


def _read_all(
    batch: Sequence[msgspec.Raw],
    read: Callable[[msgspec.Raw], Frame | BadFrame],
    max_bad_frames: int,
) -> list[Any]:
    """The frames of a batch, up to the bad one that is one too many."""
    frames: list[Any] = []
    bad = 0
    for raw in batch:
        frame = read(raw)
        frames.append(frame)
        if type(frame) is BadFrame:
            bad += 1
            if bad > max_bad_frames:
                break
    return frames


def _check_frames(count: int, limit: int) -> None:
    if count > limit:
        raise ProtocolError(
            f"a message of {count:,} frames is over the limit of {limit:,} (Limits.max_frames of"
            " the receiving side): send fewer at once",
            limit=limit,
            field="max_frames",
        )


def _msgpack_count(message: bytes | memoryview) -> int:
    """Return the number of frames that the message says it has; 0 when it is not an array."""
    first = message[0]
    if 0x90 <= first < 0xA0:
        return first - 0x90
    width = {0xDC: 2, 0xDD: 4}.get(first, 0)
    return int.from_bytes(message[1 : 1 + width], "big")


def _json_count(data: bytes | memoryview, limit: int) -> int:
    """The number of frames of a message, or fewer where ``limit`` holds in any case."""
    octets = data if isinstance(data, bytes) else bytes(data)
    if octets.count(b",") < limit:
        return 0
    return json_items(octets)


class MsgpackCodec:
    """Messages as msgpack; the hot path."""

    format: Literal["msgpack", "json"] = "msgpack"
    text = False

    def __init__(
        self, role: Role, max_size: int, max_frames: int = _MANY, max_bad_frames: int = _MANY
    ) -> None:
        self._max_size = max_size
        self._max_frames = max_frames
        self._max_bad_frames = max_bad_frames
        self._table = _table(role)
        union = ClientFrame if role == "server" else ServerFrame
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(list[union])  # type: ignore[valid-type]  # the union is a value, as msgspec wants it
        self._frame: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(union)
        self.encode = msgspec.msgpack.Encoder().encode

    def decode(self, message: WireMessage) -> Sequence[Any]:
        """Frames in order; a ``BadFrame`` in place of each that cannot be read.

        After more than ``max_bad_frames`` of these the rest is left out.

        Raises:
            ProtocolError: the message as a whole is not a batch of frames, or has too many.
            PayloadTooLarge: it is larger than the limit that was exchanged.
        """
        if len(message) > self._max_size:
            raise too_large(len(message), self._max_size)
        if isinstance(message, str):
            raise ProtocolError("text message on a msgpack connection: send binary messages")
        if len(message) > self._max_frames:
            _check_frames(_msgpack_count(message), self._max_frames)
        try:
            return self._decoder.decode(message)  # type: ignore[no-any-return]  # a list of frames
        except (msgspec.MsgspecError, ValueError):  # a str that is not UTF-8 is a ValueError
            return self._decode_slowly(message)

    def _decode_slowly(self, message: bytes | memoryview) -> Sequence[Any]:
        try:
            batch = _msgpack_raws(message)
        except msgspec.ValidationError:
            raise ProtocolError("a message must be an array of frames") from None
        except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as exc:
            if isinstance(exc, RecursionError):
                check_msgpack_depth(message, _FRAME_DEPTH)
            raise ProtocolError(f"malformed message: {exc}") from None
        return _read_all(batch, self._read, self._max_bad_frames)

    def _read(self, raw: msgspec.Raw) -> Frame | BadFrame:
        try:
            return self._frame.decode(raw)  # type: ignore[no-any-return]  # one of the union
        except (msgspec.MsgspecError, ValueError):
            pass
        try:
            if not is_small_msgpack(bytes(raw), _FRAME_DEPTH, _HEADER_VALUES, around=1):
                raise ProtocolError(f"a frame has more than {_HEADER_VALUES} values in its header")
            items = msgspec.msgpack.decode(raw)
        except ProtocolError as exc:
            return BadFrame(0, 0, exc)
        except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as exc:
            return BadFrame(0, 0, ProtocolError(f"malformed frame: {exc}"))
        return _lenient(items, self._table)


class JsonCodec:
    """Messages as JSON text, for debugging and for languages without msgpack."""

    format: Literal["msgpack", "json"] = "json"
    text = True

    def __init__(
        self, role: Role, max_size: int, max_frames: int = _MANY, max_bad_frames: int = _MANY
    ) -> None:
        self._max_size = max_size
        self._max_frames = max_frames
        self._max_bad_frames = max_bad_frames
        self._table = {kind: cls for kind, cls in _table(role).items() if cls not in MSGPACK_FRAMES}
        self._batch = msgspec.json.Decoder(list[msgspec.Raw])
        self._frame: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Items)
        self._payloads = {cls: _payload_places(cls) for cls in (*CLIENT_FRAMES, *SERVER_FRAMES)}

    def decode(self, message: WireMessage) -> Sequence[Any]:
        """Frames in order; a ``BadFrame`` in place of each that cannot be read.

        After more than ``max_bad_frames`` of these the rest is left out.

        Raises:
            ProtocolError: the message as a whole is not a batch of frames, or has too many.
            PayloadTooLarge: it is larger than the limit that was exchanged.
        """
        try:
            data = message.encode() if isinstance(message, str) else message
        except UnicodeEncodeError as exc:
            raise ProtocolError(f"a message must be UTF-8: {exc}") from None
        if len(data) > self._max_size:
            raise too_large(len(data), self._max_size)
        check_json_depth(data, _FRAME_DEPTH + MAX_DEPTH)
        if len(data) > self._max_frames:
            _check_frames(_json_count(data, self._max_frames), self._max_frames)
        try:
            batch = self._batch.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
            raise ProtocolError(f"a message must be a JSON array of frames: {exc}") from None
        return _read_all(batch, self._read, self._max_bad_frames)

    def _read(self, raw: msgspec.Raw) -> Frame | BadFrame:
        try:
            items: list[Any] = [item for item in astuple(self._frame.decode(raw)) if bytes(item)]
            kind = msgspec.json.decode(items[0]) if items else None
            cls = self._table.get(kind) if type(kind) is int else None
            payloads = self._payloads[cls] if cls is not None else {}
            for i, item in enumerate(items):
                if i - 1 in payloads:
                    absent = payloads[i - 1] and bytes(item) == b"null"
                    items[i] = None if absent else bytes(item)
                else:
                    items[i] = _header_value(item)
        except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
            return BadFrame(0, 0, ProtocolError(f"malformed frame: {exc}"))
        place = _REWARD_PLACES.get(cls)
        if place is not None and len(items) > place:
            items[place] = read_json_reward(items[place])
        return _lenient(items, self._table)

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """The message as UTF-8."""
        batch = []
        for frame in frames:
            cls = type(frame)
            values = list(astuple(frame))
            for i in self._payloads[cls]:
                if values[i] is not None:
                    values[i] = msgspec.Raw(values[i])
            if cls in _REWARD_PLACES:
                place = _REWARD_PLACES[cls] - 1
                values[place] = json_reward(values[place])
            batch.append([cls.__struct_config__.tag, *values])
        return msgspec.json.encode(batch)


def frame_codec(
    subprotocol: str,
    role: Role,
    max_size: int,
    max_frames: int = _MANY,
    max_bad_frames: int = _MANY,
) -> MsgpackCodec | JsonCodec:
    """The codec of a negotiated WebSocket subprotocol.

    Args:
        subprotocol: one of ``SUBPROTOCOLS``.
        role: of this side.
        max_size: bytes of a message that is read.
        max_frames: of a message that is read.
        max_bad_frames: of one message, after which it is read no further.
    """
    cls = MsgpackCodec if SUBPROTOCOLS[subprotocol] == "msgpack" else JsonCodec
    return cls(role, max_size, max_frames, max_bad_frames)


def split_batch(
    frames: Sequence[Frame], limit: int, max_frames: int = _MANY
) -> list[Sequence[Frame]]:
    """Consecutive slices of ``frames`` of about ``limit`` bytes each, never an empty one."""
    slices: list[Sequence[Frame]] = []
    start = 0
    while start < len(frames):
        end = batch_end(frames, start, limit, max_frames)
        slices.append(frames[start:end])
        start = end
    return slices


def batch_end(frames: Sequence[Frame], start: int, limit: int, max_frames: int = _MANY) -> int:
    """Return the end of a slice from ``start`` of about ``limit`` bytes, one frame at least."""
    size = 0
    last = min(len(frames), start + max_frames)
    for i in range(start, last):
        cost = frame_size(frames[i])
        if size and size + cost > limit:
            return i
        size += cost
    return last


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
