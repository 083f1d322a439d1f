"""Parts of column frames: some of the rows, under other channels and numbers.

A server that keeps environments in other processes passes rows on without reading one: what a
worker answers is addressed anew, and its observations stay as they are. Only where the rows of a
frame go different ways are the arrays of a column cut, and joined again, each as a whole.

Rules:

- A part says of its rows what the frame says of them, in the same order.
- A frame that cannot be read raises ``ProtocolError``: then nothing of it was passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from openenv_async.arrays import to_ext
from openenv_async.errors import ProtocolError
from openenv_async.models import PayloadCodec
from openenv_async.protocol.columns import (
    AGAIN,
    APART,
    FIELDS,
    STACKED,
    finals_of,
    numbers_of,
    pack_channels,
    pack_numbers,
    pack_pairs,
)
from openenv_async.protocol.frames import ObservationColumns, Payload, StepColumns

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["StepParts", "joined", "observations_of_rows"]

_MAX_DEPTH: Final = 8
_encode: Final = msgspec.msgpack.Encoder().encode
_BAD: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
_infos: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
_begun: Final = msgspec.msgpack.Decoder(list[tuple[int, str, int]])
_any: Final = PayloadCodec[Any](Any, "msgpack")


class StepParts:
    """The requests of a frame, to be given to several others.

    Args:
        frame: the frame.
        count: rows that it has.
    """

    def __init__(self, frame: StepColumns, count: int) -> None:
        self._frame = frame
        self._count = count
        self._steps = count
        self._column: Any = None
        self._begins: Array | None = None
        self._seeds: Array | None = None
        self._stepped: Array | None = None
        self._begun: Array | None = None

    def of(self, rows: Array, channels: bytes, seqs: bytes) -> StepColumns:
        """Return the requests of some rows.

        Args:
            rows: intp [n], which, in ascending order.
            channels: of the part, packed.
            seqs: the request numbers in the part, packed.

        Raises:
            ProtocolError: the frame cannot be read.
        """
        frame = self._frame
        if len(rows) == self._count:
            return msgspec.structs.replace(frame, channels=channels, seqs=seqs)
        if self._column is None:
            self._read()
        stepped, begins, seeds, again = rows, self._begins, self._seeds, frame.again
        if again is not None and len(again) != 8:
            again = numbers_of(again, self._count)[rows].tobytes()
        if begins is not None:
            assert self._stepped is not None
            begins = begins[rows]
            is_begun = begins != 0
            stepped = self._stepped[rows[~is_begun]]
            if seeds is not None:
                assert self._begun is not None
                seeds = seeds[self._begun[rows[is_begun]]]
        return StepColumns(
            channels,
            seqs,
            _encoded(self._column, self._steps, stepped),
            frame.timeout,
            None if begins is None else begins.tobytes(),
            None if seeds is None else seeds.tobytes(),
            frame.options,
            frame.reset_timeout,
            again,
        )

    def _read(self) -> None:
        frame, count = self._frame, self._count
        begins = self._begins = _buffer(frame.resets, "u1", count, "resets")
        if begins is not None:
            # The place of a row in a column of only the rows that begin, and of those that step.
            each = (begins != 0).cumsum()
            self._begun = each - 1
            self._stepped = _range(count) - each
            begun = int(each[-1])
            self._steps = count - begun
            self._seeds = _buffer(frame.seeds, "<i8", begun, "seeds")
        self._column = _read(frame.payload)


def observations_of_rows(
    frame: ObservationColumns,
    count: int,
    rows: Array,
    channels: Sequence[int],
    seqs: Sequence[int],
) -> ObservationColumns:
    """Return the replies of some rows.

    Args:
        frame: of ``count`` rows.
        count: how many it has.
        rows: intp [n], which, in ascending order.
        channels: the channel of each in the part.
        seqs: the request number of each in the part.

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
    finals = finals_of(frame)
    if finals is not None:
        ends = flags & AGAIN != 0
        chosen = (ends.cumsum() - 1)[rows[ends[rows]]]
        finals = (
            observations_of_rows(finals, len(finals.flags), chosen, (), ()) if len(chosen) else None
        )
    return ObservationColumns(
        pack_channels(channels),
        pack_numbers(seqs),
        _column_of_rows(frame.payload, count, rows),
        rewards[rows].tobytes(),
        flags[rows].tobytes(),
        _encode(infos) if infos else None,
        _encode(begun) if begun else None,
        None if finals is None else _encode(finals),
    )


