"""Parts of column frames: some of the rows, under other channels and numbers.

A server that keeps environments in other processes passes rows on without reading one: what a
worker answers is addressed anew, and its observations stay as they are. Only where the rows of a
frame go different ways are the arrays of a column cut, each as a whole.

Rules:

- A part says of its rows what the frame says of them, in the same order.
- A frame that cannot be read raises ``ProtocolError``: then nothing of it was passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from openenv_async.arrays import to_ext
from openenv_async.errors import ProtocolError
from openenv_async.models import PayloadCodec
from openenv_async.protocol.columns import APART, FIELDS, STACKED, pack_channels, pack_numbers
from openenv_async.protocol.frames import ObservationColumns, Payload, StepColumns

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["observations_of_rows", "readdressed", "steps_of_rows"]

_MAX_DEPTH: Final = 8
_encode: Final = msgspec.msgpack.Encoder().encode
_BAD: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
_infos: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
_begun: Final = msgspec.msgpack.Decoder(list[tuple[int, str, int]])
_any: Final = PayloadCodec[Any](Any, "msgpack")


def readdressed(
    frame: StepColumns | ObservationColumns, channels: Sequence[int], seqs: Sequence[int]
) -> Any:
    """Return a frame under other channels and request numbers, one for each of its rows."""
    return msgspec.structs.replace(frame, channels=pack_channels(channels), seqs=pack_numbers(seqs))


def steps_of_rows(
    frame: StepColumns,
    count: int,
    rows: Array,
    channels: Sequence[int],
    seqs: Sequence[int],
) -> StepColumns:
    """Return the requests of some rows.

    Args:
        frame: of ``count`` rows.
        count: how many it has.
        rows: intp [n], which, in ascending order.
        channels: the channel of each in the part.
        seqs: the request number of each in the part.

    Raises:
        ProtocolError: the frame cannot be read.
    """
    import numpy as np

    resets = _buffer(frame.resets, "u1", count, "resets")
    stepped, steps, seeds = rows, count, None
    if resets is not None:
        begins = resets != 0
        steps = count - int(begins.sum())
        # The place of a row in a column of only the rows that step, and of those that begin.
        stepped = (np.cumsum(~begins) - 1)[rows[~begins[rows]]]
        seeds = _buffer(frame.seeds, "<i8", count - steps, "seeds")
        if seeds is not None:
            seeds = seeds[(np.cumsum(begins) - 1)[rows[begins[rows]]]]
        resets = resets[rows]
    return StepColumns(
        pack_channels(channels),
        pack_numbers(seqs),
        _column_of_rows(frame.payload, steps, stepped),
        frame.timeout,
        None if resets is None else resets.tobytes(),
        None if seeds is None else seeds.tobytes(),
        frame.options,
        frame.reset_timeout,
    )


def observations_of_rows(
    frame: ObservationColumns,
    count: int,
    rows: Array,
    channels: Sequence[int],
    seqs: Sequence[int],
) -> ObservationColumns:
    """Return the replies of some rows.

    Args:
        frame, count, rows, channels, seqs: as for ``steps_of_rows``.

    Raises:
        ProtocolError: the frame cannot be read.
    """
    rewards = _buffer(frame.rewards, "<f8", count, "rewards")
    flags = _buffer(frame.flags, "u1", count, "flags")
    if rewards is None or flags is None:
        raise ProtocolError("a column frame of replies has rewards and flags")
    places = {row: place for place, row in enumerate(rows.tolist())}
    infos = [(places[row], info) for row, info in _told(_infos, frame.infos) if row in places]
    begun = [
        (places[row], episode_id, seed)
        for row, episode_id, seed in _told(_begun, frame.begun)
        if row in places
    ]
    return ObservationColumns(
        pack_channels(channels),
        pack_numbers(seqs),
        _column_of_rows(frame.payload, count, rows),
        rewards[rows].tobytes(),
        flags[rows].tobytes(),
        _encode(infos) if infos else None,
        _encode(begun) if begun else None,
    )


def _told(decoder: Any, packed: Payload | None) -> Any:
    try:
        return decoder.decode(packed) if packed else ()
    except _BAD as exc:
        raise ProtocolError(f"malformed column frame: {exc}") from None


def _buffer(packed: Payload | None, dtype: str, count: int, name: str) -> Array | None:
    import numpy as np

    if packed is None:
        return None
    wanted = count * np.dtype(dtype).itemsize
    if len(packed) != wanted:
        raise ProtocolError(f"{name} of a column frame of {count} rows take {wanted} bytes")
    return np.frombuffer(packed, dtype)


def _column_of_rows(column: Payload, count: int, rows: Array) -> bytes:
    """Return the elements of some rows of a column of ``count``."""
    try:
        return _encode(_cut(_any.decode(column), count, rows))
    except _BAD as exc:
        raise ProtocolError(f"malformed column: {exc}") from None


def _cut(column: Any, count: int, rows: Array, depth: int = 0) -> list[Any]:
    content: Any
    match column:
        case [0, array] if getattr(array, "ndim", 0):
            form, length = STACKED, len(array)
        case [1, dict() as fields] if fields and depth < _MAX_DEPTH:
            parts = {name: _cut(field, count, rows, depth + 1) for name, field in fields.items()}
            return [FIELDS, parts]
        case [2, list() as array] if depth == 0:
            form, length = APART, len(array)
        case _:
            raise ProtocolError("a column is [form, content] of form 0, 1 or 2")
    if length != count:
        raise ProtocolError(f"a column of {length} rows in a frame of {count}")
    if form == APART:
        content = [array[row] for row in rows.tolist()]
    else:
        made = to_ext(array[rows])
        assert made is not None
        content = msgspec.msgpack.Ext(*made)
    return [form, content]
