"""Sync environments in the shared pool of threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from openenv_async import Environment
from openenv_async.engine import Engine
from openenv_async.engine.executors import threads as module
from openenv_async.engine.executors.threads import (
    BuilderPool,
    Job,
    MainThreadExecutor,
    ThreadExecutor,
    ThreadPool,
)
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Close,
    Closed,
    Failed,
    Observation,
    Open,
    Step,
)
from openenv_async.testing import ManualClock
from tests.engine.executors.calls import HandLoop
from tests.helpers import Peer, make_engine, pack, settle, token, unpack, until


class Threaded(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Waits at its gate when told to; notes the threads that called it."""

    isolation = "thread"
    gate: ClassVar[threading.Event] = threading.Event()
    made: ClassVar[list[Threaded]] = []
    running: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        self.threads = {threading.get_ident()}
        self.count = 0
        self.closed = threading.Event()
        self.made.append(self)

    def reset(self) -> dict[str, Any]:
        self.threads.add(threading.get_ident())
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.threads.add(threading.get_ident())
        self.count += 1
        if action.get("wait"):
            self.running.add(id(self))
            assert self.gate.wait(30)
            self.running.discard(id(self))
        if action.get("panic"):
            raise Panic("in Rust")
        if action.get("exit"):
            raise SystemExit(3)
        return {"count": self.count}

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed.set()


class Owning(Threaded):
    """Wants one thread for all its calls."""

    owns_thread = True


class Panic(BaseException):
    """What an extension module may raise."""


@pytest.fixture(autouse=True)
def gate() -> threading.Event:
    Threaded.gate = threading.Event()
    Threaded.made.clear()
    Threaded.running.clear()
    return Threaded.gate