def joined(
    pieces: Sequence[tuple[Sequence[int], ObservationColumns]],
) -> tuple[list[int], ObservationColumns] | None:
    """Return the replies of several frames as one, addressed to nobody.

    Args:
        pieces: the rows that each frame answers, in its order; no row twice.

    Returns:
        The rows in ascending order, and their replies; ``None`` where the columns differ in form,
        or cannot be read.
    """
    import numpy as np

    rows = sorted(row for some, _ in pieces for row in some)
    count = len(rows)
    places: list[Any] = [some for some, _ in pieces]
    if rows[-1] != count - 1:  # some are missing
        place_of = {row: place for place, row in enumerate(rows)}
        places = [[place_of[row] for row in some] for some in places]
    infos: list[tuple[int, bytes]] = []
    begun: list[tuple[int, str, int]] = []
    ends: list[tuple[Sequence[int], ObservationColumns]] = []
    indices = [np.array(some) for some in places]
    try:
        for some, (_, frame) in zip(places, pieces, strict=True):
            infos += [(some[row], info) for row, info in _told(_infos, frame.infos)]
            begun += [(some[row], *of) for row, *of in _told(_begun, frame.begun)]
            finals = finals_of(frame)
            if finals is not None:
                flagged = zip(some, bytes(frame.flags), strict=True)
                ends.append(([row for row, flag in flagged if flag & AGAIN], finals))
        column = _spliced([_read(frame.payload) for _, frame in pieces], indices, count)
        rewards = _merged(
            [
                _buffer(each.rewards, "<f8", len(to), "rewards")
                for to, (_, each) in zip(places, pieces, strict=True)
            ],
            indices,
            count,
        )
        flags = _merged(
            [
                _buffer(each.flags, "u1", len(to), "flags")
                for to, (_, each) in zip(places, pieces, strict=True)
            ],
            indices,
            count,
        )
    except (ProtocolError, IndexError, ValueError):
        return None
    whole = joined(ends) if ends else None
    if column is None or rewards is None or flags is None or (ends and whole is None):
        return None
    return rows, ObservationColumns(
        b"",
        b"",
        column,
        rewards.tobytes(),
        flags.tobytes(),
        pack_pairs(sorted(infos)),
        pack_pairs(sorted(begun)),
        None if whole is None else _encode(whole[1]),
    )


def _spliced(columns: Sequence[Any], indices: Sequence[Array], count: int) -> bytes | None:
    """Return columns as one, encoded; ``None`` where they differ in form."""
    made = _splice(columns, indices, count)
    return None if made is None else _encode(made)


def _splice(
    columns: Sequence[Any], indices: Sequence[Array], count: int, depth: int = 0
) -> list[Any] | None:
    forms, contents = zip(*(_content(column, depth) for column in columns), strict=True)
    form, first = forms[0], contents[0]
    if any(each != form for each in forms):
        return None
    if form == FIELDS:
        if any(list(each) != list(first) for each in contents):
            return None
        parts: dict[str, Any] = {}
        for name in first:
            parts[name] = _splice([each[name] for each in contents], indices, count, depth + 1)
        return None if None in parts.values() else [FIELDS, parts]
    if any(len(each) != len(index) for each, index in zip(contents, indices, strict=True)):
        raise ProtocolError("a column has another number of rows than its frame")
    if form == APART:
        payloads: list[Any] = [None] * count
        for each, index in zip(contents, indices, strict=True):
            for place, payload in zip(index.tolist(), each, strict=True):
                payloads[place] = payload
        return [APART, payloads]
    array = _merged(contents, indices, count)
    return None if array is None else [STACKED, _ext(array)]


def _merged(arrays: Sequence[Array | None], indices: Sequence[Array], count: int) -> Array | None:
    """Return arrays as one; ``None`` where one is missing or of another dtype or shape."""
    import numpy as np

    first = arrays[0]
    if first is None:
        return None
    whole: Array = np.empty((count, *first.shape[1:]), first.dtype)
    for array, index in zip(arrays, indices, strict=True):
        if array is None or array.dtype != first.dtype or array.shape[1:] != first.shape[1:]:
            return None
        whole[index] = array
    return whole


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
    return _encoded(_read(column), count, rows)


def _read(column: Payload) -> Any:
    try:
        return _any.decode(column)
    except _BAD as exc:
        raise ProtocolError(f"malformed column: {exc}") from None


def _encoded(column: Any, count: int, rows: Array) -> bytes:
    try:
        return _encode(_cut(column, count, rows))
    except _BAD as exc:
        raise ProtocolError(f"malformed column: {exc}") from None


def _content(column: Any, depth: int) -> tuple[int, Any]:
    """Return form and content of a column that was decoded."""
    match column:
        case [0, array] if getattr(array, "ndim", 0):
            return STACKED, array
        case [1, dict() as fields] if fields and depth < _MAX_DEPTH:
            return FIELDS, fields
        case [2, list() as payloads] if depth == 0:
            return APART, payloads
    raise ProtocolError("a column is [form, content] of form 0, 1 or 2")


def _ext(array: Array) -> msgspec.msgpack.Ext:
    made = to_ext(array)
    assert made is not None
    return msgspec.msgpack.Ext(*made)


def _cut(column: Any, count: int, rows: Array, depth: int = 0) -> list[Any]:
    form, content = _content(column, depth)
    if form == FIELDS:
        parts = {name: _cut(field, count, rows, depth + 1) for name, field in content.items()}
        return [FIELDS, parts]
    if len(content) != count:
        raise ProtocolError(f"a column of {len(content)} rows in a frame of {count}")
    if form == APART:
        return [form, [content[row] for row in rows.tolist()]]
    return [form, _ext(content[rows])]


@lru_cache(maxsize=64)
def _range(count: int) -> Array:
    """Return the rows of a frame: intp [count], which must not be written."""
    import numpy as np

    return np.arange(count)
