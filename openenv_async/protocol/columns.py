"""Column frames: many sessions of one connection stepped, and answered, by one frame.

A *row* is one session's part of a frame. Channels, numbers, actions, observations and rewards of
all rows lie in one buffer each. ``requests_of`` and ``replies_of`` take a column frame apart into
the frames that say the same one by one, so that whatever has no faster way of its own serves
columns too.

A *column* is the MessagePack array ``[form, content]``:

- form 0, stacked: an array (Ext code 1) whose first axis is the rows. An element of an array with
  more than one axis is an array; that of an array with one axis is a bool, an int or a float.
- form 1, fields: a map from names to columns of form 0 or 1. An element is a map.
- form 2, apart: an array of ``bin``, each an element encoded on its own.

Rules:

- The rows, ranges and lengths that a peer says are bounded and checked before they are used.
- No two rows are of the same channel.
- NumPy is needed, and only here imported: a process without it says that it has no columns.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from openenv_async.arrays import EXT_NDARRAY, from_ext, to_ext
from openenv_async.errors import OpenEnvError, ProtocolError
from openenv_async.models import PayloadCodec
from openenv_async.protocol.codec import BadFrame
from openenv_async.protocol.frames import (
    Begun,
    Observation,
    ObservationColumns,
    Payload,
    Reset,
    Step,
    StepColumns,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "AGAIN",
    "APART",
    "BEGUN",
    "COLUMNS",
    "COLUMNS_AGAIN",
    "FIELDS",
    "REWARDED",
    "STACKED",
    "TERMINATED",
    "TRUNCATED",
    "StepRows",
    "apart",
    "apart_heads",
    "begun_of",
    "channels_of",
    "column_of",
    "fields",
    "fields_heads",
    "finals_of",
    "has_columns",
    "numbers_of",
    "pack_channels",
    "pack_numbers",
    "pack_pairs",
    "ranges_of",
    "replies_of",
    "requests_of",
    "rows_of",
    "seqs_of",
    "stacked",
    "unaddressed",
]

COLUMNS: Final = "columns"
"""The capability of a server that takes column frames."""
COLUMNS_AGAIN: Final = "columns_again"
"""The capability of one that may begin the next episode of a row in the step that ends one."""
STACKED: Final = 0
FIELDS: Final = 1
APART: Final = 2
TERMINATED: Final = 1
TRUNCATED: Final = 2
REWARDED: Final = 4
BEGUN: Final = 8
AGAIN: Final = 16

_MAX_CHANNEL: Final = 2**32 - 1
_MAX_DEPTH: Final = 8
"""Maps inside maps of a column."""

_decode: Final = msgspec.msgpack.Decoder(list[Any]).decode
_decode_apart: Final = msgspec.msgpack.Decoder(tuple[int, list[bytes]]).decode
_decode_infos: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes]]).decode
_decode_begun: Final = msgspec.msgpack.Decoder(list[tuple[int, str, int]]).decode
_decode_finals: Final = msgspec.msgpack.Decoder(ObservationColumns).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_I64: Final = struct.Struct("<q")
_APART_HEAD: Final = b"\x92\x02"
"""The first octets of a column of form 2."""
_FIELDS_HEAD: Final = b"\x92\x01"
"""The first octets of one of form 1."""
_BAD: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


@cache
def _has_numpy() -> bool:
    return "numpy" in sys.modules or importlib.util.find_spec("numpy") is not None


def has_columns(format: str) -> bool:
    """Return whether this process can read and write column frames in a payload format."""
    return format == "msgpack" and _has_numpy()


# -- channels and numbers -----------------------------------------------------------------------


def pack_channels(channels: Sequence[int] | Array) -> bytes:
    """Return channels as ranges ``first, count``, in their order.

    Raises:
        ValueError: a channel does not fit in 32 bits.
    """
    if isinstance(channels, list):  # mostly those of the frame before
        return _packed(tuple(channels))
    return _pack_channels(channels)


def _pack_channels(channels: Sequence[int] | Array) -> bytes:
    import numpy as np

    each = np.asarray(channels, np.int64)
    if each.size and not 0 < each.min() <= each.max() <= _MAX_CHANNEL:
        raise ValueError("a channel of a column frame is 1 to 2^32 - 1")
    starts = np.flatnonzero(np.diff(each, prepend=-1) != 1)
    ranges = np.empty((len(starts), 2), "<u4")
    ranges[:, 0] = each[starts]
    ranges[:, 1] = np.diff(starts, append=len(each))
    return ranges.tobytes()


_packed: Final = lru_cache(maxsize=64)(_pack_channels)


def ranges_of(packed: Payload, limit: int) -> list[tuple[int, int]]:
    """Return the ranges ``first, count`` of a frame's channels.

    Args:
        packed: the field ``channels``.
        limit: rows at most.

    Raises:
        ProtocolError: it is malformed, has more rows, or has a channel twice.
    """
    import numpy as np

    if not packed or len(packed) % 8:
        raise ProtocolError("channels of a column frame are pairs of 4-byte integers")
    flat = np.frombuffer(packed, "<u4").astype(np.int64).reshape(-1, 2)
    rows = int(flat[:, 1].sum())
    if not flat[:, 1].all() or not flat[:, 0].all() or rows > limit:
        raise ProtocolError(
            f"a column frame of {rows:,} rows: 1 to {limit:,} may be sent (max_channels), none of"
            " them of channel 0"
        )
    ordered = flat[np.argsort(flat[:, 0])]
    if (ordered[1:, 0] < ordered[:-1].sum(axis=1)).any():
        raise ProtocolError("a column frame has a channel twice")
    return [(first, count) for first, count in flat.tolist()]


def _each(ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [channel for first, count in ranges for channel in range(first, first + count)]


def pack_numbers(numbers: Sequence[int] | Array) -> bytes:
    """Return request numbers as they travel: one for all rows where they are equal."""
    if isinstance(numbers, list) and numbers and numbers.count(numbers[0]) == len(numbers):
        return _I64.pack(numbers[0])
    import numpy as np

    each = np.asarray(numbers, "<i8")
    return (each[:1] if (each == each[:1]).all() else each).tobytes()


def numbers_of(packed: Payload, rows: int) -> Array:
    """Return the request number of each row: int64 [rows], which must not be written.

    Raises:
        ProtocolError: there are not as many.
    """
    import numpy as np

    if len(packed) not in (8, 8 * rows):
        raise ProtocolError(f"a column frame of {rows} rows has 1 or {rows} request numbers")
    return np.broadcast_to(np.frombuffer(packed, "<i8"), rows)


def _column(packed: Payload | None, dtype: str, rows: int, name: str) -> list[Any]:
    import numpy as np

    wanted = rows * np.dtype(dtype).itemsize
    if packed is None or len(packed) != wanted:
        raise ProtocolError(f"{name} of a column frame of {rows} rows take {wanted} bytes")
    values: list[Any] = np.frombuffer(packed, dtype).tolist()
    return values


# -- actions and observations ---------------------------------------------------------------------


def stacked(array: Array) -> bytes:
    """Return a column of form 0; the first axis is the rows.

    Raises:
        TypeError: the dtype cannot travel.
    """
    return _encode([STACKED, _ext(array)])


def apart(payloads: Sequence[bytes]) -> bytes:
    """Return a column of form 2, of elements that are encoded already."""
    return _encode([APART, payloads])


def apart_heads(sizes: Sequence[int]) -> list[bytes]:
    """Return what stands before each element in a column of form 2, of elements of these sizes."""
    heads = [
        b"\xc4" + size.to_bytes(1)
        if size < 1 << 8
        else b"\xc5" + size.to_bytes(2)
        if size < 1 << 16
        else b"\xc6" + size.to_bytes(4)
        for size in sizes
    ]
    empty = apart([b""] * len(sizes))
    heads[0] = empty[: len(empty) - 2 * len(sizes)] + heads[0]
    return heads


def fields(columns: Mapping[str, Payload]) -> bytes:
    """Return a column of form 1, of columns of form 0 or 1 by name."""
    return _encode([FIELDS, {name: msgspec.Raw(column) for name, column in columns.items()}])


@lru_cache(maxsize=256)
def fields_heads(names: tuple[str, ...]) -> list[bytes]:
    """Return what stands before each column in a column of form 1, in this order."""
    heads = [_encode(name) for name in names]
    whole = fields(dict.fromkeys(names, b""))
    heads[0] = whole[: len(whole) - sum(map(len, heads[1:]))]
    return heads


def _ext(array: Any) -> msgspec.msgpack.Ext:
    made = to_ext(array)
    assert made is not None
    return msgspec.msgpack.Ext(*made)


@cache
def _any() -> PayloadCodec[Any]:
    return PayloadCodec(Any, "msgpack")


def rows_of(column: Payload, rows: int) -> list[bytes]:
    """Return the elements of a column, each encoded on its own.

    Raises:
        ProtocolError: it is malformed, or has another number of rows.
    """
    try:
        form, content = _decode_apart(column)
        if form != APART:
            raise ProtocolError(f"unknown form {form} of a column")
        payloads = content
    except _BAD:
        encode = _any().encode
        payloads = [encode(element) for element in _elements(_any().decode(column), rows)]
    if len(payloads) != rows:
        raise ProtocolError(f"a column of {len(payloads)} rows in a frame of {rows}")
    return payloads


def column_of(packed: Payload) -> tuple[int, Any]:
    """Return form and content of a column, its arrays as views.

    Raises:
        ProtocolError: it is malformed.
    """
    try:
        form, content = _decode_column(packed)
    except _BAD as exc:
        raise ProtocolError(f"malformed column: {exc}") from None
    return form, content


def _array_of(code: int, data: memoryview) -> Any:
    if code != EXT_NDARRAY:
        raise ValueError("a column holds arrays")
    return from_ext(code, data)


_decode_column: Final = msgspec.msgpack.Decoder(tuple[int, Any], ext_hook=_array_of).decode


def _is_stacked(column: Any) -> bool:
    return isinstance(column, list) and column[:1] == [STACKED]


def _elements(column: Any, rows: int, depth: int = 0) -> list[Any]:
    match column:
        case [0, array] if getattr(array, "ndim", 0):
            if len(array) != rows:  # an array without bytes has as many rows as it says
                raise ProtocolError(f"a column of {len(array)} rows in a frame of {rows}")
            elements = array.tolist() if array.ndim == 1 else list(array)
        case [1, dict() as fields] if fields and depth < _MAX_DEPTH:
            each = [_elements(field, rows, depth + 1) for field in fields.values()]
            elements = [
                dict(zip(fields, values, strict=True)) for values in zip(*each, strict=True)
            ]
        case _:
            raise ProtocolError("a column is [form, content] of form 0, 1 or 2")
    if len(elements) != rows:
        raise ProtocolError(f"a column of {len(elements)} rows in a frame of {rows}")
    return elements


# -- one by one -----------------------------------------------------------------------------------


class StepRows:
    """The rows of a ``StepColumns``, read once.

    Args:
        frame: the frame.
        channels: of the rows, as ``channels_of`` gives them.

    Attributes:
        frame: the frame.
        channels: the channel of each row.
        seqs: the request number of each row.
        begins: 1 for each row that begins an episode; empty where none does.
        goes_on: rows whose step ends an episode may begin the next one at once.

    Raises:
        ProtocolError: the frame's numbers cannot be read.
    """

    __slots__ = (
        *("_again", "_payloads", "_places", "_seeds"),
        *("begins", "channels", "frame", "goes_on", "seqs", "steps"),
    )

    def __init__(self, frame: StepColumns, channels: Sequence[int]) -> None:
        rows = len(channels)
        self.frame = frame
        self.channels = channels
        self.seqs: Sequence[int] = seqs_of(frame.seqs, rows)
        self.begins: Sequence[int] = ()
        self.steps = rows
        self._seeds: Sequence[int] = ()
        self._again: Sequence[int] = ()
        self.goes_on = frame.again is not None
        self._places: list[int] | None = None
        self._payloads: list[bytes] | None = None

    def read(self) -> None:
        """Read which rows begin an episode, now or with the end of this one, and their seeds.

        Raises:
            ProtocolError: it is malformed.
        """
        frame, rows = self.frame, len(self.channels)
        if frame.resets is not None:
            begins = _column(frame.resets, "u1", rows, "resets")
            count = rows - begins.count(0)
            if frame.seeds is not None:
                self._seeds = _column(frame.seeds, "<i8", count, "seeds")
            self.begins, self.steps = (begins, rows - count) if count else ((), rows)
        if frame.again is not None:
            self._again = seqs_of(frame.again, rows)

    def elements(self) -> list[Any] | None:
        """Return the decoded action of each row that steps; ``None`` where each is encoded apart.

        Raises:
            ProtocolError: the column is malformed.
        """
        if self.frame.payload[:2] == _APART_HEAD:
            return None
        return _elements(_any().decode(self.frame.payload), self.steps)

    def fields(self) -> dict[str, list[Any]] | None:
        """Return the decoded values of each field of the actions, of the rows that step.

        Returns:
            ``None`` where the actions are not maps of numbers and arrays, in a column of form 1.

        Raises:
            ProtocolError: the column is malformed.
        """
        if self.frame.payload[:2] != _FIELDS_HEAD:
            return None
        match _any().decode(self.frame.payload):
            case [1, dict() as fields] if fields and all(map(_is_stacked, fields.values())):
                return {name: _elements(field, self.steps) for name, field in fields.items()}
        return None

    def payloads(self) -> list[bytes]:
        """Return the action of each row that steps, encoded.

        Raises:
            ProtocolError: the column is malformed.
        """
        if self._payloads is None:
            self._payloads = rows_of(self.frame.payload, self.steps)
        return self._payloads

    def request(self, row: int) -> Step | Reset:
        """Return what a row asks for, as the request of its session.

        Raises:
            ProtocolError: the column of actions is malformed.
        """
        frame, seq = self.frame, self.seqs[row]
        place = row if not self.begins else self._place(row)
        if not self.begins or not self.begins[row]:
            return Step(self.channels[row], seq, seq - 1, self.payloads()[place], frame.timeout)
        return self._reset(row, self._seeds[place] if self._seeds else -1)

    def again(self, row: int) -> Reset:
        """Return what begins the next episode of a row whose step has ended one."""
        return self._reset(row, self._again[row])

    def _reset(self, row: int, seed: int) -> Reset:
        frame, seq = self.frame, self.seqs[row]
        given = None if seed < 0 else seed
        timeout = frame.reset_timeout
        return Reset(self.channels[row], seq, seq - 1, frame.options, given, None, timeout)

    def requests(self) -> list[Step | Reset]:
        """Return what each row asks for, as ``request`` does.

        Raises:
            ProtocolError: the column of actions is malformed.
        """
        frame, rows = self.frame, zip(self.channels, self.seqs, strict=True)
        timeout = frame.timeout
        if not self.begins:
            payloads = zip(rows, self.payloads(), strict=True)
            return [Step(channel, seq, seq - 1, it, timeout) for (channel, seq), it in payloads]
        steps, seeds = iter(self.payloads()), iter(self._seeds)
        requests: list[Step | Reset] = []
        for begins, (channel, seq) in zip(self.begins, rows, strict=True):
            if not begins:
                requests.append(Step(channel, seq, seq - 1, next(steps), timeout))
                continue
            seed = next(seeds, -1)
            given = None if seed < 0 else seed
            requests.append(
                Reset(channel, seq, seq - 1, frame.options, given, None, frame.reset_timeout)
            )
        return requests

    def _place(self, row: int) -> int:
        """Return where a row stands among those that step, or those that begin."""
        if self._places is None:
            begun = stepped = 0
            self._places = []
            for begins in self.begins:
                self._places.append(begun if begins else stepped)
                begun, stepped = begun + bool(begins), stepped + (not begins)
        return self._places[row]


def channels_of(packed: Payload, limit: int) -> list[int]:
    """Return the channel of each row of a frame.

    Args:
        packed: the field ``channels``.
        limit: rows at most.

    Raises:
        ProtocolError: it is malformed, has more rows, or has a channel twice.
    """
    return _each(ranges_of(packed, limit))


def seqs_of(packed: Payload, rows: int) -> list[int]:
    """Return the request number of each row as a list.

    Raises:
        ProtocolError: there are not as many.
    """
    if len(packed) == 8:
        return [int.from_bytes(packed, "little", signed=True)] * rows
    numbers: list[int] = numbers_of(packed, rows).tolist()
    return numbers


def requests_of(frame: StepColumns, limit: int) -> Iterator[Step | Reset | BadFrame]:
    """Return the requests of a frame one by one.

    A row whose action cannot be read is a ``BadFrame`` of its channel.

    Args:
        frame: the frame.
        limit: rows at most.

    Raises:
        ProtocolError: it is not known which sessions it is about.
    """
    rows = StepRows(frame, channels_of(frame.channels, limit))
    try:
        rows.read()
        rows.payloads()
    except OpenEnvError as exc:
        pairs = zip(rows.channels, rows.seqs, strict=True)
        return iter([BadFrame(channel, seq, exc, True) for channel, seq in pairs])
    return map(rows.request, range(len(rows.channels)))


def pack_pairs(pairs: Sequence[tuple[Any, ...]]) -> bytes | None:
    """Return ``infos`` or ``begun`` of a frame; ``None`` where no row has any."""
    return _encode(pairs) if pairs else None


def begun_of(packed: Payload | None) -> list[tuple[int, str, int]]:
    """Return row, episode id and seed of each row that began an episode.

    Raises:
        ProtocolError: it is malformed.
    """
    try:
        return _decode_begun(packed) if packed else []
    except _BAD as exc:
        raise ProtocolError(f"malformed column frame: {exc}") from None


def finals_of(frame: ObservationColumns) -> ObservationColumns | None:
    """Return the ends of episodes of a frame, addressed to nobody; ``None`` where it has none.

    They are of the rows with the flag ``AGAIN``, in order.

    Raises:
        ProtocolError: they are malformed, or of another number.
    """
    if frame.finals is None:
        return None
    try:
        finals = _decode_finals(frame.finals)
    except _BAD as exc:
        raise ProtocolError(f"malformed column frame: {exc}") from None
    if len(finals.flags) != sum(flag & AGAIN != 0 for flag in bytes(frame.flags)):
        raise ProtocolError("a column frame has another number of ends than rows that say so")
    return finals


def replies_of(frame: ObservationColumns) -> list[Observation | Begun]:
    """Return the replies of a frame one by one.

    Raises:
        ProtocolError: it is malformed.
    """
    ranges = ranges_of(frame.channels, _MAX_CHANNEL)
    rows = sum(count for _, count in ranges)
    if len(frame.flags) != rows:  # before there is a channel for each: a range says any number
        raise ProtocolError(f"flags of a column frame of {rows} rows take {rows} bytes")
    seqs: list[int] = numbers_of(frame.seqs, rows).tolist()
    return _replies(frame, _each(ranges), seqs)


def unaddressed(frame: ObservationColumns) -> list[Observation | Begun]:
    """Return the replies of a frame without channels and numbers, as those of channel 0.

    Raises:
        ProtocolError: it is malformed.
    """
    none = [0] * len(frame.flags)
    return _replies(frame, none, none)


def _replies(
    frame: ObservationColumns, channels: Sequence[int], seqs: Sequence[int]
) -> list[Observation | Begun]:
    rows = len(channels)
    payloads = rows_of(frame.payload, rows)
    rewards: list[float | None] = _column(frame.rewards, "<f8", rows, "rewards")
    flags: list[int] = _column(frame.flags, "u1", rows, "flags")
    try:
        infos = dict(_decode_infos(frame.infos)) if frame.infos else {}
        episodes = _decode_begun(frame.begun) if frame.begun else []
    except _BAD as exc:
        raise ProtocolError(f"malformed column frame: {exc}") from None
    begun = {row: (episode_id, seed) for row, episode_id, seed in episodes}
    finals = finals_of(frame)
    ends: Iterator[Any] = iter(())
    if finals is not None:
        rows_again = [row for row in range(rows) if flags[row] & AGAIN]
        of = [channels[row] for row in rows_again], [seqs[row] for row in rows_again]
        ends = iter(_replies(finals, *of))
    replies: list[Observation | Begun] = []
    for row in range(rows):
        flag = flags[row]
        result = (
            rewards[row] if flag & REWARDED else None,
            bool(flag & TERMINATED),
            bool(flag & TRUNCATED),
            infos.get(row),
        )
        if flag & BEGUN:
            if row not in begun:
                raise ProtocolError(f"row {row} of a column frame has no episode")
            episode_id, seed = begun[row]
            final = _encode(next(ends)) if finals is not None and flag & AGAIN else None
            replies.append(
                Begun(channels[row], seqs[row], payloads[row], episode_id, seed, *result, final)
            )
        else:
            replies.append(Observation(channels[row], seqs[row], payloads[row], *result))
    return replies
