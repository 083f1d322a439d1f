"""Rows of column frames in threads and worker processes: as if each had come alone."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar, cast

import pytest

from openenv_async import EngineOptions, Timeouts
from openenv_async.engine.executors.rows import RowJobs
from openenv_async.engine.executors.threads import Job, ThreadPool
from openenv_async.engine.rows import RowReplies
from openenv_async.environment import Isolation
from openenv_async.protocol.columns import apart, pack_channels, pack_numbers, replies_of
from openenv_async.protocol.frames import (
    Cancel,
    Failed,
    Observation,
    ObservationColumns,
    Open,
    StepColumns,
)
from tests.behaviours.environments import Commanded, CommandedProcess, UnsafeByDefault
from tests.engine.executors.calls import HandLoop
from tests.engine.odd_rows import BEHAVIOURS, RESET, Odd, Row, in_columns, in_rows, told
from tests.helpers import Peer, make_engine, pack, token, unpack, until

COUNT = 6
ALL = range(len(BEHAVIOURS))


class OddThread(Odd):
    isolation: ClassVar[Isolation | None] = "thread"
    owns_thread = False


class OddProcess(OddThread):
    isolation: ClassVar[Isolation | None] = "process"


class OddUnsafe(OddThread):
    isolation: ClassVar[Isolation | None] = None
    thread_safe = False


@contextlib.asynccontextmanager
async def opened(env: Any, count: int = COUNT, **options: Any) -> AsyncIterator[Peer]:
    """A client with sessions on the channels from 1 on."""
    timeouts = options.pop("timeouts", Timeouts())
    engine = make_engine(env, options=EngineOptions(timeouts=timeouts, **options))
    peer = Peer(engine)
    try:
        peer.send(*(Open(n, token(n), token(n + 1000)) for n in range(1, count + 1)))
        for _ in range(count):
            await peer.next()
        yield peer
    finally:
        await engine.aclose()


async def answers(peer: Peer, count: int) -> list[Any]:
    """The next frames, until they answer so many rows."""
    frames: list[Any] = []
    while count:
        frame = await peer.next()
        frames.append(frame)
        count -= len(replies_of(frame)) if isinstance(frame, ObservationColumns) else 1
    assert count == 0
    return frames


def steps(seq: int, actions: list[dict[str, Any]], first: int = 1) -> StepColumns:
    channels = range(first, first + len(actions))
    column = apart([pack(action) for action in actions])
    return StepColumns(pack_channels(channels), pack_numbers([seq] * len(actions)), column)


def by_channel(frames: list[Any]) -> dict[int, Any]:
    each: dict[int, Any] = {}
    for frame in frames:
        for reply in replies_of(frame) if isinstance(frame, ObservationColumns) else [frame]:
            assert reply.channel not in each
            each[reply.channel] = reply
    return each


@pytest.mark.parametrize(
    ("env", "options"),
    [
        (OddThread, {}),
        (OddProcess, {"workers": 1}),
        (OddProcess, {"workers": 2}),
        (OddProcess, {}),
        (OddUnsafe, {"workers": 2}),
    ],
)
async def test_columns_do_what_their_rows_would(env: Any, options: dict[str, Any]) -> None:
    rng = random.Random(5)
    together = 0
    async with opened(env, **options) as first, opened(env, **options) as second:
        for seq in range(1, 30):
            drawn = [rng.choice([0, 0, 0, RESET, rng.choice(ALL)]) for _ in range(COUNT)]
            rows: list[Row] = [
                (n, seq, RESET if seq == 1 else action, rng.choice([0, rng.choice(ALL)]))
                for n, action in enumerate(drawn, 1)
            ]
            first.send(in_columns(rows, rng.choice([0, 1])))
            second.send(*in_rows(rows))
            came = await answers(first, COUNT)
            together += sum(
                len(replies_of(each)) > 1 for each in came if isinstance(each, ObservationColumns)
            )
            assert told(came) == told(await answers(second, COUNT))
        stats = [peer.engine.stats for peer in (first, second)]
        assert stats[0].steps == stats[1].steps
        assert stats[0].errors == stats[1].errors
    alone = env is OddProcess and not options  # a process to itself
    assert (together == 0) is alone


@pytest.mark.parametrize(("env", "options"), [(Commanded, {}), (CommandedProcess, {"workers": 1})])
async def test_a_row_that_hangs_holds_up_no_other(env: Any, options: dict[str, Any]) -> None:
    async with opened(env, timeouts=Timeouts(step=1.0), **options) as peer:
        peer.send(in_columns([(n, 1, RESET, 0) for n in range(1, COUNT + 1)]))
        await answers(peer, COUNT)
        actions: list[dict[str, Any]] = [{} for _ in range(COUNT)]
        actions[2] = {"do": "sleep", "seconds": 3.0}
        peer.send(steps(2, actions))
        others = by_channel(await answers(peer, COUNT - 1))
        assert sorted(others) == [1, 2, 4, 5, 6]  # the third still sleeps
        assert all(isinstance(reply, Observation) for reply in others.values())
        late, over = await peer.next(), await peer.next()
        assert (late.channel, late.seq, late.code) == (3, 2, "deadline_exceeded")
        assert (over.channel, over.seq, over.code) == (3, 0, "session_closed")
        peer.send(steps(3, [{}, {}]), steps(3, [{}, {}, {}], first=4))
        again = by_channel(await answers(peer, COUNT - 1))
        assert all(unpack(reply.payload)["steps"] == 2 for reply in again.values())


@pytest.mark.parametrize(
    ("env", "options"), [(Commanded, {"max_threads": 1}), (UnsafeByDefault, {"workers": 1})]
)
async def test_a_row_that_is_cancelled_before_it_begins(env: Any, options: dict[str, Any]) -> None:
    async with opened(env, 3, **options) as peer:
        peer.send(in_columns([(n, 1, RESET, 0) for n in range(1, 4)]))
        await answers(peer, 3)
        peer.send(steps(2, [{"do": "sleep", "seconds": 0.5}, {}, {}]))
        peer.send(Cancel(3, 2))
        told = by_channel(await answers(peer, 3))
        assert told[3].code == "cancelled"
        assert [unpack(told[n].payload)["steps"] for n in (1, 2)] == [1, 1]
        peer.send(steps(3, [{}, {}, {}]))
        told = by_channel(await answers(peer, 3))
        assert [unpack(told[n].payload)["steps"] for n in (1, 2, 3)] == [2, 2, 1]


async def test_rows_for_which_there_is_no_thread_in_time() -> None:
    async with opened(Commanded, 4, max_threads=1) as peer:
        peer.send(in_columns([(n, 1, RESET, 0) for n in range(1, 5)]))
        await answers(peer, 4)
        peer.step(2, {"do": "sleep", "seconds": 0.8})
        rows = steps(2, [{}, {}, {}], first=2)
        rows.timeout = 0.2
        peer.send(rows)
        busy = by_channel(await answers(peer, 3))
        assert {reply.code for reply in busy.values()} == {"server_busy"}
        assert (await peer.next()).channel == 1
        peer.send(steps(3, [{}] * 4))
        told = by_channel(await answers(peer, 4))
        assert [unpack(told[n].payload)["steps"] for n in (1, 2, 3, 4)] == [2, 1, 1, 1]


async def test_a_worker_that_dies_costs_its_own_rows() -> None:
    async with opened(CommandedProcess, workers=2) as peer:
        peer.send(in_columns([(n, 1, RESET, 0) for n in range(1, COUNT + 1)]))
        begun = by_channel(await answers(peer, COUNT))
        pids = {channel: unpack(reply.payload)["pid"] for channel, reply in begun.items()}
        assert len({*pids.values()}) == 2
        actions: list[dict[str, Any]] = [{} for _ in range(COUNT)]
        actions[1] = {"do": "os_exit", "code": 3}
        peer.send(steps(2, actions))
        died = {n for n, pid in pids.items() if pid == pids[2]}
        told: dict[int, list[Any]] = {n: [] for n in pids}
        while any(len(each) < 1 + (n in died) for n, each in told.items()):
            frame = await peer.next()
            each = replies_of(frame) if isinstance(frame, ObservationColumns) else [frame]
            for reply in each:
                told[reply.channel].append(reply)
        for n, replies in told.items():
            if n in died:
                assert all(isinstance(reply, Failed) for reply in replies[1:])
                assert replies[-1].code == "environment_died"
            else:
                assert isinstance(replies[0], Observation)
                assert unpack(replies[0].payload)["pid"] == pids[n] != os.getpid()


class Sleeper(Commanded):
    """Counts by itself: abandoned steps of other tests may still sleep."""

    asleep: ClassVar[int] = 0
    closed: ClassVar[int] = 0

    def do_sleep(self, action: dict[str, Any]) -> None:
        type(self).asleep += 1
        super().do_sleep(action)
        type(self).asleep -= 1


async def test_the_environment_of_an_abandoned_row_is_closed_once() -> None:
    async with opened(Sleeper, 3, timeouts=Timeouts(step=0.2)) as peer:
        peer.send(in_columns([(n, 1, RESET, 0) for n in range(1, 4)]))
        await answers(peer, 3)
        peer.send(steps(2, [{}, {"do": "sleep", "seconds": 0.6}, {}]))
        await answers(peer, 4)  # the late one, its session's end, and the others
        assert Sleeper.asleep == 1
        await until(lambda: Sleeper.closed == 1)
        assert Sleeper.asleep == 0
    await until(lambda: Sleeper.closed == 3)


async def test_rows_of_a_class_that_is_not_safe_in_threads() -> None:
    async with opened(UnsafeByDefault, workers=1) as peer:
        peer.send(in_columns([(n, 1, RESET, 0) for n in range(1, COUNT + 1)]))
        await answers(peer, COUNT)
        peer.send(steps(2, [{}] * COUNT))
        [frame] = await answers(peer, COUNT)
        assert isinstance(frame, ObservationColumns)


# -- who has a row, decided while another row runs -------------------------------------------------


class RowOf:
    """A session that has a row."""

    interrupted = "cancel"

    def __init__(self) -> None:
        self.runner = self
        self.closed = 0
        self.replies: list[Any] = []

    def handle(self, request: Any, codecs: Any) -> str:
        self.closed += 1  # nothing else is asked of it but by the batch
        return "closed"

    def interruption(self, request: Any) -> str:
        return "cancelled"

    def complete(self, request: Any, reply: Any) -> None:
        self.replies.append(reply)


class RanRows:
    """A batch of rows; ``during`` has what the loop does while one of them runs."""

    note: Any = None
    codecs: Any = None

    def __init__(self, count: int) -> None:
        self.calls: Any = [RowOf() for _ in range(count)]
        self.requests: Any = [f"request {row}" for row in range(count)]
        self.ran: list[int] = []
        self.during: dict[int, Callable[[], None]] = {}
        self._done: list[tuple[int, Any]] = []

    def run(self, claims: Iterator[int] | None = None, most: int | None = None) -> RowReplies:
        assert claims is not None
        for row in claims:
            self.ran.append(row)
            self.during.pop(row, lambda: None)()
            self._done.append((row, f"reply {row}"))
        return self.finished()[0]

    def finished(self) -> list[RowReplies]:
        done, self._done = self._done, []
        return [RowReplies(others=done)]

    def complete(self, replies: RowReplies) -> None:
        for row, reply in replies.others:
            self.calls[row].complete(self.requests[row], reply)


class Rows:
    """A batch in a pool, whose threads are the test's own."""

    def __init__(self, count: int) -> None:
        self.loop = HandLoop()
        any_loop: Any = self.loop
        self.pool = ThreadPool(any_loop, 10, "rows")
        self.batch = cast(Any, RanRows(count))
        self.jobs: RowJobs = self.pool.submit_rows(self.batch)
        any_pool: Any = self.pool
        any_pool._wake = lambda count: None  # no thread begins but the test's own

    def work(self) -> None:
        """Be a thread of the pool until no job is left."""
        self.pool._threads += 1
        self.pool._closed = True
        self.pool.work()
        self.pool._closed = False
        self.loop.turn()

    @property
    def replies(self) -> list[list[Any]]:
        return [call.replies for call in self.batch.calls]