@contextlib.asynccontextmanager
async def started(
    env: Any = Threaded, sessions: int = 1, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[tuple[Engine, Peer]]:
    engine = make_engine(env, clock=clock, **options)
    peer = Peer(engine)
    for number in range(1, sessions + 1):
        begun = await peer.begin(number)
        assert isinstance(begun, Begun), begun
    yield engine, peer
    Threaded.gate.set()
    await engine.aclose()


def threads() -> set[threading.Thread]:
    """Those of every pool: ones of an earlier test may still be ending, so tests count new ones."""
    return {thread for thread in threading.enumerate() if "openenv-" in thread.name}


async def test_calls_come_from_threads_and_never_from_the_loop() -> None:
    async with started() as (engine, peer):
        reply = await peer.stepped(2, {})
        assert unpack(reply.payload) == {"count": 1}
        peer.send(Close(1, 3))
        assert isinstance(await peer.next(), Closed)
        assert not engine.sessions
    [env] = Threaded.made
    assert threading.get_ident() not in env.threads
    assert env.closed.is_set()


async def test_a_reply_does_not_wait_for_a_call_that_blocks_behind_it(
    gate: threading.Event,
) -> None:
    async with started(sessions=3) as (_, peer):
        for seq in range(2, 7):  # one thread takes both, the short one first
            peer.send(Step(1, seq, seq - 1, pack({})), Step(2, seq, seq - 1, pack({"wait": 1})))
            async with asyncio.timeout(5):
                assert (await peer.next()).channel == 1
            gate.set()
            assert (await peer.next()).channel == 2
            gate.clear()


async def test_many_that_block_run_at_once(gate: threading.Event) -> None:
    count = 40
    async with started(sessions=count) as (_, peer):
        for number in range(1, count + 1):
            peer.step(2, {"wait": 1}, number)
        await until(lambda: len(Threaded.running) == count)
        gate.set()
        replies = [await peer.next() for _ in range(count)]
        assert all(isinstance(reply, Observation) for reply in replies)


async def test_short_steps_share_threads() -> None:
    async with started(sessions=50) as (_, peer):
        before = threads()
        for seq in range(2, 12):
            peer.send(*(Step(number, seq, 0, pack({})) for number in range(1, 51)))
            for _ in range(50):
                assert isinstance(await peer.next(), Observation)
        assert len(threads() - before) <= 2


async def test_the_limit_of_threads_is_kept(gate: threading.Event) -> None:
    async with started(sessions=6, max_threads=3) as (_, peer):
        for number in range(1, 7):
            peer.step(2, {"wait": 1}, number)
        await until(lambda: len(Threaded.running) == 3)
        await asyncio.sleep(0.02)  # time for a fourth that must not come
        assert len(Threaded.running) == 3
        gate.set()
        for _ in range(6):
            assert isinstance(await peer.next(), Observation)


async def test_a_cancel_cannot_stop_a_thread_and_the_next_call_waits(
    gate: threading.Event,
) -> None:
    async with started() as (_, peer):
        peer.step(2, {"wait": 1})
        await until(lambda: Threaded.running)
        peer.send(Cancel(1, 2))
        peer.step(3, {})
        await settle()
        assert peer.take() == []
        gate.set()
        first, second = await peer.next(), await peer.next()
        assert [first.seq, second.seq] == [2, 3]
        assert unpack(second.payload) == {"count": 2}


async def test_a_hung_call_is_given_up_and_its_thread_replaced(gate: threading.Event) -> None:
    clock = ManualClock()
    async with started(sessions=2, clock=clock, max_threads=1) as (engine, peer):
        peer.step(2, {"wait": 1}, 1, timeout=5.0)
        await until(lambda: Threaded.running)
        peer.step(2, {}, 2, timeout=0)
        await settle()
        assert peer.take() == []  # the only thread hangs
        clock.advance(5.1)
        first, second = await peer.next(), await peer.next()
        assert (first.channel, first.seq, first.code) == (1, 2, "deadline_exceeded")
        assert (second.channel, second.seq, second.code) == (1, 0, "session_closed")
        assert isinstance(await peer.next(), Observation)  # a new thread took it
        assert list(engine.sessions) == [token(2)]
        env = Threaded.made[0]
        assert not env.closed.is_set()
        gate.set()
        await until(env.closed.is_set)


async def test_a_job_that_never_began_is_taken_back(gate: threading.Event) -> None:
    clock = ManualClock()
    async with started(sessions=2, clock=clock, max_threads=1) as (_, peer):
        peer.step(2, {"wait": 1}, 1, timeout=0)
        await until(lambda: Threaded.running)
        peer.step(2, {}, 2, timeout=5.0)
        await settle()
        clock.advance(5.1)
        refused = await peer.next()
        assert (refused.channel, refused.code) == (2, "server_busy")
        assert peer.detail(refused)["setting"] == "max_threads"
        gate.set()
        assert isinstance(await peer.next(), Observation)
        assert Threaded.made[1].count == 0  # nothing ran, so the session is as good as before
        assert isinstance(await peer.stepped(3, {}, 2), Observation)


async def test_the_loop_is_free_while_everything_blocks(gate: threading.Event) -> None:
    async with started(sessions=20) as (_, peer):
        for number in range(1, 21):
            peer.step(2, {"wait": 1}, number)
        await until(lambda: len(Threaded.running) == 20)
        longest = 0.0
        for _ in range(50):
            begun = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - begun)
        assert longest < 0.5
        gate.set()
        for _ in range(20):
            await peer.next()


async def test_panics_and_exits_are_errors_and_cost_no_thread() -> None:
    async with started(max_threads=1) as (_, peer):
        for seq, action, raised in ((2, {"panic": 1}, "Panic"), (3, {"exit": 1}, "SystemExit")):
            reply = await peer.stepped(seq, action)
            assert isinstance(reply, Failed)
            assert peer.detail(reply)["raised"] == raised
        assert isinstance(await peer.stepped(4, {}), Observation)


async def test_an_owned_thread_makes_every_call() -> None:
    async with started(Owning, sessions=4) as (_, peer):
        for seq in range(2, 6):
            for number in range(1, 5):
                assert isinstance(await peer.stepped(seq, {}, number), Observation)
        for number in range(1, 5):
            peer.send(Close(number, 6))
        for _ in range(4):
            assert isinstance(await peer.next(), Closed)
    assert [len(env.threads) for env in Threaded.made] == [1, 1, 1, 1]
    assert len(set.union(*(env.threads for env in Threaded.made))) == 4


