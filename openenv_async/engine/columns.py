"""The column frames of one connection: many sessions stepped by one frame, answered by one.

Rules:

- A row counts as a request of its session. One that is next, of a session that is idle, is taken
  here, together with the others; any other row goes its session's way as a request of its own:
  one that is resent, leaves a gap, is of a busy, closing, traced or unknown session, or has the
  deadline of an episode.
- Rows run here, straight from the loop, where steps do. An executor that is a ``RowExecutor`` is
  given them as a batch; of any other each row is a request.
- A frame is run in parts, so long as no part holds the loop for long: the size follows the time
  that rows took and the bytes of their replies. The connection turns to others between two parts.
- The reply of a part is kept once, for all its sessions, also while some of them have gone on
  without the others: rows that are reset go on alone, and step with all again. Of a connection at
  most ``_MAX_WHOLE`` replies are kept so, and ``_MAX_LEFT`` that only some sessions still need; the
  oldest become each session's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from openenv_async.engine.deadlines import due_at
from openenv_async.engine.interfaces import RowExecutor
from openenv_async.engine.requests import Codecs
from openenv_async.engine.resends import remembered
from openenv_async.engine.rows import BEGINS, Ends, Progress, RowCall, RowReplies, Stack, run_rows
from openenv_async.engine.runner import EnvironmentRunner, row_field
from openenv_async.errors import OpenEnvError
from openenv_async.models.depth import check_msgpack_containers
from openenv_async.models.making import Maker, maker_of
from openenv_async.protocol.blocks import REFERENCE_SIZE
from openenv_async.protocol.codec import frame_size
from openenv_async.protocol.column_parts import observations_of_rows
from openenv_async.protocol.columns import (
    AGAIN,
    StepRows,
    begun_of,
    channels_of,
    pack_channels,
    pack_numbers,
    replies_of,
)
from openenv_async.protocol.frames import Begun, ObservationColumns, Reply, Reset, Step, StepColumns
from openenv_async.protocol.replies import Kept, ReplyLog, SharedReply, keep_shared

if TYPE_CHECKING:
    from openenv_async.engine.connection import ServerConnection
    from openenv_async.engine.session import Session

__all__ = ["BegunRows", "Columns"]

_MAX_GROUPS: Final = 8
"""Sets of sessions that are remembered, those used last; a client steps one or two all the time."""
_MAX_WHOLE: Final = 8
"""Replies of a connection that are kept as one."""
_MAX_LEFT: Final = 2
"""Such replies that not all of their sessions need any more."""
_LEAST: Final = 16
"""Rows of a part at least."""
_LONG: Final = 0.005
"""Seconds that a part may take."""
_FRAMES: Final = 4
"""Frames of which the fastest says how long a row takes."""
_MOST_OF_END: Final = 1 << 14
"""Bytes of an episode's last observation that travels with the first one of the next."""
_MARGIN: Final = 256
"""Bytes of a message beside what its one frame is counted with."""
_TAKEN_AS_THEY_ARE: Final = frozenset({bool, int, float})


class _Part:
    """Sessions of a group whose rows run together.

    Attributes:
        rows: which rows of the frame they are.
        places: their numbers among themselves.
        packed: their channels.
        reply: what they were answered with last.
        note: of the executor that runs them elsewhere.
    """

    __slots__ = ("calls", "logs", "note", "packed", "places", "reply", "rows", "sessions")

    def __init__(self, rows: Sequence[int], channels: Sequence[int], sessions: list[Session]):
        self.rows = rows
        self.sessions = sessions
        self.logs = [session.log for session in sessions]
        self.places = list(range(len(rows)))
        self.note: Any = None
        self.packed = pack_channels([channels[row] for row in rows])
        self.calls: list[RowCall] = []
        self.reply: _Answer | None = None


class _Group:
    """The sessions of a frame.

    Attributes:
        channels: of all its rows.
        rows: those that may run together.
        alone: those that are requests of their own.
        size: rows of a part.
        parts: ``rows``, in parts of that size.
    """

    __slots__ = ("alone", "channels", "parts", "rows", "size")

    def __init__(self, channels: list[int], rows: Sequence[int], alone: Sequence[int]) -> None:
        self.channels = channels
        self.rows = rows
        self.alone = alone
        self.size = 0
        self.parts: list[_Part] = []