def test_a_row_is_withdrawn_only_before_a_thread_has_it() -> None:
    rows = Rows(4)
    calls, withdraw = rows.batch.calls, rows.jobs.withdraw
    asked: list[bool] = []
    rows.batch.during[1] = lambda: asked.extend(withdraw(calls[row]) for row in (0, 1, 2, 2))
    rows.work()
    assert asked == [False, False, True, False]
    assert rows.batch.ran == [0, 1, 3]
    assert rows.replies == [["reply 0"], ["reply 1"], ["cancelled"], ["reply 3"]]
    assert rows.jobs.is_over


def test_an_abandoned_row_costs_its_thread_and_no_other_row() -> None:
    rows = Rows(4)
    calls = rows.batch.calls

    def abandon() -> None:
        rows.jobs.abandon(calls[1])
        assert calls[0].replies == ["reply 0"]  # at once
        assert (rows.pool.stuck, len(rows.pool._jobs)) == (1, 1)
        rows.batch.during[2] = lambda: asked.append(rows.pool.stuck)

    asked: list[int] = []
    rows.batch.during[1] = abandon
    rows.work()  # ends with the row, and closes the environment
    assert (rows.batch.ran, calls[1].closed, rows.pool.stuck) == ([0, 1], 1, 0)
    rows.work()
    assert (rows.batch.ran, asked) == ([0, 1, 2, 3], [0])
    assert rows.replies == [["reply 0"], [], ["reply 2"], ["reply 3"]]
    assert [call.closed for call in calls] == [0, 1, 0, 0]
    assert rows.jobs.is_over


