"""Many rollouts at once: outcomes as they come, stragglers left behind, nothing left open.

Rules:

- Workers, one session each, take episodes by number. A session is reused after a good episode
  (``reset`` again) and replaced after any other.
- A rollout is repeated only where ``retry`` allows it: what carried the environment failed before
  the policy's first action was sent (``unstarted``), or the episode has a seed (``seeded``).
- A server that is full is waited for, before an episode begins, never in the middle of one.
- Every episode asked for gives exactly one outcome: what is cut off at the deadline, or when
  enough have ended, comes as ``cancelled`` with the steps it had.
- The workers are owned by one object, not by a task group around the ``yield``: a generator may
  be resumed and closed by different tasks, which a task group does not survive.
- Whoever reads slowly holds the workers back before their next episode, not within one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, cast, get_args

from openenv_async.client.env import GenericEnvClient
from openenv_async.errors import CallerError, OpenEnvError, ServerBusy
from openenv_async.rollouts.run import Rollout, status_of
from openenv_async.rollouts.summary import Summary
from openenv_async.types import Outcome, OutcomeStatus

__all__ = ["Retry", "SessionSource", "Source", "client_factories", "collect", "collect_all"]

log = logging.getLogger("openenv_async.rollouts")


class SessionSource(Protocol):
    """What leases clients, such as an ``EnvPool``."""

    def session(self) -> Any:
        """A client that takes its place when it is opened and gives it back when closed."""


Source = str | Sequence[str] | Callable[[], Any] | SessionSource
"""A server's URL, several, a pool, or what makes a client: ``functools.partial(MyEnv, url)``."""
Retry = Literal["never", "unstarted", "seeded"]
"""Which episodes are played again when what carried their environment failed."""

_MAX_RETRIES: Final = 2
_AFTER_DEADLINE: Final = 0.05
"""Seconds that sessions have to close when the deadline passed, before they are just left."""
_AFTER_CLOSE: Final = 1.0
_OPEN_WAIT: Final = 60.0
"""Seconds to wait for capacity at most while no session of ours is open."""


def collect(
    source: Source,
    policy: Callable[..., Any],
    *,
    episodes: int,
    concurrency: int = 64,
    seeds: int | Sequence[int] | None = None,
    max_steps: int | None = None,
    timeout: float | None = None,
    reset_options: Mapping[str, Any] | None = None,
    min_count: int | None = None,
    deadline: float | None = None,
    max_ahead: int | None = None,
    on_progress: Callable[[Summary], None] | None = None,
    connections: int | None = None,
    token: str | None = None,
    retry: Retry | None = None,
    record: bool = True,
    summary: Summary | None = None,
) -> AsyncGenerator[Outcome, None]:
    """Play ``episodes`` episodes and yield their outcomes as they end.

    It starts when it is first iterated. Closing it early (``contextlib.aclosing``, or leaving
    the loop) cancels what runs and closes every session.

    Args:
        source: a URL, several URLs (workers are dealt out over them), a pool or a client factory.
        policy: chooses the actions of all episodes; see ``policies``.
        episodes: how many.
        concurrency: episodes at once, that is sessions.
        seeds: one seed per episode, or the first of consecutive ones; ``None``: the
            environment draws.
        max_steps: of each episode, as in ``rollout``.
        timeout: of each episode, as in ``rollout``.
        reset_options: of each episode, as in ``rollout``.
        min_count: once this many episodes ended usable, the rest is cancelled.
        deadline: seconds after which the rest is cancelled.
        max_ahead: outcomes that may wait for a slow reader before no more episodes begin;
            ``2 * concurrency`` by default.
        on_progress: called with the summary before each outcome is handed over; must not block.
        connections: WebSocket connections per URL that the sessions share; one by default.
        token: access token of the servers, where the source is a URL or several.
        retry: play an episode again, on another session, when its session was lost:
            ``unstarted`` before its first action was sent, ``seeded`` also later if it was given
            a seed; twice at most. By default ``unstarted`` on a pool, else ``never``.
        record: keep a trajectory in each outcome.
        summary: is filled as outcomes arrive; bring one to read it afterwards.

    Raises:
        ValueError: an argument makes no sense; at once.
        CallerError: a call was wrong, as in ``rollout``; ends everything.
        Exception: what the policy or ``on_progress`` raised; ends everything.
    """
    collection = _Collection(
        client_factories(source, connections, token),
        functools.partial(
            Rollout,
            policy,
            max_steps=max_steps,
            timeout=timeout,
            reset_options=reset_options,
            record=record,
        ),
        episodes=episodes,
        concurrency=concurrency,
        seeds=_seeds(seeds, episodes),
        min_count=min_count,
        deadline=deadline,
        max_ahead=max_ahead,
        on_progress=on_progress,
        summary=summary if summary is not None else Summary(episodes),
        retry=retry or ("unstarted" if hasattr(source, "session") else "never"),
    )
    return _outcomes(collection)


async def collect_all(
    source: Source, policy: Callable[..., Any], *, episodes: int, **options: Any
) -> list[Outcome]:
    """As ``collect``, all outcomes in a list sorted by index."""
    stream = collect(source, policy, episodes=episodes, **options)
    async with contextlib.aclosing(stream):
        return sorted([outcome async for outcome in stream], key=lambda outcome: outcome.index)