class _Answer(SharedReply[Reply]):
    """The replies to some rows of a frame, as one, and the requests as they came.

    Attributes:
        reply: to all of them.
        left: sessions that may have nothing newer.
    """

    __slots__ = ("_asked", "_each", "_logs", "_rows", "left", "reply")

    def __init__(
        self,
        logs: Sequence[ReplyLog[Reply]],
        rows: Sequence[int],
        asked: StepRows,
        reply: ObservationColumns,
    ) -> None:
        self._logs = logs
        self._rows = rows
        self._asked = asked
        self._each: dict[int, tuple[int, Reply]] = {}
        self.left = len(logs)
        self.reply = reply

    def of(self, log: ReplyLog[Reply]) -> Kept[Reply]:
        """Return the reply to one session, and its request."""
        if not self._each:
            pairs = zip(self._rows, replies_of(self.reply), strict=True)
            self._each = {id(one): pair for one, pair in zip(self._logs, pairs, strict=True)}
        row, reply = self._each[id(log)]
        size = len(reply.payload)  # type: ignore[union-attr,arg-type]  # it has one
        if type(reply) is Begun and reply.final is not None:
            size += len(reply.final)
        return Kept(reply, size, "msgpack", remembered(self._asked.request(row)))

    def settle(self) -> None:
        """Let each session that still keeps it keep its own part."""
        for log in self._logs:
            log.settle(self)
        self._each = {}


class _Work:
    """A frame that is being run.

    Attributes:
        at: the part that is next.
        spent: seconds that those before it took.
        stale: the sessions on the channels have changed since it began.
    """

    __slots__ = ("actions", "asked", "at", "frame", "group", "read", "spent", "stale")

    def __init__(
        self,
        frame: StepColumns,
        group: _Group,
        asked: StepRows,
        actions: list[Any],
        read: Callable[[Any], Any] | None,
    ) -> None:
        self.frame = frame
        self.group = group
        self.asked = asked
        self.actions = actions
        self.read = read
        self.at = 0
        self.spent = 0.0
        self.stale = False


class BegunRows:
    """Rows that an executor runs: its ``RowBatch``.

    Attributes:
        actions: of each row, encoded or not, as ``run`` reads them.
        part: the part that they are, where all of its rows were taken.
    """

    __slots__ = (
        *("_asked", "_columns", "_read", "_runs"),
        *("actions", "calls", "codecs", "count", "frame", "note", "part", "places", "requests"),
    )

    def __init__(self, columns: Columns, work: _Work, codecs: Codecs) -> None:
        self._columns = columns
        self._asked = work.asked
        self.actions: Sequence[Any] = ()
        self.part: _Part | None = None
        self.note: Any = None
        self._read = work.read
        self._runs: list[Progress] = []
        self.calls: Sequence[Session] = ()
        self.requests: Sequence[Step | Reset] = ()
        self.places: Sequence[int] = ()
        self.frame = work.frame
        self.count = len(work.asked.channels)
        self.codecs = codecs

    def run(self, claims: Iterator[int] | None = None, most: int | None = None) -> RowReplies:
        """Run rows here and now, in any thread; never raises."""
        calls = [] if self.part is None else self.part.calls
        if not calls:
            calls = self._columns.calls(self.calls)
            if self.part is not None:
                self.part.calls = calls
        codecs = self.codecs
        columns, rows, count = self._columns, self.places, most or len(calls)
        stack = columns.stack(count, codecs)
        progress = Progress(stack, columns.ends(self._asked, rows, count, codecs))
        self._runs.append(progress)
        request = self.requests.__getitem__
        return run_rows(calls, self.actions, request, codecs, stack, self._read, claims, progress)

    def finished(self) -> list[RowReplies]:
        """Return the replies that are there while ``run`` runs others; on the loop."""
        given = [progress.finished() for progress in self._runs]
        return [replies for replies in given if replies.rows or replies.others]

    def complete(self, replies: RowReplies) -> None:
        """Hand over replies to some of the rows; on the loop, in any number of parts."""
        self._columns.complete(self, self._asked, replies)

    def complete_whole(self, replies: RowReplies) -> bool:
        """Hand over replies if they are one to all rows; in any thread.

        Nothing else may use the connection meanwhile.

        Returns:
            Whether they are; if not, nothing was done.
        """
        return not replies.others and self._columns.complete_whole(self, self._asked, replies)