def test_a_row_that_is_abandoned_after_it_was_run_leaves_its_thread_to_the_others() -> None:
    rows = Rows(4)
    calls = rows.batch.calls
    rows.batch.during[2] = lambda: rows.jobs.abandon(calls[1])
    rows.work()
    assert rows.batch.ran == [0, 1, 2, 3]
    assert rows.pool.stuck == 0
    assert [len(replies) for replies in rows.replies] == [1, 2, 1, 1]  # the close is answered too
    assert [call.closed for call in calls] == [0, 1, 0, 0]


def test_a_row_that_is_abandoned_while_it_waits_is_not_run() -> None:
    rows = Rows(3)
    rows.batch.during[0] = lambda: rows.jobs.abandon(rows.batch.calls[2])
    rows.work()
    assert rows.batch.ran == [0, 1]
    assert [call.closed for call in rows.batch.calls] == [0, 0, 1]


def test_a_row_that_is_abandoned_when_its_job_is_done_is_closed_by_another() -> None:
    rows = Rows(2)
    rows.pool._threads, rows.pool._closed = 1, True
    rows.pool.work()  # done, and not delivered
    rows.jobs.abandon(rows.batch.calls[1])
    rows.work()
    assert rows.pool.stuck == 0
    assert [call.closed for call in rows.batch.calls] == [0, 1]
    assert rows.batch.ran == [0, 1]


