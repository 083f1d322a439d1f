"""The rows of a column frame, run in a tight loop into one reply.

It knows runners and neither sessions nor sockets, and runs wherever the environments live: on the
loop, in a thread, in another process.

Rules:

- A row does what a request of its own would do: the same checks, the same errors, the same counts.
- An error is the reply of its own row, and the others go on.
- An observation is put into the reply before the next environment is called, for an environment
  may use its array again. Arrays of one dtype and shape, numbers of one type and dicts of these
  are stacked; from the first observation on that does not fit, each is encoded on its own.
- The first observation tells where all others go: what is stacked is copied once, to where the
  column is sent from.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import struct
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from openenv_async.engine.requests import Codecs, RunnerReply, Unfinished
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.models.encoding import Place, fill
from openenv_async.models.results import Extracted
from openenv_async.protocol.blocks import LEAST_SHARED
from openenv_async.protocol.columns import (
    AGAIN,
    BEGUN,
    REWARDED,
    TERMINATED,
    TRUNCATED,
    apart,
    apart_heads,
    fields_heads,
    pack_pairs,
    stacked,
)
from openenv_async.protocol.frames import Failed, ObservationColumns, Payload, Reset, Step
from openenv_async.protocol.lifecycle import Phase

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["BEGINS", "Ends", "Progress", "RowCall", "RowReplies", "Stack", "Way", "run_rows"]

_encode: Final = msgspec.msgpack.Encoder().encode
BEGINS: Final = object()
"""Stands for the action of a row that begins an episode."""
_STACKABLE: Final = "biufc"
"""Kinds of arrays that are stacked."""
_MAX_NDIM: Final = 31
_MAX_DEPTH: Final = 8
_LEAST_INT: Final = -(2**63)
_MOST_INT: Final = 2**63 - 1
_NUMBERS: Final[dict[type, str]] = {bool: "|b1", int: "<i8", float: "<f8"}


class RowCall(NamedTuple):
    """The ways into one environment, looked up once.

    Attributes:
        runner: what runs it.
        step: a bound method that takes an action.
        known: readers of what ``step`` returns, by type; ``None`` where that is the five values
            of a ``StepResult``.
    """

    runner: EnvironmentRunner
    step: Callable[[Any], Any]
    known: dict[type, Callable[[Any], Any]] | None


@dataclass(slots=True)
class RowReplies:
    """The replies to some rows of a batch.

    Attributes:
        rows: those that ``columns`` answers, in its order.
        columns: their replies, addressed to nobody yet; ``None`` when there are none.
        others: rows with a reply of their own.
    """

    rows: list[int] = field(default_factory=list)
    columns: ObservationColumns | None = None
    others: list[tuple[int, RunnerReply | Unfinished]] = field(default_factory=list)


def run_rows(
    calls: Sequence[RowCall],
    actions: Sequence[Any],
    request: Callable[[int], Step | Reset],
    codecs: Codecs,
    stack: Stack,
    read_action: Callable[[Any], Any] | None = None,
    claims: Iterator[int] | None = None,
    progress: Progress | None = None,
) -> RowReplies:
    """Run rows, one after the other.

    Args:
        calls: the environment of each row.
        actions: the action of each row, or ``BEGINS``.
        request: returns the request that a row is, for what is not on the straight way.
        codecs: of the payloads.
        stack: takes the observations; it is used once.
        read_action: reads actions that are encoded still, or made of their fields.
        claims: the rows to run, of which others may take some; all where it is not given.
        progress: of ``stack``; gives what is finished before the rest is.

    Returns:
        The replies that nobody has taken from ``progress``.
    """
    import numpy as np

    array_type, running, begins = np.ndarray, Phase.RUNNING, BEGINS
    encode_info, put = codecs.encode_info, stack.put
    progress = progress or Progress(stack)
    rows, others, rewards = progress.rows, progress.others, progress.rewards
    flags, infos, ends = progress.flags, progress.infos, progress.ends
    out: Any = None
    dtype = shape = kind = store = None
    place = 0
    each: Iterable[tuple[int, RowCall, Any]]
    if claims is None:
        each = zip(range(len(calls)), calls, actions, strict=True)
    else:
        each = ((row, calls[row], actions[row]) for row in claims)
    for row, (runner, step, known), action in each:
        if action is begins:
            reset: Any = request(row)
            began = runner.begin_row(reset, codecs)
            if not isinstance(began, tuple):
                others.append((row, began))
                continue
            way = _entered(runner, reset, began, place, codecs, progress)
            if not isinstance(way, Way):
                dtype = kind = None  # the stack may have begun anew
                others.append((row, way))
                continue
            out, dtype, shape, kind, store = way
            _, reward, terminated, truncated, _ = began
            flag = BEGUN
        else:
            if runner.phase is not running:
                others.append((row, runner.handle(request(row), codecs)))
                continue
            if read_action is not None:
                try:
                    action = read_action(action)
                except BaseException as exc:
                    others.append((row, runner.refused_action(request(row), exc, codecs)))  # type: ignore[arg-type]  # a Step
                    continue
            try:
                result = step(action)
            except BaseException as exc:
                others.append((row, runner.raised(request(row), exc, codecs)))
                continue
            try:
                if known is not None:
                    try:
                        read = known[type(result)]
                    except KeyError:
                        read = runner.reader_of(type(result))
                    observation, reward, terminated, truncated, info = read(result)
                else:
                    observation, reward, terminated, truncated, info = result
                    if (
                        type(reward) is float
                        and type(terminated) is bool
                        and type(truncated) is bool
                        and type(info) is dict
                    ):
                        info = info or None
                    else:
                        observation, reward, terminated, truncated, info = runner.read_values(
                            result
                        )
                if (
                    type(observation) is array_type
                    and observation.dtype is dtype
                    and observation.shape == shape
                ):
                    out[place] = observation
                elif type(observation) is not kind or not store(place, observation):  # type: ignore[misc]  # there is one of a kind
                    out, dtype, shape, kind, store = put(place, observation)
                if info is not None:
                    infos.append((place, encode_info(info)))
            except BaseException as exc:
                dtype = kind = None  # the stack may have begun anew
                others.append((row, runner.unread(request(row), result, exc, codecs)))
                continue
            runner.steps += 1
            flag = 0
        if reward is None:
            rewards.append(0.0)
        else:
            rewards.append(reward)
            flag |= REWARDED
        if terminated or truncated:
            flag |= (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
            runner.end_row()
            if ends is not None and not flag & BEGUN:
                anew = _begun_again(runner, ends.request(row), observation, flag, codecs, progress)
                if anew is not None:
                    dtype = kind = None  # the stack may have begun anew
                    if not isinstance(anew, int):
                        others.append((row, anew))
                        continue
                    flag = anew
        flags.append(flag)
        rows.append(row)  # last: from now on it may be taken
        place += 1
    return progress.finished()


def _entered(
    runner: EnvironmentRunner,
    request: Reset,
    began: Extracted,
    place: int,
    codecs: Codecs,
    progress: Progress,
) -> Way | Failed:
    """Enter the beginning of an episode at a place.

    Returns:
        The ways for observations that are like its first, or the reply to a reset that gave what
        cannot be sent.
    """
    observation, _, _, _, info = began
    try:
        way = progress.put(place, observation)
        if info is not None:
            progress.infos.append((place, codecs.encode_info(info)))
    except BaseException as exc:
        return runner.unfit(request, exc, codecs)
    runner.begun_row()
    progress.begun.append((place, runner.episode_id or "", runner.seed or 0))
    return way


def _begun_again(
    runner: EnvironmentRunner,
    request: Reset,
    observation: Any,
    flag: int,
    codecs: Codecs,
    progress: Progress,
) -> int | RunnerReply | None:
    """Begin the next episode of the row that ended one, and put its beginning in the place of that.

    Args:
        runner: of the row.
        request: of the new episode.
        observation: the last one of the episode that ended.
        flag: of the step that ended it.
        codecs: of the payloads.
        progress: has the reward and info of that step, and takes the end.

    Returns:
        The flag of the row, an error in the place of its reply, or ``None`` where no episode was
        begun: then the row tells the end, as if nothing else had been asked for.
    """
    place, ends = len(progress.rows), progress.ends
    assert ends is not None
    infos = progress.infos
    try:
        ends.stack.put(len(ends.rows), observation)  # the environment may use its memory again
    except BaseException:  # it was encoded, or stacked, a moment ago
        return None
    if ends.stack.last_size > ends.most:
        return None
    began = runner.begin_row(request, codecs)
    if not isinstance(began, tuple):
        if isinstance(began, Unfinished):
            began.drop()
        return None
    last_reward = progress.rewards.pop()
    last_info = infos.pop()[1] if infos and infos[-1][0] == place else None
    way = _entered(runner, request, began, place, codecs, progress)
    if not isinstance(way, Way):
        return way
    if last_info is not None:
        ends.infos.append((len(ends.rows), last_info))
    ends.rewards.append(last_reward)
    ends.flags.append(flag)
    ends.rows.append(place)
    _, reward, terminated, truncated, _ = began
    progress.rewards.append(0.0 if reward is None else reward)
    if terminated or truncated:
        runner.end_row()
    return (
        BEGUN
        | AGAIN
        | (0 if reward is None else REWARDED)
        | (TERMINATED if terminated else 0)
        | (TRUNCATED if truncated else 0)
    )


class Ends:
    """The ends of episodes in whose place the next ones began.

    Args:
        stack: takes their observations.
        request: returns what begins the next episode of a row.
        most: bytes of an observation; an episode with a larger end is followed when that is asked.

    Attributes:
        rows: their places among the rows.
        rewards: of the steps that were the ends.
        flags: of the same.
        infos: of the same, by their place among the ends.
    """

    __slots__ = ("flags", "infos", "most", "request", "rewards", "rows", "stack")

    def __init__(self, stack: Stack, request: Callable[[int], Reset], most: int) -> None:
        self.stack = stack
        self.request = request
        self.most = most
        self.rows: list[int] = []
        self.rewards: list[float] = []
        self.flags = bytearray()
        self.infos: list[tuple[int, bytes]] = []

    def between(self, start: int, stop: int) -> bytes | None:
        """Return those of the rows at these places as a frame; ``None`` where there are none."""
        first, last = bisect_left(self.rows, start), bisect_left(self.rows, stop)
        if first == last:
            return None
        return _encode(_columns(self.stack, self.rewards, self.flags, self.infos, first, last))


def _columns(
    stack: Stack,
    rewards: Sequence[float],
    flags: bytearray,
    infos: Sequence[tuple[int, bytes]],
    start: int,
    stop: int,
) -> ObservationColumns:
    """Return the replies at these places, addressed to nobody."""
    return ObservationColumns(
        b"",
        b"",
        stack.column(start, stop),
        struct.pack(f"<{stop - start}d", *rewards[start:stop]),
        bytes(flags[start:stop]),
        pack_pairs([(place - start, info) for place, info in infos[:] if start <= place < stop]),
    )


class Progress:
    """Rows that one thread runs, and their replies so far.

    Args:
        stack: takes their observations.
        ends: of those that go on with the next episode; ``None`` where none does unasked.
    """

    __slots__ = (
        *("_lock", "_stack", "_taken"),
        *("begun", "ends", "flags", "infos", "others", "put", "rewards", "rows"),
    )

    def __init__(self, stack: Stack, ends: Ends | None = None) -> None:
        self._lock = threading.Lock()
        self._stack = stack
        self.put = stack.put
        self.ends = ends
        self._taken = 0
        self.rows: list[int] = []
        self.others: list[tuple[int, RunnerReply | Unfinished]] = []
        self.rewards: list[float] = []
        self.flags = bytearray()
        self.infos: list[tuple[int, bytes]] = []
        self.begun: list[tuple[int, str, int]] = []

    def finished(self) -> RowReplies:
        """Return the replies that were not returned before; in any thread."""
        with self._lock:
            start, stop, count = self._taken, len(self.rows), len(self.others)
            self._taken = stop
            others = self.others[:count]
            del self.others[:count]
        if start == stop:
            return RowReplies(others=others)
        columns = _columns(self._stack, self.rewards, self.flags, self.infos, start, stop)
        columns.begun = pack_pairs(
            [(place - start, *of) for place, *of in self.begun[:] if start <= place < stop]
        )
        columns.finals = None if self.ends is None else self.ends.between(start, stop)
        return RowReplies(self.rows[start:stop], columns, others)


class Way(NamedTuple):
    """Short ways of putting further observations that are like the last one.

    Attributes:
        array: may be given arrays of ``dtype`` and ``shape`` at their place; else ``None``.
        dtype: of such observations.
        shape: of such observations.
        kind: the type of observations that ``store`` takes; else ``None``.
        store: puts one at a place; tells whether it was like the last one.
    """

    array: Any = None
    dtype: Any = None
    shape: Any = None
    kind: type | None = None
    store: Callable[[int, Any], bool] | None = None


class Stack:
    """Observations of rows, gathered into a column. One thread puts them, any may read.

    Args:
        count: rows at most.
        encode: encodes an observation on its own; ``None`` for a part of one, which must be
            stacked.
        depth: maps around this part.
        field: what is put are the values of this one field of observations, or whole ones.
        model: the type of the latter.
        place: gives memory for a large column.
    """

    __slots__ = (
        *("_array", "_column", "_count", "_depth", "_encode", "_field", "_kind", "_like"),
        *("_lock", "_model", "_parts", "_place", "_room", "_values"),
    )

    def __init__(
        self,
        count: int,
        encode: Callable[[Any], bytes] | None = None,
        depth: int = 0,
        field: str | None = None,
        model: Any = None,
        place: Place | None = None,
    ) -> None:
        self._count = count
        self._encode = encode
        self._depth = depth
        self._field = field
        self._model = model
        self._place = place
        self._lock = threading.Lock()
        self._kind: Any = None
        self._column: Payload = b""
        self._like: Any = None  # an array that is like each element of this part
        self._room: Any = None  # where these are in the column
        self._array: Any = None  # the same, if they are arrays
        self._values: list[Any] = []
        self._parts: dict[str, Stack] = {}

    def put(self, place: int, observation: Any) -> Way:
        """Put the observation of a row at a place; what was there or behind it is forgotten.

        Returns:
            The ways for those that are like this one.

        Raises:
            InvalidModel: it cannot be encoded.
        """
        if self._field is not None and type(observation) is not self._model:
            observation = {self._field: observation}
        parts = observation
        read = _reader_of(cast(Any, type(observation)))
        if read is not None:
            names, fields_of = read
            parts = fields_of(observation)
            if parts.keys() != names:
                parts = None  # it has more than its fields, or fewer: the codec judges it
        with self._lock:
            fits = self._kind is not bytes and self._fit(place, parts)
            if place == 0 and not fits:
                self._begin(parts)
                fits = self._fit(place, parts)
        if fits:
            if self._field is not None:
                return self._parts[self._field]._way()
            return self._way(type(observation), None if read is None else fields_of)
        # Encoding may call what an author wrote: not under the lock.
        assert self._encode is not None
        payload = self._encode(observation)
        values = self._values
        if self._kind is not bytes:
            values = [self._encode(self._element(i)) for i in range(place)]
        del values[place:]
        values.append(payload)
        with self._lock:
            self._values, self._kind, self._array, self._parts = values, bytes, None, {}
            self._column, self._room = b"", None
        return _NO_WAY

    def _way(self, kind: Any = None, fields_of: Callable[[Any], Any] | None = None) -> Way:
        """Return the ways for what is like the last observation."""
        array = self._array
        if array is not None:
            return Way(array, array.dtype, array.shape[1:])
        if self._kind in _NUMBERS:
            return Way(kind=self._kind, store=_storing_numbers(self._values, self._kind))
        parts = self._parts
        targets = [part._target() for part in parts.values()]
        if not targets or None in targets:
            return _NO_WAY
        return Way(kind=kind or dict, store=_storing_fields([*parts], targets, fields_of))

    def _target(self) -> tuple[Any, Any, Any] | None:
        """Return where values go, their dtype or type, and their shape, which numbers have not."""
        if self._array is not None:
            return self._array, self._array.dtype, self._array.shape[1:]
        return (self._values, self._kind, None) if self._kind in _NUMBERS else None

    def _fit(self, place: int, observation: Any) -> bool:
        """Put an observation where it can be stacked with those before it."""
        kind = type(observation)
        if kind is not self._kind:
            return False
        if kind is dict:
            parts = self._parts
            if list(observation) != list(parts):
                return False
            return all(part._fit(place, observation[name]) for name, part in parts.items())
        if kind in _NUMBERS:
            del self._values[place:]
            self._values.append(observation)
            return kind is not int or _LEAST_INT <= observation <= _MOST_INT
        array = self._array
        if observation.dtype != array.dtype or observation.shape != array.shape[1:]:
            return False
        array[place] = observation
        return True

    def _begin(self, first: Any) -> None:
        """Choose what is stacked, and where, by the first observation."""
        import numpy as np

        if not self._choose(first):
            self._kind = None
            return
        rows = self._count
        leaves = [(part._head(before, rows), part) for before, part in self._leaves()]
        size = sum(len(head) + rows * part._like.nbytes for head, part in leaves)
        memory = self._column = _memory(size, len(leaves[0][0]), self._place)
        at = 0
        for head, part in leaves:
            start = at + len(head)
            memory[at:start] = head
            like = part._like
            room = part._room = np.ndarray((rows, *like.shape), like.dtype, memory, start)
            if part._kind is np.ndarray:
                part._array = room
            at = start + room.nbytes

    def _choose(self, first: Any) -> bool:
        """Return whether observations like this can be stacked, and remember what it is like."""
        import numpy as np

        kind = self._kind = type(first)
        self._array, self._values, self._parts = None, [], {}
        if kind is np.ndarray:
            self._like = first
            return first.dtype.kind in _STACKABLE and 0 < first.ndim <= _MAX_NDIM
        if kind in _NUMBERS:
            self._like = _number(cast(Any, kind))
            return True
        if kind is dict and first and self._depth < _MAX_DEPTH and {*map(type, first)} == {str}:
            self._parts = {name: Stack(0, None, self._depth + 1) for name in first}
            return all(part._choose(first[name]) for name, part in self._parts.items())
        return False

    def _leaves(self, before: bytes = b"") -> Iterator[tuple[bytes, Stack]]:
        """Give each part that is not a map, in order, and what stands before its own column."""
        if self._kind is not dict:
            yield before, self
            return
        heads = fields_heads(tuple(self._parts))
        for head, part in zip(heads, self._parts.values(), strict=True):
            yield from part._leaves(before + head)
            before = b""

    def _head(self, before: bytes, rows: int) -> bytes:
        """Return what stands before the elements of so many rows."""
        return before + _head(self._like.dtype, (rows, *self._like.shape))

    def _element(self, place: int) -> Any:
        if self._kind is dict:
            return {name: part._element(place) for name, part in self._parts.items()}
        return self._values[place] if self._array is None else self._array[place]

    @property
    def last_size(self) -> int:
        """Bytes of the observation that was put last."""
        if self._kind is bytes:
            return len(self._values[-1])
        return sum(part._like.nbytes for _, part in self._leaves())

    def column(self, start: int, stop: int) -> Payload:
        """Return the observations at these places as a column; there must be some."""
        pieces: list[Any] = []
        with self._lock:
            kind, values, column = self._kind, self._values, self._column
            for before, part in self._leaves() if kind is not bytes else ():
                room = part._room
                if part._array is None:
                    room[start:stop] = part._values[start:stop]
                pieces += part._head(before, stop - start), room[start:stop]
        if kind is bytes:
            payloads = values[start:stop]
            sizes = [*map(len, payloads)]
            if self._place is None or sum(sizes) < LEAST_SHARED:
                return apart(payloads)
            pieces = [*itertools.chain(*zip(apart_heads(sizes), payloads, strict=True))]
        elif stop - start == self._count:
            return column
        else:
            pieces = [p if type(p) is bytes else p.reshape(-1).view("u1") for p in pieces]
        memory = _memory(sum(map(len, pieces)), len(pieces[0]), self._place)
        fill(memory, pieces)
        return memory


@functools.cache
def _number(kind: type) -> Array:
    """Return an array that is like a number of this type."""
    import numpy as np

    return np.zeros((), _NUMBERS[kind])


def _memory(size: int, before: int, place: Place | None) -> memoryview:
    """Return memory for a column, ``before`` bytes of which stand before its first array."""
    if place is not None and size >= LEAST_SHARED:
        memory = place(size, before)
        if memory is not None:
            return memory
    return memoryview(bytearray(size))


_NO_WAY: Final = Way()


def _storing_numbers(values: list[Any], kind: type) -> Callable[[int, Any], bool]:
    """Return what puts numbers of a type into a list."""

    def store(place: int, value: Any) -> bool:
        if kind is int and not _LEAST_INT <= value <= _MOST_INT:
            return False
        values[place:] = (value,)  # one step, for others may read meanwhile
        return True

    return store


def _storing_fields(
    names: list[str],
    targets: Sequence[tuple[Any, Any, Any] | None],
    fields_of: Callable[[Any], Any] | None,
) -> Callable[[int, Any], bool]:
    """Return what puts the fields of an observation into lists and arrays.

    Args:
        names: of all fields, in their order.
        targets: what ``Stack._target`` says of each.
        fields_of: returns the fields of an observation; ``None`` where it is the map of them.
    """
    import numpy as np

    array_type = np.ndarray
    known = tuple(cast(tuple[Any, Any, Any], target) for target in targets)

    def store(place: int, observation: Any) -> bool:
        values = observation if fields_of is None else fields_of(observation)
        if [*values] != names:
            return False
        for value, (target, kind, shape) in zip(values.values(), known, strict=True):
            if shape is not None:
                if type(value) is not array_type or value.dtype is not kind or value.shape != shape:
                    return False
                target[place] = value
            elif type(value) is kind and (kind is not int or _LEAST_INT <= value <= _MOST_INT):
                target[place:] = (value,)
            else:
                return False
        return True

    return store


@functools.lru_cache(maxsize=1024)
def _reader_of(kind: Any) -> tuple[frozenset[str], Callable[[Any], dict[str, Any]]] | None:
    """The fields of a model that travels as the map of them, and what reads them off one.

    Returns:
        ``None`` for another type.
    """
    if issubclass(kind, msgspec.Struct):
        config, names = kind.__struct_config__, kind.__struct_fields__
        is_map = not config.array_like and config.tag is None and not config.omit_defaults
        if not is_map or not names or kind.__struct_encode_fields__ != names or config.dict:
            return None
        return frozenset(names), msgspec.structs.asdict
    if not dataclasses.is_dataclass(kind) or not getattr(kind, "__dictoffset__", 0):
        return None
    fields = frozenset(field.name for field in dataclasses.fields(kind))
    is_map = bool(fields) and not any(name.startswith("_") for name in fields)
    is_other = {dict, list, *_NUMBERS} & {*getattr(kind, "__mro__", ())}
    return (fields, operator.attrgetter("__dict__")) if is_map and not is_other else None


@functools.lru_cache(maxsize=256)
def _head(dtype: Any, shape: tuple[int, ...]) -> bytes:
    """Return what stands before the elements in a column of form 0."""
    import numpy as np

    # The elements of a broadcast array take no memory; those of the column do, once.
    column = stacked(np.broadcast_to(np.zeros((), dtype), shape))
    size = int(np.prod(shape)) * dtype.itemsize
    return column[: len(column) - size]