async def _outcomes(collection: _Collection) -> AsyncGenerator[Outcome, None]:
    collection.start()
    try:
        while (outcome := await collection.next()) is not None:
            yield outcome
    finally:
        await collection.aclose()


def _seeds(seeds: int | Sequence[int] | None, episodes: int) -> Callable[[int], int | None]:
    if seeds is None:
        return lambda index: None
    if isinstance(seeds, int):
        first = seeds
        return lambda index: first + index
    if len(seeds) < episodes:
        raise ValueError(f"{len(seeds)} seeds do not suffice for {episodes} episodes")
    return seeds.__getitem__


def client_factories(
    source: Source, connections: int | None, token: str | None
) -> list[Callable[[], Any]]:
    """What makes the clients; workers go round."""
    session: Callable[[], Any] | None = getattr(source, "session", None)
    if session is not None:
        if connections is not None or token is not None:
            raise ValueError("connections= and token= belong to URLs: a pool has its own")
        return [session]
    if callable(source):
        if connections is not None:
            raise ValueError("connections= belongs to URLs: a client factory decides for itself")
        if token is not None:
            raise ValueError("token= belongs to URLs: a client factory gives its own")
        return [source]
    urls = [source] if isinstance(source, str) else list(cast(Sequence[str], source))
    if not urls:
        raise ValueError("no URL to collect from")
    lanes = 1 if connections is None else connections
    if lanes < 1:
        raise ValueError(f"connections must be at least 1, got {connections}")
    return [
        functools.partial(
            GenericEnvClient, url, token=token, share=f"collect-{lane}" if lane else True
        )
        for lane in range(lanes)
        for url in urls
    ]