@pytest.mark.parametrize("waiting", [1, 2, 5, 63])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_rows_behind_one_that_runs_are_shared(waiting: int, count: int) -> None:
    rows = Rows(1 + waiting)
    found: list[Job] = []
    rows.batch.during[0] = lambda: found.extend(rows.jobs.shared(count))
    rows.work()
    own = len(rows.batch.ran)
    assert own == 1 + waiting // (1 + count)
    assert 0 < len(found) <= count
    rows.pool._jobs.extend(found)
    rows.work()
    assert rows.batch.ran == [*range(1 + waiting)]  # each once, in order
    assert rows.jobs.is_over
    assert rows.jobs.shared(count) == []


def test_rows_behind_one_that_hangs_are_taken_also_while_others_move() -> None:
    rows = Rows(6)
    looked: list[list[Job]] = []

    def look() -> None:
        looked.append(rows.jobs.behind_stuck())

    rows.batch.during[0] = look  # it has begun since the last look
    rows.batch.during[1] = look  # it has moved
    rows.batch.during[2] = lambda: (look(), look())  # type: ignore[func-returns-value]
    rows.work()
    assert [len(jobs) for jobs in looked] == [0, 0, 0, 1]
    assert rows.batch.ran == [0, 1, 2]
    rows.pool._jobs.extend(looked[-1])
    rows.work()
    assert rows.batch.ran == [*range(6)]


def test_a_look_counts_the_rows_that_were_taken() -> None:
    rows = Rows(5)
    moved: list[int] = []
    rows.batch.during[1] = lambda: moved.append(rows.jobs.moved())
    rows.batch.during[3] = lambda: moved.extend([rows.jobs.moved(), rows.jobs.moved()])
    rows.work()
    assert moved == [2, 2, 0]
    assert rows.pool.taken == 1 + 1  # the job, and the row since then: the look is no more