class Columns:
    """The column frames of one connection.

    Args:
        connection: the connection; its sessions are those on its channels.
        send: sends a frame with so many bytes of payload.
        alone: handles a request of a session.
        spoilt: answers requests that cannot be read: channels, numbers and the error.
        max_size: bytes of a reply.
    """

    def __init__(
        self,
        connection: ServerConnection,
        channels: dict[int, Session],
        alone: Callable[[Step | Reset], None],
        spoilt: Callable[[StepRows, OpenEnvError], None],
        max_size: int,
    ) -> None:
        engine = self._engine = connection.engine
        self._connection = connection
        self._channels = channels
        self._alone = alone
        self._spoilt = spoilt
        self._max_size = max_size - _MARGIN
        self._executor = engine.executor
        executor: Any = self._executor
        self._executor_of_rows = executor if isinstance(executor, RowExecutor) else None
        self._together = (
            executor.direct or self._executor_of_rows is not None
        ) and not engine.times_episodes
        self._takes: Any = engine.spec.types["action"]
        self._field = row_field(engine.spec)
        self._shows: Any = engine.spec.types["observation"]
        self._maker = None if self._field is not None else maker_of(self._takes)
        limits = engine.options.limits
        self._max_channels = limits.max_channels
        self._max_containers = limits.max_containers
        self._groups: dict[bytes, _Group] = {}
        self._whole: dict[_Answer, None] = {}
        self._left: dict[_Answer, None] = {}
        self._work: _Work | None = None
        self._size = _LEAST
        self._costs: deque[float] = deque(maxlen=_FRAMES)
        self._row_size = 0.0

    def forget(self) -> None:
        """Look the sessions of each frame up again: what is on the channels has changed."""
        self._groups.clear()
        if self._work is not None:
            self._work.stale = True

    def lost(self) -> None:
        """Take notice that the connection is gone: each session keeps what is its own."""
        self._work = None
        self._groups.clear()
        for answer in (*self._left, *self._whole):
            self._settle(answer)

    def take(self, frame: StepColumns) -> bool:
        """Run a frame, or a part of it.

        Returns:
            Whether that was all of it; else call again with the same.

        Raises:
            ProtocolError: it is not known which sessions it is about.
        """
        work = self._work
        if work is None or work.frame is not frame:
            work = self._begin(frame)
            if work is None:
                return True
        group = work.group
        if work.at < len(group.parts):
            part = group.parts[work.at]
            work.at += 1
            begun = perf_counter()
            if work.stale:
                for row in part.rows:
                    self._alone(work.asked.request(row))
            elif self._executor_of_rows is None:
                self._run(part, work)
            else:
                self._start(part, work)
            work.spent += perf_counter() - begun
        if work.at < len(group.parts):
            self._work = work
            return False
        self._work = None
        for row in group.alone:
            self._alone(work.asked.request(row))
        if group.rows:
            self._measure(group, work.spent)
        return True

    # -- a frame ------------------------------------------------------------------------------

    def begin_whole(self, frame: StepColumns) -> BegunRows | None:
        """Begin all rows of a frame as one batch, which is given to no executor.

        Returns:
            ``None`` where ``take`` is to run them, and nothing was done: for a set of sessions that
            is not known, rows that do not run together, have deadlines, or are not next.
        """
        if frame.timeout is not None or frame.reset_timeout is not None:
            return None
        group = self._groups.get(bytes(frame.channels))
        if group is None or group.alone or len(group.parts) != 1:
            return None
        part, executor = group.parts[0], self._executor
        try:
            work = self._read(StepRows(frame, group.channels), group)
            requests = work.asked.requests()
        except OpenEnvError:
            return None
        for session, log, request in zip(part.sessions, part.logs, requests, strict=True):
            if (
                log.taken + 1 != request.seq
                or session.current is not None
                or session.executor is not executor
            ):
                return None
        batch = BegunRows(self, work, self._connection.codecs)
        for session, log, request in zip(part.sessions, part.logs, requests, strict=True):
            log.taken = request.seq
            session.current = request
            session.codecs = batch.codecs
        batch.part, batch.note = part, part.note
        batch.calls, batch.requests, batch.places = part.sessions, requests, part.rows
        batch.actions = work.actions
        return batch

    def _begin(self, frame: StepColumns) -> _Work | None:
        key = bytes(frame.channels)
        group = self._groups.pop(key, None)
        if group is None:
            group = self._group(key)
        else:
            self._groups[key] = group  # that was used last goes last
        if group.size != self._size and (len(group.parts) > 1 or len(group.rows) > self._size):
            self._divide(group)
        asked = StepRows(frame, group.channels)
        try:
            return self._read(asked, group)
        except OpenEnvError as exc:
            self._spoilt(asked, exc)
            return None

    def _read(self, asked: StepRows, group: _Group) -> _Work:
        """Read a frame.

        Raises:
            OpenEnvError: it cannot be read.
        """
        frame = asked.frame
        if len(frame.payload) > self._max_containers:
            check_msgpack_containers(frame.payload, self._max_containers)
        asked.read()
        actions, read = self._actions(asked)
        return _Work(frame, group, asked, actions, read)

    def _actions(self, asked: StepRows) -> tuple[list[Any], Callable[[Any], Any] | None]:
        """Return the actions of the rows, and what reads those that are not what a step takes."""
        actions, read = self._told(asked)
        if asked.begins:
            steps = iter(actions)
            actions = [BEGINS if begins else next(steps) for begins in asked.begins]
        return actions, read

    def _told(self, asked: StepRows) -> tuple[list[Any], Callable[[Any], Any] | None]:
        """Return the action of each row that steps, and what reads it."""
        takes, maker, field = self._takes, self._maker, self._field
        if self._executor_of_rows is not None:
            asked.payloads()
        if takes is Any or takes in _TAKEN_AS_THEY_ARE:
            elements = asked.elements()
            if elements is not None and (
                takes is Any or not elements or type(elements[0]) is takes
            ):
                return elements, None
        elif maker is not None or field is not None:
            values = asked.fields()
            if values is not None:
                if field is not None and [*values] == [field]:
                    return values[field], None
                if maker is not None and values.keys() == {*maker.names}:
                    return self._made(maker, values)
        return list(asked.payloads()), self._decode

    def _made(
        self, maker: Maker, values: dict[str, list[Any]]
    ) -> tuple[list[Any], Callable[[Any], Any]]:
        """Return the fields of each action, and what makes an action of them."""
        names, make, fits, floats = maker
        decode, encode = self._decode, self._connection.codecs.encode_any
        rows = [*zip(*(values[name] for name in names), strict=True)]

        def decoded(fields: tuple[Any, ...]) -> Any:
            return decode(encode(dict(zip(names, fields, strict=True))))

        def made(fields: tuple[Any, ...]) -> Any:
            action = make(*fields)
            return action if fits is None or fits(action) else decoded(fields)

        is_int = any(type(value) is int for name in floats for value in values[name][:1])
        return rows, decoded if is_int else made

    def _decode(self, payload: bytes) -> Any:
        if len(payload) > self._max_containers:
            check_msgpack_containers(payload, self._max_containers)
        action = self._connection.codecs.decode_action(payload)
        return action if self._field is None else getattr(action, self._field)

    def calls(self, sessions: Sequence[Session]) -> list[RowCall]:
        """Return the ways into the environments of sessions."""
        field = self._field
        return [RowCall(each.runner, *each.runner.row_step(field)) for each in sessions]

    def stack(self, count: int, codecs: Codecs) -> Stack:
        """Return what gathers so many of their observations."""
        return Stack(count, codecs.encode_observation, 0, self._field, self._shows, codecs.place)

    def ends(self, asked: StepRows, rows: Sequence[int], count: int, codecs: Codecs) -> Ends | None:
        """Return what takes the ends of episodes of so many rows, where they go on by themselves.

        Args:
            asked: the frame.
            rows: of the frame, those that are run.
            count: how many of these there may be in one reply.
            codecs: of the payloads.
        """
        if not asked.goes_on:
            return None
        stack = Stack(count, codecs.encode_observation, 0, self._field, self._shows)
        most = min(_MOST_OF_END, self._max_size // 4)  # it goes with its row, and is not cut
        return Ends(stack, lambda row: asked.again(rows[row]), most)

    def _group(self, key: bytes) -> _Group:
        channels = channels_of(key, self._max_channels)
        sessions = [self._channels.get(channel) for channel in channels]
        rows: Sequence[int] = ()
        alone: Sequence[int] = range(len(channels))
        if self._together:
            rows = [row for row, session in enumerate(sessions) if self._may_run(session)]
            taken = set(rows)
            alone = [row for row in alone if row not in taken]
        group = _Group(channels, rows, alone)
        self._divide(group)
        if not (alone and rows):
            if len(self._groups) >= _MAX_GROUPS:
                del self._groups[next(iter(self._groups))]
            self._groups[key] = group
        return group

    def _may_run(self, session: Session | None) -> bool:
        """Return whether rows of this session may run with others."""
        if session is None or type(session.runner) is not EnvironmentRunner:
            return False
        return self._executor_of_rows is not None or session.runner.env is not None

    def _divide(self, group: _Group) -> None:
        """Make parts of the size that rows now allow."""
        rows, channels = group.rows, group.channels
        group.size = self._size
        count = -(-len(rows) // self._size)
        size = -(-len(rows) // count) if count else 0
        group.parts = []
        for start in range(0, len(rows), size or 1):
            chosen = rows[start : start + size]
            sessions: Any = [self._channels[channels[row]] for row in chosen]
            group.parts.append(_Part(chosen, channels, sessions))

    def _measure(self, group: _Group, spent: float) -> None:
        """Choose the size of parts by what the rows of the last frames took."""
        rows = len(group.rows)
        self._costs.append(spent / rows)
        cost = min(self._costs)  # one frame may have waited for others on the machine
        size = float(self._max_channels)
        if cost > 0:
            size = min(size, _LONG / cost)
        if self._row_size:
            size = min(size, self._max_size / self._row_size)
        if size >= 2 * self._size or size * 2 <= self._size:
            self._size = max(_LEAST, int(size))

    # -- rows that run here ---------------------------------------------------------------------

    def _run(self, part: _Part, work: _Work) -> None:
        """Run the rows of a part straight from the loop."""
        asked, executor = work.asked, self._executor
        codecs, now = self._connection.codecs, self._engine.clock()
        rows, sessions, logs = part.rows, part.sessions, part.logs
        calls = part.calls
        if not calls:
            calls = part.calls = self.calls(sessions)
        seqs, actions = asked.seqs, work.actions
        if len(rows) != len(asked.channels):
            seqs, actions = [seqs[row] for row in rows], [actions[row] for row in rows]
        left: list[int] = []
        for at, (session, log, seq) in enumerate(zip(sessions, logs, seqs, strict=True)):
            if log.taken + 1 == seq and session.current is None and session.executor is executor:
                log.taken = seq
                session.codecs = codecs
                session.active_at = now
            else:
                left.append(at)
        behind = [rows[at] for at in left]
        if left:
            taken = sorted({*range(len(rows))}.difference(left))
            rows, sessions, logs = _only(taken, rows), _only(taken, sessions), _only(taken, logs)
            calls, seqs, actions = _only(taken, calls), _only(taken, seqs), _only(taken, actions)
        request, stack = asked.request, self.stack(len(calls), codecs)
        replies = run_rows(
            calls,
            actions,
            lambda row: request(rows[row]),
            codecs,
            stack,
            work.read,
            None,
            Progress(stack, self.ends(asked, rows, len(calls), codecs)),
        )
        later = self._engine.clock()
        if later - now > _LONG:
            for session in sessions:
                session.active_at = later
        if replies.columns is not None:
            columns = replies.columns
            if len(replies.rows) < len(rows):
                ok = replies.rows
                answered, ok_seqs = _only(ok, sessions), _only(ok, seqs)
                self._answer(part, asked, columns, answered, _only(ok, rows), ok_seqs)
            else:
                self._answer(part, asked, columns, sessions, rows, seqs)
        for at, reply in replies.others:
            log = logs[at]
            log.acknowledge(seqs[at] - 1)
            sessions[at].complete(request(rows[at]), reply)
        for row in behind:
            self._alone(request(row))

    def _answer(
        self,
        part: _Part | None,
        asked: StepRows,
        reply: ObservationColumns,
        sessions: Sequence[Session],
        rows: Sequence[int],
        seqs: Sequence[int],
    ) -> None:
        """Keep and send the replies to rows that were taken."""
        whole = part is not None and len(rows) == len(part.rows)
        if part is not None and whole:
            logs: Sequence[ReplyLog[Reply]] = part.logs
            reply.channels = part.packed
        else:
            logs = [session.log for session in sessions]
            reply.channels = pack_channels([asked.channels[row] for row in rows])
        one = len(asked.frame.seqs) == 8 or len(rows) == len(asked.channels)
        reply.seqs = asked.frame.seqs if one else pack_numbers(seqs)
        answer = _Answer(logs, rows, asked, reply)
        before = None if part is None else part.reply
        if part is not None:
            part.reply = answer
        let_go: dict[Any, int] = keep_shared(logs, seqs, answer, before)
        for other, count in let_go.items():
            self._whole.pop(other, None)
            other.left -= count
            if other.left:
                self._left[other] = None
            else:
                self._left.pop(other, None)
        following = self._engine.following
        if following.records:
            following.answered_together(logs, answer)
        self._whole[answer] = None
        while len(self._whole) > _MAX_WHOLE:
            self._settle(next(iter(self._whole)))
        while len(self._left) > _MAX_LEFT:
            self._settle(next(iter(self._left)))
        steps = len(rows)
        if reply.begun is not None:
            for at, episode_id, _ in begun_of(reply.begun):
                sessions[at].runner.episode_id = episode_id
                steps -= not reply.flags[at] & AGAIN  # which are steps, too
        self._engine.stats.steps += steps
        self._send(reply, sessions, seqs)

    def _settle(self, answer: Any) -> None:
        self._whole.pop(answer, None)
        self._left.pop(answer, None)
        answer.settle()

    def _send(
        self, reply: ObservationColumns, sessions: Sequence[Session], seqs: Sequence[int]
    ) -> None:
        """Send replies, in frames of the size that the connection takes."""
        size, rows = frame_size(reply), len(sessions)
        if self._connection.is_shared(reply.payload):  # a reference is sent in its place
            size = REFERENCE_SIZE
        self._row_size = size / rows
        if size <= self._max_size:
            self._connection.send(reply, len(reply.payload))
            return
        if rows == 1:
            for session, row in zip(sessions, replies_of(reply), strict=True):
                session.send(row)
            return
        import numpy as np

        step = min(max(1, rows * self._max_size // size), -(-rows // 2))
        for start in range(0, rows, step):
            some = sessions[start : start + step]
            numbers = seqs[start : start + step]
            places = np.arange(start, start + len(some))
            channels = [session.channel for session in some]
            piece = observations_of_rows(reply, rows, places, channels, numbers)
            self._send(piece, some, numbers)

    # -- rows that run elsewhere ----------------------------------------------------------------

    def _start(self, part: _Part, work: _Work) -> None:
        """Give the rows of a part to the executor."""
        asked, executor = work.asked, self._executor
        batch = BegunRows(self, work, self._connection.codecs)
        codecs, rows, sessions, actions = batch.codecs, part.rows, part.sessions, work.actions
        requests = asked.requests()
        if len(rows) != len(requests):
            requests, actions = _only(rows, requests), _only(rows, actions)
        left: list[int] = []
        for at, (session, log, request) in enumerate(
            zip(sessions, part.logs, requests, strict=True)
        ):
            seq = request.seq
            if (
                log.taken + 1 != seq
                or session.current is not None
                or session.executor is not executor
            ):
                left.append(at)
                continue
            log.taken = seq
            session.current = request
            session.codecs = codecs
        behind = _only(left, requests)
        if left:
            taken = sorted({*range(len(rows))}.difference(left))
            rows, sessions = _only(taken, rows), _only(taken, sessions)
            requests, actions = _only(taken, requests), _only(taken, actions)
        else:
            batch.part, batch.note = part, part.note
        if sessions:
            batch.calls, batch.requests, batch.places = sessions, requests, rows
            batch.actions = actions
            if executor.timed:
                self._watch(batch)
            assert self._executor_of_rows is not None
            self._executor_of_rows.start_rows(batch)
            if batch.part is not None:
                part.note = batch.note
        for request in behind:
            self._alone(request)

    def _watch(self, batch: BegunRows) -> None:
        """Set the deadlines of the rows of a batch; those of episodes are none here."""
        engine, frame = self._engine, batch.frame
        now, timeouts, deadlines = engine.clock(), engine.own_timeouts, engine.deadlines
        of_steps = due_at(now, timeouts[Step], frame.timeout, inf)
        of_resets = due_at(now, timeouts[Reset], frame.reset_timeout, inf)
        if frame.again is not None:  # a step may be a reset as well
            of_steps += of_resets - now
        for session, request in zip(batch.calls, batch.requests, strict=True):
            session.due = due = of_steps if type(request) is Step else of_resets
            if due < session.scheduled:
                deadlines.watch(session, due)

    def complete(self, batch: BegunRows, asked: StepRows, replies: RowReplies) -> None:
        """Take back replies to rows of a batch from its executor."""
        now, connection = self._engine.clock(), self._connection
        calls, requests = batch.calls, batch.requests
        columns = replies.columns
        if self.complete_whole(batch, asked, replies):
            columns = None
        if columns is not None:
            together: list[int] = []  # places in the reply
            apart: list[int] = []
            for place, at in enumerate(replies.rows):
                session = calls[at]
                if session.current is not requests[at]:
                    continue  # it was answered, and waits for this no more
                if (
                    session.interrupted is not None
                    or session.deferred is not None
                    or session.sink is not connection
                ):
                    apart.append(place)
                else:
                    session.current = None
                    session.active_at = now
                    together.append(place)
            if apart:
                channels = pack_channels([requests[at].channel for at in replies.rows])
                numbers = [requests[at].seq for at in replies.rows]
                columns.channels, columns.seqs = channels, pack_numbers(numbers)
                each = replies_of(columns)
                for place in apart:
                    at = replies.rows[place]
                    calls[at].log.acknowledge(requests[at].ack)
                    calls[at].complete(requests[at], each[place])
            if together:
                import numpy as np

                chosen = [replies.rows[place] for place in together]
                sessions = [calls[at] for at in chosen]
                seqs = [requests[at].seq for at in chosen]
                if len(together) < len(replies.rows):
                    columns = observations_of_rows(
                        columns,
                        len(replies.rows),
                        np.array(together),
                        [session.channel for session in sessions],
                        seqs,
                    )
                rows = [batch.places[at] for at in chosen]
                self._answer(None, asked, columns, sessions, rows, seqs)
        for at, reply in replies.others:
            if calls[at].current is requests[at]:
                calls[at].log.acknowledge(requests[at].ack)
                calls[at].complete(requests[at], reply)

    def complete_whole(self, batch: BegunRows, asked: StepRows, replies: RowReplies) -> bool:
        """Take back the replies to all rows of a batch as one, if that is what they are."""
        columns, part, calls = replies.columns, batch.part, batch.calls
        if columns is None or part is None or replies.rows != part.places:
            return False
        if not self._end_all(calls, batch.requests, self._engine.clock()):
            return False
        seqs: Sequence[int] = asked.seqs
        if len(part.rows) != len(seqs):
            seqs = _only(part.rows, seqs)
        self._answer(part, asked, columns, calls, part.rows, seqs)
        return True

    def _end_all(
        self, calls: Sequence[Session], requests: Sequence[Step | Reset], now: float
    ) -> bool:
        """End the requests of all these sessions, if each may be answered with the others."""
        connection = self._connection
        for session, request in zip(calls, requests, strict=True):
            if (
                session.current is not request
                or session.interrupted is not None
                or session.deferred is not None
                or session.sink is not connection
            ):
                return False
        for session in calls:
            session.current = None
            session.active_at = now
        return True


def _only(places: Sequence[int], of: Any) -> Any:
    """Return what stands at these places."""
    return [of[place] for place in places]