async def test_an_owned_thread_stays_the_same_however_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.02)
    async with started(Owning) as (_, peer):
        [env] = Threaded.made
        before = threads()
        async with started() as (_, other):  # a session that shares threads: they end
            assert isinstance(await other.stepped(2, {}), Observation)
            assert threads() - before
            await until(lambda: threads() <= before)
        assert isinstance(await peer.stepped(2, {}), Observation)
        assert len(env.threads) == 1


async def test_an_owned_thread_that_hangs_is_left_alone(gate: threading.Event) -> None:
    clock = ManualClock()
    async with started(Owning, sessions=2, clock=clock) as (_, peer):
        peer.step(2, {"wait": 1}, 1, timeout=5.0)
        await until(lambda: Threaded.running)
        clock.advance(5.1)
        assert (await peer.next()).code == "deadline_exceeded"
        assert (await peer.next()).code == "session_closed"
        assert isinstance(await peer.stepped(2, {}, 2), Observation)
        env = Threaded.made[0]
        gate.set()
        await until(env.closed.is_set)
        assert len(env.threads) == 1


async def test_threads_end_with_the_engine() -> None:
    before = threads()
    async with started(sessions=10) as (_, peer):
        for number in range(1, 11):
            peer.step(2, {}, number)
        for _ in range(10):
            await peer.next()
        assert threads() - before
    await until(lambda: threads() <= before)


async def test_idle_threads_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.02)
    before = threads()
    async with started() as (_, peer):
        await until(lambda: threads() <= before)
        assert isinstance(await peer.stepped(2, {}), Observation)  # a new one was made


async def test_a_constructor_that_blocks_holds_up_nobody(gate: threading.Event) -> None:
    class Slow(Threaded):
        def __init__(self) -> None:
            super().__init__()
            if len(self.made) == 1:
                self.running.add(id(self))
                assert self.gate.wait(30)

    engine = make_engine(Slow)
    peer = Peer(engine)
    opening = asyncio.ensure_future(peer.open(1))
    await until(lambda: Threaded.running)
    other = Peer(engine)
    assert isinstance(await other.begin(2), Begun)
    gate.set()
    await opening
    await engine.aclose()


# -- a pool by itself, on a loop that the test moves -----------------------------------------------


class Worked:
    """A call without a session: notes what was run and what came back."""

    def __init__(self, run: Any = None) -> None:
        self.runner = self
        self.interrupted: str | None = None
        self.asked: list[Any] = []
        self.replies: list[Any] = []
        self._run = run

    def handle(self, request: Any, codecs: Any) -> Any:
        self.asked.append(request)
        if self._run is not None and not isinstance(request, Close):
            self._run()
        return "reply"

    def raised(self, request: Any, exc: BaseException, codecs: Any) -> Any:
        return exc

    def complete(self, request: Any, reply: Any) -> None:
        self.replies.append(reply)

    def interruption(self, request: Any) -> Any:
        return "interruption"


class Codecs:
    format = "msgpack"