class _Collection:
    """The workers of one ``collect`` and what they have made so far."""

    def __init__(
        self,
        factories: list[Callable[[], Any]],
        make: Callable[..., Rollout],
        *,
        episodes: int,
        concurrency: int,
        seeds: Callable[[int], int | None],
        min_count: int | None,
        deadline: float | None,
        max_ahead: int | None,
        on_progress: Callable[[Summary], None] | None,
        summary: Summary,
        retry: Retry,
    ) -> None:
        if retry not in get_args(Retry):
            raise ValueError(f"retry must be one of {', '.join(get_args(Retry))}, got {retry!r}")
        for name, value in (("episodes", episodes), ("concurrency", concurrency)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if min_count is not None and not 1 <= min_count <= episodes:
            raise ValueError(f"min_count must be 1 to {episodes} (episodes), got {min_count}")
        if max_ahead is not None and max_ahead < 1:
            raise ValueError(f"max_ahead must be at least 1, got {max_ahead}")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline must be a positive number of seconds, got {deadline!r}")
        make()  # settings that make no sense are told now, not by a worker
        self.summary = summary
        self._factories = factories
        self._make = make
        self._episodes = episodes
        self._concurrency = min(concurrency, episodes)
        self._seeds = seeds
        self._min_count = min_count
        self._deadline = deadline
        self._on_progress = on_progress
        self._retry = retry
        self._next_index = 0
        self._again: deque[int] = deque()
        self._retries: dict[int, int] = {}
        self._openers: set[asyncio.Task[None]] = set()
        self._running: dict[int, Rollout] = {}
        self._ready: deque[Outcome] = deque()
        self._most_ready = max_ahead or 2 * self._concurrency
        self._usable = 0
        self._open_sessions = 0
        self._failure: BaseException | None = None
        self._stopped = False
        self._workers: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    # -- the reader's side --------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers."""
        self.summary.start()
        if self._deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(self._deadline, self._stop)
        for number in range(self._concurrency):
            worker = asyncio.create_task(self._work(number), name=f"openenv-rollout-{number}")
            worker.add_done_callback(self._worker_ended)
            self._workers.append(worker)

    async def next(self) -> Outcome | None:
        """The next outcome; ``None`` when there are no more."""
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._stopped or all(worker.done() for worker in self._workers):
                return None
            self._news.clear()
            await self._news.wait()
        outcome = self._ready.popleft()
        if len(self._ready) < self._most_ready:
            self._room.set()
        if self._on_progress is not None:
            self._on_progress(self.summary)
        return outcome

    async def aclose(self) -> None:
        """Cancel the workers and wait until their sessions are closed; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        patience = _AFTER_DEADLINE if self._stopped else _AFTER_CLOSE
        self._stopped = True
        pending = {worker for worker in self._workers if not worker.done()}
        for worker in pending:
            worker.cancel()
        interrupted: asyncio.CancelledError | None = None
        while pending:
            try:
                _, pending = await asyncio.wait(pending, timeout=patience)
            except asyncio.CancelledError as exc:
                interrupted = exc
            # A worker that still waits for its session to close has asked for it: enough.
            for worker in pending:
                worker.cancel()
            patience = _AFTER_CLOSE
        if interrupted is not None:
            raise interrupted

    # -- the workers' side --------------------------------------------------------------------

    async def _work(self, number: int) -> None:
        """Play episodes on one session until there are none left."""
        client: Any = None
        try:
            while self._left():
                if client is None:
                    client, error = await self._opened(number)
                    if error is not None:
                        number += 1  # elsewhere, if there is an elsewhere
                        self._fail_one(error)
                        continue
                    if client is None:
                        return
                outcome = await self._play(client)
                if outcome is not None and not outcome.status.usable:
                    closing, client = client, None
                    if outcome.status is OutcomeStatus.INFRA_ERROR:
                        number += 1
                    await self._close(closing)
                await self._room.wait()
        finally:
            if client is not None:
                await self._close(client)

    async def _play(self, client: Any) -> Outcome | None:
        """Play the next episode, if there is one."""
        if not self._left():
            return None
        rollout = self._begin()
        try:
            outcome = await rollout.play(client)
        except Exception as exc:
            exc.add_note(f"in episode {rollout.index} of collect()")
            raise
        if self._running.pop(rollout.index, None) is not None:
            if self._plays_again(rollout, outcome):
                self._again.append(rollout.index)
            else:
                self._take(outcome)
        return outcome

    def _plays_again(self, rollout: Rollout, outcome: Outcome) -> bool:
        """Whether a failed episode may be repeated; counts it as repeated then."""
        index = rollout.index
        if outcome.status is not OutcomeStatus.INFRA_ERROR or self._retry == "never":
            return False
        seeded = self._retry == "seeded" and self._seeds(index) is not None
        if (rollout.acted and not seeded) or self._retries.get(index, 0) >= _MAX_RETRIES:
            return False
        log.info("episode %d is played again: %s", index, outcome.error)
        self._retries[index] = self._retries.get(index, 0) + 1
        self.summary.retried += 1
        return True

    def _left(self) -> bool:
        """Whether there are episodes to begin."""
        return self._next_index < self._episodes or bool(self._again)

    def _begin(self) -> Rollout:
        if self._again:
            index = self._again.popleft()
        else:
            index = self._next_index
            self._next_index += 1
        if not self._left():  # nobody needs to wait for a session any more
            for task in self._openers:
                task.cancel()
        rollout = self._make(index=index, seed=self._seeds(index), latencies=self.summary.latencies)
        self._running[index] = rollout
        return rollout

    def _fail_one(self, error: BaseException) -> None:
        """No session could be opened: that is the next episode's outcome."""
        if self._left():
            rollout = self._begin()
            del self._running[rollout.index]
            self._take(rollout.ended(status_of(error), error))

    async def _opened(self, number: int) -> tuple[Any, BaseException | None]:
        """An open client, or why there is none; neither when no episode is left to play.

        While the server is full this waits: for as long as sessions of ours are at work,
        otherwise for a bounded time.
        """
        make = self._factories[number % len(self._factories)]
        clock = asyncio.get_running_loop().time
        since = clock()
        while self._left():
            client = make()
            try:
                if hasattr(client, "open"):
                    await self._open(client)
            except ServerBusy as exc:
                await self._dispose(client)
                since = clock() if self._open_sessions else since
                if clock() - since >= _OPEN_WAIT:
                    return None, exc
                if not self.summary.refused:
                    log.info("waiting for capacity: %s", exc.message)
                self.summary.refused += 1
                await asyncio.sleep(min(float(exc.detail.get("retry_after") or 1.0), 1.0))
            except CallerError:
                await self._dispose(client)
                raise
            except (OpenEnvError, OSError) as exc:
                await self._dispose(client)
                return None, exc
            except BaseException:
                await self._dispose(client)
                raise
            else:
                self._open_sessions += 1
                return client, None
        return None, None

    async def _open(self, client: Any) -> None:
        """Open it; cancelled when the last episode has begun elsewhere meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        self._openers.add(task)
        try:
            await client.open()
        finally:
            self._openers.discard(task)

    async def _close(self, client: Any) -> None:
        self._open_sessions -= 1
        await self._dispose(client)

    async def _dispose(self, client: Any) -> None:
        close = getattr(client, "close", None)
        if close is not None:
            try:
                await close()
            except OpenEnvError as exc:
                log.info("a session did not close: %s", exc)

    # -- both ---------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        self.summary.add(outcome)
        self._ready.append(outcome)
        self._news.set()
        if len(self._ready) >= self._most_ready:
            self._room.clear()
        if outcome.status.usable:
            self._usable += 1
            if self._usable == self._min_count:
                self._stop()

    def _stop(self) -> None:
        """Cut off what runs and what has not begun; each gives a ``cancelled`` outcome."""
        if self._stopped:
            return
        self._stopped = True
        running, self._running = self._running, {}
        for rollout in running.values():
            self._take(rollout.ended(OutcomeStatus.CANCELLED))
        while self._left():
            rollout = self._begin()
            del self._running[rollout.index]
            self._take(rollout.ended(OutcomeStatus.CANCELLED))
        for worker in self._workers:
            worker.cancel()
        self._news.set()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._news.set()
        if worker.cancelled():
            return
        error = worker.exception()
        if error is not None and self._failure is None and not self._stopped:
            self._failure = error
