"""The executor of worker processes without any: its workers only note what they are told."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec
import numpy as np
import pytest

from openenv_async.engine import EngineOptions
from openenv_async.engine.executors import processes
from openenv_async.engine.executors.processes import ProcessExecutor
from openenv_async.engine.requests import Codecs
from openenv_async.engine.resources import RESERVE, Resources
from openenv_async.engine.rows import RowReplies
from openenv_async.engine.runner import EnvironmentRunner, Telling, TracedRunner
from openenv_async.engine.statistics import EngineStats, StepTimer, TimedCodecs
from openenv_async.errors import EnvironmentDied, ProtocolError, ServerError
from openenv_async.protocol.columns import (
    REWARDED,
    apart,
    pack_channels,
    pack_numbers,
    replies_of,
    requests_of,
    stacked,
)
from openenv_async.protocol.frames import (
    Cancel,
    Close,
    Closed,
    Credit,
    Failed,
    Observation,
    ObservationColumns,
    Open,
    Opened,
    Partial,
    Reset,
    StateIs,
    Step,
    StepColumns,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.telemetry.tracing import TraceContext
from openenv_async.types import Limits
from tests.behaviours.environments import CommandedProcess
from tests.helpers import pack, token, unpack

SPEC = EnvironmentSpec(CommandedProcess)


class Noted:
    """Stands in for a worker process."""

    made: list[Noted]

    def __init__(self, number: int, recipe: bytes, name: str, silence: float, *calls: Any) -> None:
        self.number = number
        self.given = (recipe, name, silence)
        self.sessions: dict[int, Any] = {}
        self.shares: dict[bytes, Any] = {}
        self.retired = self.full = False
        self.stuck = 0
        self.kill_reason: Any = None
        self.exit_code = 3
        self.sent: list[Any] = []
        self.abandoned: list[Any] = []
        self.sweeper, self.returned, self.rows_returned, self.unsent, *others = calls
        self.reported, self.ended = others
        self.life = asyncio.get_running_loop().create_future()
        self.made.append(self)

    def adopt(self, call: Any) -> int:
        channel = len(self.sessions) + 10 * self.number
        self.sessions[channel] = call
        return channel

    def send(self, frame: Any) -> None:
        self.sent.append(frame)

    def abandon(self, call: Any) -> None:
        self.abandoned.append(call)

    def retire(self) -> None:
        self.retired = True

    def kill(self, why: Any) -> None:
        self.retired = True
        self.kill_reason = self.kill_reason or why

    def killed(self) -> bool:
        return self.kill_reason is not None

    def closed_reason(self) -> Any:
        return EnvironmentDied("it is gone")

    def last(self) -> Any:
        return self.sent[-1]


class Call:
    """A session as an executor sees it."""

    def __init__(self, format: Any = "msgpack", trace: TraceContext | None = None) -> None:
        self.codecs = Codecs(SPEC, format)
        self.runner: Any = EnvironmentRunner(SPEC)
        if trace is not None:
            self.runner = TracedRunner(SPEC, Telling(max_error_size=1000), trace)
        self.current: Any = None
        self.dead: Any = None
        self.slot: Any = None
        self.replies: list[Any] = []
        self.streams: list[int] = []
        self.emitted: list[Any] = []

    def complete(self, request: Any, reply: Any) -> None:
        assert request is self.current
        self.current = None
        self.replies.append(reply)

    def begin_stream(self, credit: int) -> None:
        self.streams.append(credit)

    def emit(self, payload: Any, whole: bool) -> bool:
        assert type(payload) is bytes
        self.emitted.append((payload, whole))
        return True

    def die(self, error: Any) -> None:
        self.dead = error


class Table:
    """An executor, and what it is asked."""

    def __init__(self, descriptors: float = 10_000, **options: Any) -> None:
        self.stats = EngineStats()
        self.left = descriptors
        resources = Resources(descriptors=lambda: self.left, clock=lambda: 0.0)
        self.executor = ProcessExecutor(
            SPEC, EngineOptions(**options), b"recipe", self.stats, resources
        )

    def ask(self, call: Any, request: Any) -> Any:
        call.current = request
        self.executor.start(call, request)
        return request

    def start_rows(self, batch: Any) -> None:
        self.executor.start_rows(batch)

    def opened(self, call: Any = None) -> tuple[Any, Noted]:
        """A session that is built, and its worker."""
        call = call or Call()
        self.ask(call, Open(1, token(1), token(2)))
        worker = call.slot.worker
        worker.returned(call, Opened(call.slot.channel))
        call.replies.clear()
        return call, worker


class Batch:
    """Rows of sessions, each with its own number, and what they are answered with."""

    def __init__(self, calls: list[Any], first: int = 0, **changes: Any) -> None:
        self.calls = calls
        self.codecs = calls[0].codecs
        count = self.count = first + len(calls)
        self.places = [*range(first, count)]
        seqs = [7 + place for place in range(count)]
        values = np.arange(count)
        frame = StepColumns(pack_channels(range(1, count + 1)), pack_numbers(seqs), stacked(values))
        frame.timeout, frame.reset_timeout = 4.0, 5.0
        self.frame = msgspec.structs.replace(frame, **changes)
        self.requests = [
            Step(place + 1, 7 + place, 6 + place, pack(place), 4.0) for place in self.places
        ]
        for call, request in zip(calls, self.requests, strict=True):
            call.current = request
        self.came: list[RowReplies] = []
        self.note: Any = None
        self.on_came: Any = None

    def complete(self, replies: RowReplies) -> None:
        self.came.append(replies)
        if self.on_came is not None:
            self.on_came(None)
            self.on_came = None


def replies(channels: list[int], seqs: list[int]) -> ObservationColumns:
    """Replies of a worker that say their channels."""
    count = len(channels)
    return ObservationColumns(
        pack_channels(channels),
        pack_numbers(seqs),
        stacked(np.array(channels)),
        np.ones(count).tobytes(),
        bytes([REWARDED] * count),
    )


def channels(calls: list[Any]) -> list[int]:
    return [call.slot.channel for call in calls]


@pytest.fixture(autouse=True)
async def workers(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    Noted.made = []
    monkeypatch.setattr(processes, "Child", Noted)
    return Noted.made


async def test_requests_are_numbered_anew_for_the_worker() -> None:
    table = Table()
    call, worker = table.opened()
    assert worker.given == (b"recipe", SPEC.name, 5.0)
    assert (worker.number, table.stats.workers_started) == (1, 1)
    channel = call.slot.channel
    for inner, outer in ((1, 7), (2, 12), (3, 13)):
        request = table.ask(call, Step(1, outer, outer - 1, pack({}), 4.0))
        assert worker.last() == Step(channel, inner, inner - 1, pack({}), 0)
        assert worker.last() is not request
        assert request == Step(1, outer, outer - 1, pack({}), 4.0)  # it may be asked for again
        worker.returned(call, Observation(channel, inner, pack({"n": inner})))
        [reply] = call.replies
        assert (reply.seq, unpack(reply.payload)) == (outer, {"n": inner})
        call.replies.clear()


async def test_an_opening_takes_its_trace_along() -> None:
    table = Table()
    trace = TraceContext("00-" + "1" * 32 + "-" + "2" * 16 + "-01", "a=b")
    call, worker = table.opened(Call(trace=trace))
    assert (worker.sent[0].traceparent, worker.sent[0].tracestate) == trace
    assert worker.sent[0].timeout == 0
    assert call.slot.seq == 0


async def test_only_the_reply_of_the_running_request_is_one() -> None:
    table = Table()
    call, worker = table.opened()
    channel = call.slot.channel
    worker.returned(call, Observation(channel, 1, pack({})))  # nothing runs
    request = table.ask(call, Step(1, 5, 4, pack({})))
    worker.returned(call, Observation(channel, 2, pack({})))
    worker.returned(call, Observation(channel, 0, pack({})))
    worker.returned(call, Opened(channel))
    assert call.replies == []
    call.dead = EnvironmentDied("gone")
    worker.returned(call, Observation(channel, 1, pack({})))
    assert (call.replies, call.current) == ([], request)


async def test_a_session_that_was_opened_does_not_hear_a_second_time() -> None:
    table = Table()
    call: Any = Call()
    table.ask(call, Open(1, token(1), token(2)))
    worker = call.slot.worker
    worker.returned(call, Observation(call.slot.channel, 1, pack({})))
    assert call.replies == []
    worker.returned(call, Opened(call.slot.channel))
    assert call.replies == [Opened(call.slot.channel)]


async def test_replies_come_in_the_format_of_their_request() -> None:
    table = Table()
    call, worker = table.opened(Call("json"))
    channel = call.slot.channel
    table.ask(call, Step(1, 1, 0, b"{}", credit=3))
    assert worker.last().payload == b"\x80"
    assert call.streams == [3]
    worker.returned(call, Partial(channel, 1, 0, pack({"a": 1})))
    worker.returned(call, Partial(channel, 9, 0, pack({"of": "another"})))
    assert call.emitted == [(b'{"a":1}', False)]
    worker.returned(call, Observation(channel, 1, pack({"b": 2})))
    [reply] = call.replies
    assert bytes(reply.payload) == b'{"b":2}'


async def test_what_cannot_be_converted_ends_its_request() -> None:
    table = Table()
    call, worker = table.opened(Call("json"))
    channel = call.slot.channel
    table.ask(call, Step(1, 1, 0, b"{}", credit=3))
    worker.returned(call, Partial(channel, 1, 0, b"\xc1"))
    assert worker.last() == Cancel(channel, 1)
    [refused] = call.replies
    assert isinstance(refused, Failed)
    assert call.emitted == []
    call.replies.clear()
    table.ask(call, Step(1, 2, 1, b"{}"))
    assert call.streams == [3]
    worker.returned(call, Observation(channel, 2, b"\xc1"))
    [refused] = call.replies
    assert isinstance(refused, Failed)
    assert refused.seq == 2


async def test_what_cannot_be_read_is_refused_before_a_worker_is_started() -> None:
    table = Table()
    call = Call("json")
    table.ask(call, Open(1, token(1), token(2), payload=b"{"))
    [refused] = call.replies
    assert (refused.seq, unpack(refused.payload, "json")["phase"]) == (0, "open")
    assert (call.slot, Noted.made) == (None, [])
    call, worker = table.opened(call)
    sent = len(worker.sent)
    table.ask(call, Step(1, 3, 2, b"["))
    [refused] = call.replies
    assert (refused.code, refused.seq) == ("invalid_action", 3)
    assert (len(worker.sent), call.slot.seq) == (sent, 0)


async def test_a_frame_that_was_not_sent_leaves_no_gap() -> None:
    table = Table()
    call, worker = table.opened()
    error = ProtocolError("it cannot be sent")
    table.ask(call, Reset(1, 4, 3))
    worker.unsent(call, Credit(call.slot.channel, 1, 1), error)
    assert call.replies == []
    worker.unsent(call, worker.last(), error)
    [refused] = call.replies
    assert (refused.code, refused.seq) == ("protocol_error", 4)
    assert call.slot.seq == 0
    worker.unsent(call, worker.last(), error)  # nothing runs
    assert (len(call.replies), call.slot.seq) == (1, 0)
    opening: Any = Call()
    table.ask(opening, Open(1, token(3), token(4)))
    worker = opening.slot.worker
    worker.unsent(opening, worker.last(), error)
    assert [reply.seq for reply in opening.replies] == [0]
    assert opening.slot.seq == 0


async def test_an_interruption_and_credit_are_passed_on() -> None:
    table = Table(limits=Limits(max_credit=50))
    call: Any = Call()
    assert table.executor.interrupt(call) is True
    table.executor.credited(call, 5)
    table.ask(call, Open(1, token(1), token(2)))
    worker = call.slot.worker
    assert table.executor.interrupt(call) is True
    assert len(worker.sent) == 1  # an opening cannot be cancelled there
    worker.returned(call, Opened(call.slot.channel))
    table.ask(call, Step(1, 4, 3, pack({}), credit=1))
    assert table.executor.interrupt(call) is True
    assert worker.last() == Cancel(call.slot.channel, 1)
    for units, sent in ((5, 5), (50, 50), (51, 50)):
        table.executor.credited(call, units)
        assert worker.last() == Credit(call.slot.channel, 1, sent)


async def test_a_worker_with_others_lives_on_when_a_call_is_abandoned() -> None:
    table = Table(workers=1)
    first, worker = table.opened()
    second, same = table.opened()
    assert same is worker
    table.executor.abandon(first)
    assert worker.abandoned == [first]
    assert not worker.killed()
    assert list(worker.sessions.values()) == [second]
    table.executor.abandon(second)
    assert worker.kill_reason is not None
    assert "hung past a deadline" in worker.kill_reason.message


async def test_sessions_go_to_the_emptiest_of_the_shared_workers() -> None:
    table = Table(workers=2)
    for sessions in range(1, 9):
        table.opened()
        counts = [len(worker.sessions) for worker in Noted.made]
        assert counts == [1] if sessions == 1 else max(counts) - min(counts) == sessions % 2
    assert table.executor.worker_count == 2
    first, second = Noted.made
    second.full = True
    assert table.opened()[1].number == 3  # in the place of the full one
    first.retired = True
    assert table.opened()[1].number == 4
    assert table.stats.workers_started == 4


async def test_a_session_has_a_worker_to_itself() -> None:
    table = Table()
    assert [table.opened()[1].number for _ in range(3)] == [1, 2, 3]


async def test_sessions_share_when_there_are_too_few_descriptors() -> None:
    table = Table(descriptors=RESERVE + 10, workers=3)
    _, worker = table.opened()
    assert table.opened()[1] is worker  # the next would take ten more
    alone = Table(descriptors=RESERVE + 9)
    call: Any = Call()
    alone.ask(call, Open(1, token(1), token(2)))
    [refused] = call.replies
    assert refused.code == "resource_limit"
    assert alone.executor.worker_count == 0


async def test_a_worker_ends_with_its_session_unless_it_is_shared() -> None:
    for shared, stuck, retired in ((None, 0, True), (1, 0, False), (1, 2, True)):
        table = Table(workers=shared)
        call, worker = table.opened()
        worker.stuck = stuck
        table.ask(call, Close(1, 1))
        worker.returned(call, Closed(call.slot.channel, 1))
        assert worker.retired == retired
        assert worker.sessions == {}


async def test_a_worker_with_stuck_calls_lives_as_long_as_its_sessions() -> None:
    table = Table(workers=1)
    call, worker = table.opened()
    other, _ = table.opened()
    worker.stuck = 1
    table.ask(call, Close(1, 1))
    worker.returned(call, Closed(call.slot.channel, 1))
    assert (worker.retired, list(worker.sessions.values())) == (False, [other])


async def test_a_session_that_could_not_be_built_leaves_its_worker() -> None:
    table = Table()
    call: Any = Call()
    table.ask(call, Open(1, token(1), token(2)))
    worker = call.slot.worker
    worker.returned(call, Failed(call.slot.channel, 0, "environment_start_failed", "no"))
    assert worker.retired
    assert [reply.code for reply in call.replies] == ["environment_start_failed"]


@pytest.mark.parametrize(("stuck", "full"), [(0, False), (2, False), (3, True)])
async def test_too_many_stuck_calls_fill_a_worker(
    caplog: pytest.LogCaptureFixture, stuck: int, full: bool
) -> None:
    table = Table(workers=1, limits=Limits(max_abandoned_calls=2))
    _, worker = table.opened()
    worker.stuck = stuck
    for _ in range(2):
        worker.reported(worker)
    assert (worker.full, worker.retired) == (full, False)
    assert len(caplog.records) == full  # told once
    worker.sessions.clear()
    worker.reported(worker)
    assert worker.retired == bool(stuck)


@pytest.mark.parametrize(
    ("retired", "killed", "died"), [(True, False, 0), (True, True, 1), (False, False, 1)]
)
async def test_the_sessions_of_a_dead_worker_are_over(
    retired: bool, killed: bool, died: int
) -> None:
    table = Table(workers=1)
    (one, worker), (two, _) = table.opened(), table.opened()
    worker.retired = retired
    worker.kill_reason = ServerError("it hung") if killed else None
    worker.ended(worker)
    assert isinstance(one.dead, EnvironmentDied)
    assert isinstance(two.dead, EnvironmentDied)
    assert (worker.sessions, worker.retired) == ({}, True)
    assert (table.executor.worker_count, table.stats.workers_died) == (0, died)


async def test_workers_are_retired_at_the_end_and_killed_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[Any] = []

    async def wait(lives: Any, timeout: float) -> None:
        waited.append((list(lives), timeout))
        first.ended(first)

    table = Table(workers=2)
    (_, first), (_, second) = table.opened(), table.opened()
    monkeypatch.setattr(asyncio, "wait", wait)
    await table.executor.aclose()
    [(lives, timeout)] = waited
    assert {id(life) for life in lives} == {id(first.life), id(second.life)}
    assert timeout == 5.0
    assert first.kill_reason is None
    assert second.kill_reason.message == "the server is closing"
    await Table().executor.aclose()  # nothing to wait for
    assert len(waited) == 1


async def test_a_timed_step_is_told_when_its_reply_is_here() -> None:
    table = Table()
    call, worker = table.opened()
    timer: Any = StepTimer()
    call.codecs = TimedCodecs(call.codecs, timer._samples)
    table.ask(call, Step(1, 1, 0, pack({})))
    worker.returned(call, StateIs(call.slot.channel, 9, b"\x80"))
    assert timer.histograms["env"].count == 0
    worker.returned(call, Observation(call.slot.channel, 1, pack({})))
    assert timer.histograms["env"].count == 1


# -- rows of column frames ------------------------------------------------------------------------


async def test_the_rows_of_each_worker_are_one_frame() -> None:
    table = Table(workers=2)
    sessions = [table.opened()[0] for _ in range(5)]
    table.start_rows(Batch(sessions, first=2))
    for worker in Noted.made:  # which of two that are as empty is taken first is not said
        mine = [call for call in sessions if call.slot.worker is worker]
        assert len(mine) in (2, 3)
        frame = worker.last()
        places = [2 + sessions.index(call) for call in mine]
        assert [*requests_of(frame, 10)] == [
            Step(call.slot.channel, 1, 0, pack(place), None)
            for call, place in zip(mine, places, strict=True)
        ]
        assert (frame.timeout, frame.reset_timeout) == (None, None)  # it has no clock of its own


async def test_rows_of_one_worker_pass_with_their_actions_as_they_came() -> None:
    table = Table(workers=1)
    sessions = [table.opened()[0] for _ in range(3)]
    batch = Batch(sessions)
    table.start_rows(batch)
    assert Noted.made[0].last().payload is batch.frame.payload
    assert Noted.made[0].last().timeout is None
    assert batch.frame.timeout == 4.0


async def test_a_single_row_is_a_request() -> None:
    table = Table()
    sessions = [table.opened()[0] for _ in range(2)]
    table.start_rows(Batch(sessions))
    assert [type(worker.last()) for worker in Noted.made] == [Step, Step]


async def test_replies_of_one_worker_come_back_as_one() -> None:
    table = Table(workers=1)
    sessions = [table.opened()[0] for _ in range(4)]
    [worker] = Noted.made
    batch = Batch(sessions)
    table.start_rows(batch)
    answer = replies(channels(sessions), [1] * 4)
    worker.rows_returned(worker, answer)
    assert [(each.rows, each.columns) for each in batch.came] == [([0, 1, 2, 3], answer)]


async def two_workers() -> tuple[Table, list[Any], Batch, list[tuple[Noted, list[int]]]]:
    """Rows that run in two workers, and which of them are whose."""
    table = Table(workers=2)
    sessions = [table.opened()[0] for _ in range(5)]
    batch = Batch(sessions)
    table.start_rows(batch)
    whose = [
        (worker, [row for row, call in enumerate(sessions) if call.slot.worker is worker])
        for worker in Noted.made
    ]
    return table, sessions, batch, whose


def answer(sessions: list[Any], worker: Noted, rows: list[int]) -> ObservationColumns:
    frame = replies([sessions[row].slot.channel for row in rows], [1] * len(rows))
    worker.rows_returned(worker, frame)
    return frame


def rows_came(batch: Batch) -> list[list[int]]:
    return [each.rows for each in batch.came]


async def test_replies_of_all_workers_go_on_as_one() -> None:
    _, sessions, batch, [(one, some), (two, rest)] = await two_workers()
    answer(sessions, one, some[:1])  # in pieces, and in any order
    answer(sessions, two, rest)
    assert not batch.came
    answer(sessions, one, some[1:])
    [came] = batch.came
    assert came.columns is not None
    assert came.rows == [0, 1, 2, 3, 4]
    came.columns.channels, came.columns.seqs = pack_channels(range(1, 6)), pack_numbers([1])
    found = [unpack(reply.payload) for reply in replies_of(came.columns)]
    assert found == channels(sessions)


async def test_replies_wait_a_moment_for_those_of_other_workers() -> None:
    _, sessions, batch, [(one, some), (two, rest)] = await two_workers()
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    batch.on_came = gone.set_result
    first = answer(sessions, one, some)
    assert not batch.came
    await gone
    assert [(each.rows, each.columns) for each in batch.came] == [(some, first)]
    answer(sessions, two, rest)
    assert rows_came(batch) == [some, rest]


async def test_replies_do_not_wait_for_rows_that_were_answered_or_given_up() -> None:
    table, sessions, batch, [(one, some), (two, rest)] = await two_workers()
    answer(sessions, one, some)
    alone, given_up, *left = [sessions[row] for row in (*rest, *some)][: len(rest)]
    two.returned(alone, Observation(alone.slot.channel, 1, pack({})))
    table.executor.abandon(given_up)
    if left:
        assert not batch.came
        answer(sessions, two, rest[2:])
    assert rows_came(batch) == [sorted({*some, *rest[2:]})]
    assert len(alone.replies) == 1


async def test_what_a_worker_answered_before_it_died_is_not_lost() -> None:
    _, sessions, batch, [(one, some), (two, _)] = await two_workers()
    answer(sessions, one, some)
    one.ended(one)
    assert rows_came(batch) == [some]
    two.ended(two)
    assert all(call.dead is not None for call in sessions)
    assert rows_came(batch) == [some]


async def test_large_replies_do_not_wait() -> None:
    table = Table(workers=2, limits=Limits(chunk_size=64))
    sessions = [table.opened()[0] for _ in range(4)]
    batch = Batch(sessions)
    table.start_rows(batch)
    mine = [row for row, call in enumerate(sessions) if call.slot.worker is Noted.made[0]]
    answer(sessions, Noted.made[0], mine)
    assert rows_came(batch) == [mine]


async def test_rows_of_the_same_sessions_are_divided_once() -> None:
    table = Table(workers=2)
    sessions = [table.opened()[0] for _ in range(4)]
    first, second = Batch(sessions), Batch(sessions)
    table.start_rows(first)
    second.note = first.note
    table.start_rows(second)
    assert second.note is first.note
    assert [worker.last().seqs for worker in Noted.made] == [pack_numbers([2])] * 2


async def test_replies_that_do_not_belong_together_are_taken_one_by_one() -> None:
    table = Table(workers=1)
    sessions = [table.opened()[0] for _ in range(4)]
    [worker] = Noted.made
    batch = Batch(sessions[:2])
    table.start_rows(batch)
    table.ask(sessions[2], Step(3, 5, 4, pack({})))
    worker.rows_returned(worker, replies(channels(sessions), [1, 1, 1, 1]))
    assert not batch.came
    assert [[reply.seq for reply in call.replies] for call in sessions] == [[7], [8], [5], []]


async def test_replies_of_an_earlier_number_are_for_nobody() -> None:
    table = Table(workers=1)
    sessions = [table.opened()[0] for _ in range(2)]
    [worker] = Noted.made
    batch = Batch(sessions)
    table.start_rows(batch)
    worker.rows_returned(worker, replies(channels(sessions), [0, 0]))
    worker.rows_returned(worker, replies([77, 78], [1, 1]))
    assert not batch.came
    assert not any(call.replies for call in sessions)


async def test_malformed_replies_are_told() -> None:
    table = Table(workers=1)
    _, worker = table.opened()
    with pytest.raises(ProtocolError):
        worker.rows_returned(worker, ObservationColumns(b"", b"", b"", b"", b""))


async def test_rows_that_cannot_be_cut_go_one_by_one() -> None:
    table = Table(workers=2)
    sessions = [table.opened()[0] for _ in range(4)]
    table.start_rows(Batch(sessions, payload=apart([])))
    assert all(type(frame) is Step for worker in Noted.made for frame in worker.sent[-2:])
    assert [call.slot.seq for call in sessions] == [1] * 4


async def test_the_time_of_rows_that_ran_elsewhere_is_noted() -> None:
    table = Table(workers=1)
    sessions = [table.opened()[0] for _ in range(2)]
    samples: Any = deque()
    batch = Batch(sessions)
    batch.codecs = TimedCodecs(batch.codecs, samples)
    table.start_rows(batch)
    Noted.made[0].rows_returned(Noted.made[0], replies(channels(sessions), [1, 1]))
    assert len(samples) == 1