class Started:
    """Stands in for threads: counts those that were to start, and runs none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.allowed = 10**6
        monkeypatch.setattr(threading, "Thread", self._make)

    def _make(self, **_: Any) -> Started:
        return self

    def start(self) -> None:
        if self.count >= self.allowed:
            raise RuntimeError("can't start new thread")
        self.count += 1


def make_pool(loop: HandLoop, limit: int = 10, **settings: Any) -> ThreadPool:
    any_loop: Any = loop
    return ThreadPool(any_loop, limit, "pool", **settings)


def job_of(call: Any, request: Any = None) -> Job:
    codecs: Any = Codecs()
    return Job(call, request or Step(1, 1, 0, b""), codecs)


def work_off(pool: ThreadPool) -> None:
    """Run the jobs on this thread, which is lent, until none is left."""
    pool._closed = True
    pool._threads += 1
    pool.work()
    pool._closed = False


def test_threads_double_while_a_queue_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, started = HandLoop(), Started(monkeypatch)
    pool = make_pool(loop)
    for _ in range(5):
        pool.submit(job_of(Worked()))
    assert len(loop.soon) == 1  # one wake-up for all of a turn
    loop.turn()
    counts = [started.count]
    for _ in range(5):
        assert loop.later() == [module._LOOK]
        counts.append(started.count)
    assert counts == [1, 2, 4, 8, 10, 10]  # by the busy ones, by the waiting ones, by the limit
    pool.submit(job_of(Worked()))
    loop.turn()
    assert len(loop.timers) == 1  # it looks already


@pytest.mark.parametrize(("taken", "grows"), [(4, True), (5, False), (6, False)])
def test_a_queue_that_moves_gets_no_more_threads(
    monkeypatch: pytest.MonkeyPatch, taken: int, grows: bool
) -> None:
    loop, started = HandLoop(), Started(monkeypatch)
    pool = make_pool(loop)
    pool.taken = 100
    for _ in range(5):
        pool.submit(job_of(Worked()))
    loop.turn()
    pool.taken += taken
    loop.later()
    assert (started.count == 2) == grows
    loop.later()  # now it stands
    assert started.count == (4 if grows else 2)


def test_a_look_ends_when_nothing_waits_or_the_pool_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, started = HandLoop(), Started(monkeypatch)
    pool = make_pool(loop)
    call = Worked()
    pool.submit(job_of(call))
    loop.turn()
    work_off(pool)
    loop.later()  # delivers what a thread holds back
    assert call.replies == ["reply"]
    assert (loop.timers, started.count) == ([], 1)
    pool.submit(job_of(call))
    loop.turn()
    [look] = loop.timers
    pool.submit(job_of(call))
    [kick] = loop.soon[-1:]
    pool.close()
    assert (look.cancelled, kick.cancelled) == (True, True)
    look.run()
    assert len(loop.timers) == 1


def idle_threads(count: int) -> list[threading.Lock]:
    """Return the locks of threads that wait."""
    wakes = [threading.Lock() for _ in range(count)]
    for wake in wakes:
        wake.acquire()
    return wakes


def woken(wakes: list[threading.Lock]) -> list[int]:
    """Return which threads may go on."""
    return [place for place, wake in enumerate(wakes) if not wake.locked()]


def test_the_looks_end_with_the_last_job_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    Started(monkeypatch)
    for idle in (0, 1):
        loop, call = HandLoop(), Worked()
        pool = make_pool(loop)
        pool.submit(job_of(call))
        loop.turn()
        [look] = loop.timers
        work_off(pool)
        pool._idle = idle_threads(idle)
        loop.turn()  # delivers
        assert call.replies == ["reply"]
        assert look.cancelled is (idle == pool._threads)  # a busy one may hold results back


def test_idle_threads_go_before_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(monkeypatch)
    pool = make_pool(HandLoop(), limit=4)
    wakes = idle_threads(2)
    pool._threads, pool._idle = 2, wakes[:]
    pool._wake(1)
    assert (pool._idle, pool._threads, started.count) == (wakes[:1], 2, 0)
    assert woken(wakes) == [1]  # the one that was idle last
    pool._wake(2)
    assert (pool._idle, pool._threads, started.count, woken(wakes)) == ([], 3, 1, [0, 1])
    pool._wake(9)
    assert (pool._idle, pool._threads, started.count, woken(wakes)) == ([], 4, 2, [0, 1])


def test_a_batch_wakes_an_idle_thread_or_the_first_and_no_busy_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for threads, idle, wakes, new in ((0, 0, [], 1), (2, 2, [1], 0), (1, 0, [], 0)):
        loop, started = HandLoop(), Started(monkeypatch)
        pool = make_pool(loop)
        waiting = idle_threads(idle)
        pool._threads, pool._idle = threads, waiting[:]
        pool.submit(job_of(Worked()))
        loop.turn()
        assert (woken(waiting), started.count) == (wakes, new)


def test_a_closed_pool_lets_its_idle_threads_go() -> None:
    pool = make_pool(HandLoop())
    wakes = idle_threads(2)
    pool._threads, pool._idle = 3, wakes[:]
    pool.close()
    assert (woken(wakes), pool._idle) == ([0, 1], [])
    for left in (2, 1, 0):  # the busy one too, once it is done
        assert pool._rest(threading.Lock()) is False
        assert pool._threads == left


def test_jobs_are_refused_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, started = HandLoop(), Started(monkeypatch)
    pool = make_pool(loop)
    calls = [Worked(), Worked()]
    for call in calls:
        pool.submit(job_of(call))
    started.allowed = 0
    loop.turn()
    for call in calls:
        [refused] = call.replies
        assert (refused.code, refused.seq) == ("resource_limit", 1)
    assert (pool._threads, len(pool._jobs)) == (0, 0)


def test_jobs_wait_when_there_are_threads_but_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(monkeypatch)
    pool = make_pool(HandLoop())
    call = Worked()
    pool._jobs.append(job_of(call))
    started.allowed = 1
    pool._wake(3)
    assert (pool._threads, started.count, call.replies) == (1, 1, [])


def test_results_come_in_order_and_with_one_wake_up() -> None:
    loop = HandLoop()
    pool = make_pool(loop, lent=True)
    calls = [Worked() for _ in range(3)]
    for call in calls:
        pool.submit(job_of(call))
    assert (pool._limit, pool._threads) == (1, 1)
    work_off(pool)
    assert pool.taken == 3
    assert len(loop.soon) == 2  # the submission's and the delivery's
    loop.turn()
    assert [call.replies for call in calls] == [["reply"]] * 3
    assert pool._posted is False


def test_a_long_batch_posts_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def tick() -> None:
        now[0] += module._POST * 0.75

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    loop = HandLoop()
    pool = make_pool(loop, lent=True)
    posts: list[int] = []
    monkeypatch.setattr(pool, "_post", lambda: posts.append(len(pool._results)))
    for _ in range(5):
        pool.submit(job_of(Worked(tick)))
    work_off(pool)
    assert posts == [2, 4, 5]


def test_what_a_call_lets_through_is_its_reply() -> None:
    def panic() -> None:
        raise Panic("in Rust")

    pool = make_pool(loop := HandLoop(), lent=True)
    call = Worked(panic)
    pool.submit(job_of(call))
    work_off(pool)
    loop.turn()
    assert [type(reply) for reply in call.replies] == [Panic]


def test_a_worker_is_told_of_each_call() -> None:
    seen: list[Any] = []
    loop = HandLoop()

    def after_call() -> None:
        seen.append(("after", pool.calling))

    pool = make_pool(loop, lent=True, after_call=after_call)

    def call() -> None:
        seen.append(("call", pool.calling))

    def panic() -> None:
        call()
        raise Panic("in Rust")

    good, bad = Worked(call), Worked(panic)
    pool.submit(job_of(good))
    pool.submit(job_of(bad))
    work_off(pool)
    loop.turn()
    assert seen == [("call", True), ("after", False)] * 2
    assert good.replies == ["reply"]
    assert [type(reply) for reply in bad.replies] == [Panic]


@pytest.mark.parametrize("lent", [True, False])
def test_a_thread_whose_job_was_abandoned_closes_its_environment(
    monkeypatch: pytest.MonkeyPatch, lent: bool
) -> None:
    Started(monkeypatch)
    pool = make_pool(loop := HandLoop(), lent=lent)
    seen: list[tuple[int, int]] = []

    def abandon() -> None:
        before = pool._threads
        pool._limit = 0  # so that nothing replaces it here
        pool.abandon(job)
        seen.append((pool.stuck, pool._threads - before))

    hung, other = Worked(abandon), Worked()
    job = job_of(hung)
    pool.submit(job)
    pool.submit(job_of(other))
    pool._threads = 0
    work_off(pool)
    assert seen == [(1, 0 if lent else -1)]  # it is to be replaced unless it is lent
    assert pool.stuck == 0
    assert hung.asked == [Step(1, 1, 0, b""), Close(0, 0)]
    assert bool(other.asked) == lent  # else a new thread takes it
    loop.turn()
    assert hung.replies == []


def test_a_job_that_was_abandoned_before_it_began_is_only_closed() -> None:
    loop = HandLoop()
    pool = make_pool(loop, lent=True)
    call = Worked()
    job = job_of(call)
    pool.submit(job)
    pool.abandon(job)
    assert pool.stuck == 0
    work_off(pool)
    assert call.asked == [Close(0, 0)]


def test_a_job_that_was_abandoned_with_its_result_on_the_way_is_closed_too() -> None:
    loop = HandLoop()
    pool = make_pool(loop, lent=True)
    call = Worked()
    job = job_of(call)
    pool.submit(job)
    work_off(pool)
    pool.abandon(job)
    assert (pool.stuck, pool._threads) == (0, 1)
    loop.turn()
    assert call.replies == []
    work_off(pool)
    assert call.asked == [Step(1, 1, 0, b""), Close(0, 0)]


def test_a_job_is_taken_back_once_and_answered_in_another_turn() -> None:
    for interrupted in ("cancel", "deadline"):
        loop = HandLoop()
        pool = make_pool(loop, limit=7)
        call = Worked()
        call.interrupted = interrupted
        job = job_of(call)
        pool._jobs.append(job)
        assert pool.withdraw(job) is True
        assert call.replies == []
        assert loop.turn() == 1
        if interrupted == "cancel":
            assert call.replies == ["interruption"]
        else:
            [busy] = call.replies
            assert busy.code == "server_busy"
            assert "all 7 threads were busy for as long as step()" in busy.message
        assert pool.withdraw(job) is False


def test_an_abandoned_thread_is_replaced_where_jobs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for waiting in (0, 1):
        started = Started(monkeypatch)
        pool = make_pool(HandLoop(), limit=1)
        pool._threads = 1
        pool._jobs.extend(job_of(Worked()) for _ in range(waiting))
        pool.abandon(job_of(Worked()))
        assert (pool.stuck, pool._threads, started.count) == (1, waiting, waiting)


def test_a_beat_is_answered_in_its_turn() -> None:
    loop = HandLoop()
    pool = make_pool(loop, lent=True)
    answers: list[int] = []
    pool.beat(lambda: answers.append(1))
    work_off(pool)
    assert answers == []
    loop.turn()
    assert answers == [1]


class Unwoken:
    """The lock of a thread whose rest ends unwoken; if ``late``, it is woken right then."""

    def __init__(self, pool: ThreadPool, late: bool) -> None:
        self._pool = pool
        self._late = late
        self.timeouts: list[float] = []

    def acquire(self, timeout: float = -1.0) -> bool:
        self.timeouts.append(timeout)
        if len(self.timeouts) > 1:
            return True
        if self._late:
            self._pool._idle.pop()
        return False


@pytest.mark.parametrize("late", [False, True])
def test_an_idle_thread_ends_unless_it_has_just_been_woken(late: bool) -> None:
    pool = make_pool(HandLoop(), idle=3.0)
    pool._threads = 2
    wake: Any = Unwoken(pool, late)
    assert pool._rest(wake) is late
    assert (pool._threads, pool._idle) == (2 if late else 1, [])
    assert wake.timeouts == ([3.0, -1.0] if late else [3.0])


async def test_a_wake_up_wakes_one_thread_and_no_other() -> None:
    pool = make_pool(HandLoop())
    pool._threads = 3
    rested: list[int] = []

    def rest(number: int) -> None:
        wake = threading.Lock()
        wake.acquire()
        while pool._rest(wake):
            rested.append(number)

    resting = [threading.Thread(target=rest, args=(number,)) for number in range(3)]
    for thread in resting:
        thread.start()
    await until(lambda: len(pool._idle) == 3)
    while len(rested) < 8:
        pool._wake(1)
        await until(lambda: len(pool._idle) == 3)
    assert len(set(rested)) == 1  # the one that was idle last, each time
    pool.close()
    for thread in resting:
        thread.join()
    assert pool._threads == 0


def test_a_thread_does_not_rest_while_jobs_wait() -> None:
    pool = make_pool(HandLoop())
    pool._jobs.append(job_of(Worked()))
    pool._threads = 1
    assert pool._rest(threading.Lock()) is True
    assert (pool._threads, pool._idle) == (1, [])


# -- constructors ----------------------------------------------------------------------------------


class Times:
    """Stands in for the module ``time``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.used = 5.0
        self.slept: list[float] = []
        self.clocks: dict[int, float] = {}
        for name in ("monotonic", "thread_time", "sleep", "clock_gettime"):
            monkeypatch.setattr(time, name, getattr(self, name))

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.used

    def sleep(self, seconds: float) -> None:
        assert self.pool._pausing == 1
        self.slept.append(seconds)

    def clock_gettime(self, clock: int) -> float:
        return self.clocks[clock]

    pool: Any = None


@pytest.mark.parametrize(("cost", "pause"), [(0.001, 0.0), (0.04, 0.01), (1.0, 0.05)])
def test_a_constructor_that_computes_is_followed_by_a_pause(
    monkeypatch: pytest.MonkeyPatch, cost: float, pause: float
) -> None:
    times = Times(monkeypatch)
    loop: Any = HandLoop()
    pool = times.pool = BuilderPool(loop, 4, "pool")

    def compute() -> None:
        times.used = cost

    times.used = 0.0
    assert pool._build(job_of(Worked(compute))) == "reply"  # type: ignore[comparison-overlap]  # a fake
    assert pool.cost == cost
    assert times.slept == []
    times.used = 0.0
    pool._build(job_of(Worked()))
    assert times.slept == ([pytest.approx(pause)] if pause else [])
    assert (pool.cost, pool._pausing) == (0.0, 0)


def test_builders_grow_only_while_those_there_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    times = Times(monkeypatch)
    loop: Any = HandLoop()
    pool = times.pool = BuilderPool(loop, 4, "pool")
    assert pool._computing == 2
    pool._clocks = {1: 1, 2: 2}
    times.clocks = {1: 1.0, 2: 3.0}
    seen = []
    # Two cores may compute: above 1.05 of a core's time they do.
    for seconds, used in ((9.0, 0), (0.1, 0.104), (0.1, 0.104), (0.1, 0.106), (0.1, 0), (0.1, 0)):
        times.now += seconds
        times.clocks[1] += used
        seen.append(pool._may_grow())
    assert seen == [False, False, True, False, False, True]
    times.now += 0.11  # too long ago to tell
    assert pool._may_grow() is False
    times.now += 0.05
    assert pool._may_grow() is False
    pool._pausing = 1
    times.now += 0.05
    assert pool._may_grow() is False
    pool._pausing = 0
    times.now += 0.05
    assert pool._may_grow() is False
    times.now += 0.05
    assert pool._may_grow() is True


@pytest.mark.parametrize(("cores", "computing"), [(None, 1), (2, 1), (7, 1), (8, 2), (16, 4)])
def test_a_quarter_of_the_cores_constructs(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, computing: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    loop: Any = HandLoop()
    pool = BuilderPool(loop, 4, "pool")
    assert pool._computing == computing
    assert (pool._look_every, pool._rest_time, pool._name) == (0.01, 30.0, "pool-build")


def test_a_constructor_that_had_no_turn_says_what_to_do() -> None:
    loop = HandLoop()
    any_loop: Any = loop
    pool = BuilderPool(any_loop, 4, "pool")
    call = Worked()
    call.interrupted = "deadline"
    job = job_of(call, Open(1, token(1), token(2)))
    pool._jobs.append(job)
    assert pool.withdraw(job)
    loop.turn()
    [busy] = call.replies
    assert busy.code == "server_busy"
    assert "raise Timeouts.open" in busy.message


def test_a_builder_has_a_clock_while_it_works() -> None:
    seen: list[int] = []
    loop: Any = HandLoop()
    pool = BuilderPool(loop, 4, "pool")
    pool.submit(job_of(Worked(lambda: seen.extend(pool._clocks))))
    work_off(pool)
    assert seen == [threading.get_ident()]
    assert pool._clocks == {}


# -- the executor ----------------------------------------------------------------------------------


class Session(Worked):
    slot: Any = None
    codecs = Codecs()


@pytest.mark.parametrize("way", ["close", "leave", "aclose"])
async def test_a_thread_of_its_own_is_let_go_with_the_session(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    Started(monkeypatch)
    loop = HandLoop()
    any_loop: Any = loop
    executor = ThreadExecutor(any_loop, 4, Owning)
    call: Any = Session()
    executor.start(call, Open(1, token(1), token(2)))
    pool, job = call.slot
    assert pool in executor._pools
    assert pool not in (executor._pool, executor._builders)
    executor.start(call, Step(1, 1, 0, b""))
    assert (call.slot[0], call.slot[1] is job) == (pool, False)
    if way == "close":
        executor.start(call, Close(1, 2))
        assert not pool._closed
        loop.turn()
    elif way == "leave":
        executor.leave(call)
    else:
        await executor.aclose()
        assert executor._pool._closed
        assert executor._builders._closed
    assert pool._closed
    assert pool not in executor._pools


def test_shared_threads_stay_and_constructors_have_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Started(monkeypatch)
    loop: Any = HandLoop()
    executor = ThreadExecutor(loop, 4, Threaded)
    call: Any = Session()
    executor.start(call, Open(1, token(1), token(2)))
    assert call.slot[0] is executor._builders
    executor.start(call, Step(1, 1, 0, b""))
    assert call.slot[0] is executor._pool
    executor.leave(call)
    executor.start(call, Close(1, 2))
    loop.turn()
    assert not executor._pool._closed


@pytest.mark.parametrize("cls", [Threaded, Owning])
def test_calls_that_are_stuck_are_counted(monkeypatch: pytest.MonkeyPatch, cls: type) -> None:
    Started(monkeypatch)
    loop: Any = HandLoop()
    executor = ThreadExecutor(loop, 4, cls)
    call: Any = Session()
    executor.start(call, Open(1, token(1), token(2)))
    pool, job = call.slot
    assert executor.interrupt(call) is True  # it has no thread yet
    assert executor.interrupt(call) is False
    pool._threads = 1
    executor.abandon(call)
    assert executor.stuck == 1
    assert pool._closed == (cls is Owning)
    pool.stuck = 0
    assert executor.stuck == 0
    assert executor._left == []
    executor._pool.stuck, executor._builders.stuck = 2, 3
    assert executor.stuck == 5
    assert job.abandoned


def test_any_class_shares_threads_unless_it_says_otherwise() -> None:
    loop: Any = HandLoop()
    assert ThreadExecutor(loop, 4, object)._owned is False
    assert ThreadExecutor(loop, 4, Owning)._owned is True


def test_a_main_thread_has_all_the_calls() -> None:
    loop: Any = HandLoop()
    after: list[int] = []
    executor = MainThreadExecutor(loop, Owning, lambda: after.append(1))
    call: Any = Session()
    executor.start(call, Open(1, token(1), token(2)))
    executor.start(call, Close(1, 1))
    answers: list[int] = []
    executor.beat(lambda: answers.append(1))
    assert not executor.calling
    executor._pool._closed = True
    executor.work()
    loop.turn()
    assert [type(request) for request in call.asked] == [Open, Close]
    assert (len(call.replies), answers, after) == (2, [1], [1, 1, 1])
    assert executor._pools == {executor._pool}
    assert executor._pool._lent
