"""Many rollouts at once: outcomes as they come, stragglers left behind, nothing left open.

Rules:

- Workers, one session each, take the episodes that the schedule gives (``schedule``). A session is
  reused after a good episode (``reset`` again) and replaced after any other.
- A rollout is repeated only where ``retry`` allows it: what carried the environment failed before
  the policy's first action was sent (``unstarted``), or the episode has a seed (``seeded``).
- An exception of the policy, or a task that ``reset`` refuses, is the outcome of that episode
  (``policy_error``, ``task_error``). It is raised as well, once all outcomes were handed over, when
  not one episode ended otherwise: then it is a bug.
- A session whose worker is leaving gets no further episode: it is closed, and another is opened.
- A server that is full is waited for, before an episode begins, never in the middle of one.
- Every episode asked for gives exactly one outcome: one that is stopped at the deadline, or when
  enough have ended, comes as ``cancelled`` with the steps it had.
- An error of the tasks' source, or of ``on_progress``, is raised once what has ended was handed
  over; with the first, episodes that run are played to their end before.
- The workers are owned by one object, not by a task group around the ``yield``: a generator may
  be resumed and closed by different tasks, which a task group does not survive.
- A slow reader delays the next episodes, never one that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import logging
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack, cast, get_args, overload

from openenv_async.errors import OpenEnvError, QuotaReached
from openenv_async.renamed import renamed_arguments
from openenv_async.rollouts.agents import AgentRollout, EpisodeAgent
from openenv_async.rollouts.checking import (
    check_agent,
    check_count,
    check_policy,
    check_seconds,
    check_seed,
)
from openenv_async.rollouts.progress import shown_progress
from openenv_async.rollouts.resuming import Run, RunEpisodes, folder_of, leave_folder
from openenv_async.rollouts.run import MAX_MISTAKES, OnMistake, Rollout, status_of
from openenv_async.rollouts.run_journal import EpisodeKey
from openenv_async.rollouts.schedule import Planned, Schedule
from openenv_async.rollouts.sessions import (
    Retry,
    Sessions,
    Source,
    TypedSource,
    sessions_of,
    usual_retry,
)
from openenv_async.rollouts.summary import Summary
from openenv_async.rollouts.tasks import Tasks, TaskSource, as_source
from openenv_async.rollouts.versions import Admission
from openenv_async.rollouts.video import Video, VideoRecorder, drawing
from openenv_async.rollouts.watching import RunWatch
from openenv_async.targets.sessions import TargetSessions
from openenv_async.telemetry.spans import Span, begin
from openenv_async.types import ActT, ObsT, Outcome, OutcomeStatus, PlainValue, Trajectory

__all__ = [
    "BatchKeywords",
    "CollectKeywords",
    "CollectOptions",
    "EpisodeKeywords",
    "Receipt",
    "Results",
    "collect",
    "collect_all",
    "outcomes_of",
]

T = TypeVar("T")

log = logging.getLogger("openenv_async.rollouts")

_MAX_RETRIES: Final = 2
_AFTER_DEADLINE: Final = 0.05
"""Seconds that sessions have to close when the deadline passed, before they are just left."""
_AFTER_CLOSE: Final = 1.0
_LOGS: Final = 20
"""Failed episodes whose worker's log is asked for: a log is a call of the Docker Engine."""
_LOG_LAG: Final = 0.05
"""Seconds that the last lines of a log may come later than the answer to a step."""
_HOPELESS: Final = 32
"""Episodes of an endless collection that all end with a policy error before it ends with it."""
_GOES_ON: Final = frozenset(
    {
        OutcomeStatus.COMPLETED,
        OutcomeStatus.TRUNCATED,
        OutcomeStatus.INVALID_ACTION,
        OutcomeStatus.TASK_ERROR,
    }
)
"""Statuses after which a session is good for another episode."""


class EpisodeKeywords(TypedDict, total=False):
    """Keyword arguments of ``collect`` that every way to play many episodes takes."""

    max_steps: int | None
    timeout: float | None
    reset_options: Mapping[str, Any] | None
    min_episodes: int | None
    deadline: float | None
    max_ahead: int | None
    on_progress: Callable[[Summary], None] | None
    record: bool
    on_mistake: OnMistake | None
    max_mistakes: int
    policy_timeout: float | None
    run: Run | None
    progress: bool
    video: Video | None


class BatchKeywords(EpisodeKeywords, total=False):
    """Those, and the ones that each such call names itself."""

    retry: Retry | None
    summary: Summary | None
    agent: EpisodeAgent | None


class CollectKeywords(BatchKeywords, total=False):
    """Keyword arguments of ``collect``, except ``episodes`` and those of URLs."""

    tasks: Tasks | None
    group_size: int | None
    concurrency: int
    seeds: int | Sequence[int] | None
    only: Collection[int] | None
    stop: Stop | None


@overload
def collect(
    source: TypedSource[ActT, ObsT],
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[CollectKeywords],
) -> AsyncGenerator[Outcome[ObsT, ActT], None]: ...


@overload
def collect(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[CollectKeywords],
) -> AsyncGenerator[Outcome[PlainValue, PlainValue], None]: ...


@renamed_arguments(min_count="min_episodes")
def collect(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    tasks: Tasks | None = None,
    group_size: int | None = None,
    concurrency: int = 64,
    seeds: int | Sequence[int] | None = None,
    max_steps: int | None = None,
    timeout: float | None = None,
    reset_options: Mapping[str, Any] | None = None,
    min_episodes: int | None = None,
    deadline: float | None = None,
    max_ahead: int | None = None,
    on_progress: Callable[[Summary], None] | None = None,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    retry: Retry | None = None,
    record: bool = True,
    on_mistake: OnMistake | None = None,
    max_mistakes: int = MAX_MISTAKES,
    policy_timeout: float | None = None,
    run: Run | None = None,
    summary: Summary | None = None,
    only: Collection[int] | None = None,
    stop: Stop | None = None,
    agent: EpisodeAgent | None = None,
    progress: bool = False,
    video: Video | None = None,
) -> AsyncGenerator[Outcome[Any, Any], None]:
    """Play ``episodes`` episodes and yield their outcomes as they end.

    It starts when it is first iterated. Closing it early (``contextlib.aclosing``, or leaving
    the loop) cancels what runs and closes every session.

    Args:
        source: anything that can be played on: a URL, several URLs (sessions are dealt out over
            them), a name, an environment class, a pool, a client factory, …; a server that has to
            be started is started for the first episode and ended with the last.
        policy: chooses the actions of all episodes; see ``policies``. ``None`` with an ``agent``.
        episodes: how many; with ``tasks`` all that there are.
        tasks: one for each group of episodes: a ``.jsonl`` or ``.parquet`` file, a data set, an
            iterable of rows, the name of a split of the environment, a ``TaskSet`` or a
            ``Mixture``. A row becomes options of ``reset``, columns by name.
        group_size: episodes of one task and seed that begin one after the other; 1 by default.
        concurrency: episodes at once, that is sessions.
        seeds: one seed per group (that is per episode, without ``group_size``), or the first of
            consecutive ones; ``None``: the environment draws, for groups one is drawn. The
            column ``seed`` of a task comes first.
        max_steps: of each episode, as in ``rollout``.
        timeout: of each episode, as in ``rollout``.
        reset_options: of each episode, as in ``rollout``; the columns of its task come first.
        min_episodes: once this many episodes ended usable, the rest is cancelled.
        deadline: seconds after which the rest is cancelled.
        max_ahead: outcomes that may wait for a slow reader before no more episodes begin;
            ``2 * concurrency`` by default.
        on_progress: called with the summary before each outcome is handed over; must not block.
        connections: WebSocket connections per URL that the sessions share; one by default.
        token: access token of the servers, where the source is a URL or several.
        params: constructor arguments of the environment, for a name or a class.
        retry: play an episode again, on another session, when its session was lost:
            ``unstarted`` before its first action was sent, ``seeded`` also later if it was given
            a seed, ``always`` also without; twice at most. By default ``unstarted`` on a pool
            and on several servers, ``always`` in a run, else ``never``.
        record: keep a trajectory in each outcome.
        on_mistake, max_mistakes, policy_timeout: as in ``rollout``; an error that it would raise
            is the outcome ``policy_error``.
        run: a ``RunFolder``, or the path of one: only episodes are played that have no outcome
            there, and each is on disk before it is handed over. See ``run_folder``.
        summary: is filled as outcomes arrive; bring one to read it afterwards. Its ``warnings``
            are logged while the run goes on.
        only: numbers of the episodes that are played, each with the seed and the task that it
            has among all.
        stop: ends it early when it is called, see ``Stop``.
        agent: plays whole episodes by itself, in place of a policy; see
            ``openenv_async.gateway.agents``.
        progress: show how it goes: a bar in a notebook, a line on standard error elsewhere.
        video: a folder in which each episode is a video, or a ``VideoRecorder``, which may choose.
            Sessions are opened so that they draw. A failure to draw costs no episode.

    Raises:
        TypeError, ValueError: an argument makes no sense; at once. Or the client factory gave
            no client.
        InvalidTasks: the tasks cannot be read, are not tasks or do not fit the environment. Of
            those whose number is known before anything is played; else once the episodes
            that were begun have ended and were handed over.
        CallerError: a session or a reset was asked for wrongly; ends everything. Outcomes of
            before are handed over first.
        Exception: what ``on_progress`` raised, ends everything; what the policy raised, if it
            raised in every episode, once all outcomes were handed over.
    """
    sessions = sessions_of(
        source, connections=connections, token=token, params=params, entry="collect()"
    )
    options = CollectOptions(
        policy=policy,
        episodes=_number_of(episodes, tasks),
        tasks=None if tasks is None else as_source(tasks),
        group_size=group_size,
        concurrency=concurrency,
        seeds=seeds,
        max_steps=max_steps,
        timeout=timeout,
        reset_options=reset_options,
        record=record,
        on_mistake=on_mistake,
        max_mistakes=max_mistakes,
        policy_timeout=policy_timeout,
        run=run,
        min_episodes=min_episodes,
        deadline=deadline,
        max_ahead=max_ahead,
        on_progress=on_progress,
        retry=retry or usual_retry(sessions, run),
        summary=summary if summary is not None else Summary(episodes),
        only=None if only is None else frozenset(only),
        stop=stop,
        agent=agent,
        progress=progress,
        video=video,
    )
    return outcomes_of(sessions, options)


@overload
async def collect_all(
    source: TypedSource[ActT, ObsT],
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[CollectKeywords],
) -> list[Outcome[ObsT, ActT]]: ...


@overload
async def collect_all(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[CollectKeywords],
) -> list[Outcome[PlainValue, PlainValue]]: ...


@renamed_arguments(min_count="min_episodes")
async def collect_all(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[CollectKeywords],
) -> list[Outcome[Any, Any]]:
    """Play as ``collect`` does; return all outcomes in a list sorted by index."""
    stream = collect(
        source,
        policy,
        episodes=episodes,
        connections=connections,
        token=token,
        params=params,
        **options,
    )
    async with contextlib.aclosing(stream):
        return sorted([outcome async for outcome in stream], key=lambda outcome: outcome.index)


class Stop:
    """A handle that, called, ends a collection early: what has ended is still handed over.

    Episodes that run are cancelled, and give no outcome. The reader's loop then ends by itself.
    """

    def __init__(self) -> None:
        self._asked = False
        self._heed: Callable[[], object] | None = None

    def __call__(self) -> bool:
        """Ask for the end; return whether a collection heeds it already."""
        self._asked = True
        if self._heed is not None:
            self._heed()
        return self._heed is not None

    def bind(self, heed: Callable[[], object]) -> None:
        """Have ``heed`` called when the end is asked for; done by ``collect``."""
        self._heed = heed
        if self._asked:
            heed()


class Receipt:
    """The word of a reader behind the one of a collection that it was given an outcome.

    Attributes:
        note: takes that outcome; the collection sets it.
    """

    def __init__(self) -> None:
        self.note: Callable[[Outcome], object] = lambda outcome: None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectOptions:
    """Arguments of ``collect``, by the same names, checked.

    Attributes:
        episodes: how many; ``None``: as many as there are tasks, or without end.
        admission: says when an episode may begin; ``None``: as soon as there is a session.
        receipt: is told what the reader was given, where that may be later than it was read here.
        draws_seed: ``seeds`` was drawn here: a run that goes on keeps the one of before.
        whole_groups: tells whether finished episodes of a run are handed over again whose group
            has missing ones.
        finish: is called with an outcome before the run keeps it.
        only: numbers of the episodes that are played; ``None``: all.
        on_decision: of ``AgentRollout``.

    Raises:
        TypeError, ValueError: one of them makes no sense.
    """

    policy: Callable[..., Any] | None
    episodes: int | None
    concurrency: int
    seeds: int | Sequence[int] | None
    retry: Retry
    summary: Summary
    tasks: TaskSource | None = None
    group_size: int | None = None
    max_steps: int | None = None
    timeout: float | None = None
    reset_options: Mapping[str, Any] | None = None
    record: bool = True
    on_mistake: OnMistake | None = None
    max_mistakes: int = MAX_MISTAKES
    policy_timeout: float | None = None
    min_episodes: int | None = None
    deadline: float | None = None
    max_ahead: int | None = None
    on_progress: Callable[[Summary], None] | None = None
    admission: Admission | None = None
    receipt: Receipt | None = None
    run: Run | None = None
    draws_seed: bool = False
    whole_groups: Callable[[], bool] | None = None
    finish: Callable[[Outcome], object] | None = None
    only: Collection[int] | None = None
    stop: Stop | None = None
    agent: EpisodeAgent | None = None
    on_decision: Callable[[int, int], OpenEnvError | None] | None = None
    progress: bool = False
    video: Video | None = None

    def __post_init__(self) -> None:
        if self.agent is None:
            check_policy(self.policy)
        else:
            refused = ("policy", "on_mistake", "policy_timeout")
            check_agent(self.agent, {name: getattr(self, name) for name in refused})
            if self.video is not None:
                raise TypeError("video= is for a policy: an agent takes its steps by itself")
        if self.video is not None and not isinstance(self.video, VideoRecorder):
            object.__setattr__(self, "video", VideoRecorder(self.video))
        for name in ("episodes", "group_size", "concurrency", "min_episodes", "max_ahead"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_count(name, value))
        episodes = self.episodes
        size = self.group_size or 1
        if episodes is not None and episodes % size:
            raise ValueError(f"episodes ({episodes}) must be a multiple of group_size ({size})")
        groups = None if episodes is None else episodes // size
        object.__setattr__(self, "seeds", _checked(self.seeds, groups))
        if self.retry not in get_args(Retry):
            raise ValueError(
                f"retry must be one of {', '.join(get_args(Retry))}, got {self.retry!r}"
            )
        if None not in (self.min_episodes, episodes) and self.min_episodes > episodes:  # type: ignore[operator]  # neither is None
            raise ValueError(
                f"min_episodes must be 1 to {episodes} (episodes), got {self.min_episodes}"
            )
        if self.deadline is not None:
            check_seconds("deadline", self.deadline)
        if not isinstance(self.summary, Summary):
            raise TypeError(f"summary must be a Summary, got {self.summary!r}")
        if self.on_progress is not None and not callable(self.on_progress):
            raise TypeError(f"on_progress must be callable, got {self.on_progress!r}")
        seed = None if self.seeds is None else 0
        self.rollout(Planned(0, seed=seed))  # its errors are raised now, not by a worker

    @property
    def player(self) -> Any:
        """The policy, or the agent."""
        return self.policy if self.agent is None else self.agent

    def sessions(self, total: int | None) -> int:
        """Return how many episodes are played at once, of those that there are."""
        return self.concurrency if total is None else min(self.concurrency, total)

    def schedule(self, run: RunEpisodes | None = None) -> Schedule:
        """Return the episodes in their order; of a run those that it has not."""
        seeds = self.seeds if run is None or run.seed is None else run.seed
        if run is not None and self.tasks is not None:
            self.tasks.restart()
        episodes = self.episodes
        if self.only is not None:
            last = max(self.only, default=-1) + 1
            episodes = last if episodes is None else min(episodes, last)

        def wanted(planned: Planned) -> bool:
            is_missing = run is None or run.is_wanted(planned)
            return is_missing and (self.only is None or planned.index in self.only)

        def known(planned: Planned) -> float | None:
            return None if run is None else run.return_of(planned)

        return Schedule(
            episodes=episodes,
            group_size=self.group_size,
            seeds=seeds,
            source=self.tasks,
            ahead=max(8, self.concurrency // (self.group_size or 1)),
            wanted=None if self.only is None and run is None else wanted,
            known=known,
        )

    def settings(self) -> dict[str, Any]:
        """Return what an episode depends on besides policy, tasks and environment."""
        return {
            "seeds": None if self.draws_seed else self.seeds,
            "max_steps": self.max_steps,
            "timeout": self.timeout,
            "policy_timeout": self.policy_timeout,
            "on_mistake": self.on_mistake,
            "max_mistakes": self.max_mistakes,
            "reset_options": self.reset_options,
            "record": self.record,
        }

    def rollout(self, planned: Planned) -> Rollout:
        """Return one episode, yet to be played."""
        options: dict[str, Any] = {
            "seed": planned.seed,
            "task": planned.task,
            "group": planned.group,
            "member": planned.member,
            "attempts": planned.attempts,
            "max_steps": self.max_steps,
            "timeout": self.timeout,
            "reset_options": self.reset_options,
            "record": self.record,
            "index": planned.index,
            "latencies": self.summary.latencies,
            "strict": False,
            "on_refused": self._warn_of_quota,
        }
        if self.agent is not None:
            return AgentRollout(self.agent, on_decision=self.on_decision, **options)
        assert self.policy is not None
        return Rollout(
            self.policy,
            on_mistake=self.on_mistake,
            max_mistakes=self.max_mistakes,
            policy_timeout=self.policy_timeout,
            video=None if self.video is None else self.recorder.episode(planned.index),
            **options,
        )

    def _warn_of_quota(self, index: int, refused: QuotaReached) -> None:
        self.summary.warn(
            "quota_reached",
            f"episode {index} waits for the turn of its token and goes on then: {refused.message}."
            " Set concurrency lower, or ask for a larger quota",
            index,
        )

    @property
    def recorder(self) -> VideoRecorder:
        """The recorder of ``video``."""
        assert isinstance(self.video, VideoRecorder)
        return self.video


def _number_of(episodes: int | None, tasks: Any) -> int | None:
    """Return the number of episodes; tasks have one of their own.

    Raises:
        TypeError: there is neither.
    """
    if episodes is None and tasks is None:
        raise TypeError("say how many episodes there are: episodes=, or tasks= to play each of")
    return episodes


def _checked(seeds: Any, episodes: int | None) -> int | Sequence[int] | None:
    """Return the seeds of as many episodes, or groups; ``None``: their number is not known.

    Raises:
        TypeError: they are neither an integer nor a sequence of integers.
        ValueError: they do not suffice, or one is out of range.
    """
    if seeds is None:
        return None
    if hasattr(seeds, "__index__") and not hasattr(seeds, "__len__"):
        first = check_seed("seeds", seeds)
        check_seed("the last of seeds", first + (episodes or 1) - 1)
        return first
    if isinstance(seeds, str | bytes) or not hasattr(seeds, "__getitem__"):
        raise TypeError(f"seeds must be an integer or a list of integers, got {seeds!r}")
    if episodes is None:
        raise ValueError(
            "a list of seeds needs a number of episodes: give it, or the first of the seeds"
        )
    if len(seeds) < episodes:
        raise ValueError(f"{len(seeds)} seeds do not suffice for {episodes} episodes")
    if isinstance(seeds, list | tuple):
        return [check_seed(f"seeds[{i}]", seed) for i, seed in enumerate(seeds[:episodes])]
    return cast(Sequence[int], seeds)


async def outcomes_of(
    sessions: TargetSessions,
    options: CollectOptions,
    wrap: Callable[[Any], Any] | None = None,
) -> AsyncGenerator[Outcome, None]:
    """The generator that ``collect`` returns, of arguments that were checked.

    Args:
        sessions: of the target; its server is started, if need be, before the first episode.
        options: the arguments.
        wrap: makes of a client the one that is played on.
    """
    async with contextlib.AsyncExitStack() as stack:
        run = None
        if options.run is not None:
            run = await stack.enter_async_context(_run_of(options))
        await stack.enter_async_context(sessions)
        factories = sessions.factories
        if options.video is not None:
            options.recorder.start(options.summary)
            factories = [functools.partial(_wrapped, drawing, make) for make in factories]
        if wrap is not None:
            factories = [functools.partial(_wrapped, wrap, make) for make in factories]
        if options.progress:
            await stack.enter_async_context(shown_progress(options.summary))
        collection = _Collection(factories, options, run)
        try:
            await collection.open(sessions)
            collection.start()
            while (outcome := await collection.next()) is not None:
                yield outcome
        finally:
            await collection.aclose()


def _index(outcome: Outcome) -> int:
    return outcome.index


@contextlib.asynccontextmanager
async def _run_of(options: CollectOptions) -> AsyncIterator[RunEpisodes]:
    """Have the run folder of a collection open.

    Raises:
        RunError: it cannot be opened, or is of another policy, other tasks or settings.
    """
    assert options.run is not None
    folder, opened = await asyncio.to_thread(folder_of, options.run)
    try:
        whole_groups = options.whole_groups is not None and options.whole_groups()
        run = RunEpisodes(folder, options.group_size, whole_groups=whole_groups)
        with folder.playing():
            await run.bind(options.episodes, options.player, options.tasks, options.settings())
            seeds = options.seeds
            if options.draws_seed or (seeds is None and options.group_size):
                drawn = seeds if isinstance(seeds, int) else random.SystemRandom().getrandbits(31)
                run.seed = await asyncio.to_thread(folder.seed, drawn)
            yield run
    finally:
        await leave_folder(folder, opened=opened)


async def _traced(span: Span, rollout: Rollout, client: Any) -> Outcome:
    """Play an episode inside its span."""
    try:
        with span.inside():
            outcome = await rollout.play(client)
        episode = outcome.episode
        span.note(
            {
                "openenv.episode.id": None if episode is None else episode.episode_id,
                "openenv.episode.status": str(outcome.status),
                "openenv.episode.return": outcome.episode_return,
                "openenv.episode.steps": outcome.steps,
            }
        )
        return outcome
    finally:
        span.end()


def _wrapped(wrap: Callable[[Any], Any], make: Callable[[], Any]) -> Any:
    return wrap(make())


class _Collection:
    """The workers of one ``collect`` and their outcomes so far."""

    def __init__(
        self,
        factories: list[Callable[[], Any]],
        options: CollectOptions,
        run: RunEpisodes | None = None,
    ) -> None:
        self._options = options
        self._run = run
        self._summary = options.summary
        self._span = begin("rollouts")
        self._admission = options.admission
        self._schedule = options.schedule(run)
        if run is not None:
            run.stored = self._give_stored
        self._stored: set[int] = set()
        self._params: Mapping[str, Any] | None = None
        self._schedule.on_end = self._nothing_left
        if options.receipt is not None:
            options.receipt.note = self._handed_over
        self._sessions = Sessions(factories, self._left, options.summary)
        # A reader that minds their age is given the oldest first.
        first = None if self._admission is None else _index
        most_ready = options.max_ahead or 2 * options.sessions(options.episodes)
        self._results: Results[Outcome] = Results(most_ready, first)
        self._retries: dict[int, int] = {}
        self._running: dict[int, tuple[Planned, Rollout]] = {}
        self._usable = 0
        self._taken = 0
        self._policy_errors = 0
        self._policy_error: BaseException | None = None
        self._failure: BaseException | None = None
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._logs_left = _LOGS
        self._interrupted = False
        self._watch = RunWatch(
            options.summary,
            lambda: (rollout for _, rollout in self._running.values()),
            lambda: (len(self._tasks), self._sessions.waiting),
            max_steps=options.max_steps,
            timeout=options.timeout,
            model=getattr(options.policy, "corrects_mistakes", False) is True,
        )

    # -- the reader's side --------------------------------------------------------------------

    async def open(self, sessions: TargetSessions) -> None:
        """Read what is to be known of the tasks before the first episode.

        Raises:
            InvalidTasks: they cannot be read, or do not fit the environment.
        """
        await self._schedule.open(sessions)
        total = self._schedule.total
        if self._run is not None:
            self._params = sessions.target.params
            self._usable = self._run.folder.usable
            await asyncio.to_thread(self._run.folder.bind, wanted=total)
            if total is not None:  # what is left of it
                self._summary.total = max(0, total - len(self._run.folder.keys))
        elif self._summary.total is None:
            self._summary.total = total

    def start(self) -> None:
        """Start the workers."""
        options = self._options
        self._summary.start()
        self._watch.start()
        if options.stop is not None:
            options.stop.bind(self._interrupt)
        if self._usable >= (options.min_episodes or self._usable + 1):
            self._stop()  # a run had enough before
            return
        if options.deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(options.deadline, self._stop)
        for number in range(options.sessions(self._schedule.total)):
            task = asyncio.create_task(self._work(number), name=f"openenv-rollout-{number}")
            task.add_done_callback(self._task_ended)
            self._tasks.append(task)

    async def next(self) -> Outcome | None:
        """Return the next outcome; ``None`` when there are no more."""
        outcome = await self._results.next(self._over)
        if outcome is not None:
            if self._options.receipt is None:
                self._handed_over(outcome)
            if self._options.on_progress is not None and self._failure is None:
                self._show_progress(self._options.on_progress)
        return outcome

    def _handed_over(self, outcome: Outcome) -> None:
        """Note that the reader was given an outcome."""
        if outcome.index not in self._stored:
            self._schedule.handed_over(outcome)

    def _show_progress(self, show: Callable[[Summary], None]) -> None:
        """Call back; what that raises ends everything, once what has ended is handed over."""
        try:
            show(self._summary)
        except Exception as exc:
            self._fail(exc)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._results.wake()

    def _over(self) -> bool:
        if self._results.expected:
            return False
        if self._failure is not None:
            raise self._failure
        if not self._stopped and not all(task.done() for task in self._tasks):
            return False
        if self._interrupted:
            return True
        if self._schedule.error is not None:
            raise self._schedule.error
        if self._policy_error is not None and self._policy_errors == self._taken:
            raise self._policy_error
        return True

    async def aclose(self) -> None:
        """Cancel the workers and wait until their sessions are closed; idempotent."""
        self._watch.stop()
        if self._span is not None:
            self._span.end()
        if self._timer is not None:
            self._timer.cancel()
        patience = _AFTER_DEADLINE if self._stopped else _AFTER_CLOSE
        self._stopped = True
        pending = {task for task in self._tasks if not task.done()}
        for task in pending:
            task.cancel()
        interrupted: asyncio.CancelledError | None = None
        try:
            await self._schedule.aclose()
        except asyncio.CancelledError as exc:
            interrupted = exc
        while pending:
            try:
                _, pending = await asyncio.wait(pending, timeout=patience)
            except asyncio.CancelledError as exc:
                interrupted = exc
            # A task that still waits for its session to close has asked for it: enough.
            for task in pending:
                task.cancel()
            patience = _AFTER_CLOSE
        if interrupted is not None:
            raise interrupted

    # -- the workers' side --------------------------------------------------------------------

    async def _work(self, number: int) -> None:
        """Play episodes on one session until there are none left."""
        if self._span is None:
            return await self._work_on(number)
        with self._span.inside():
            return await self._work_on(number)

    async def _work_on(self, number: int) -> None:
        client: Any = None
        try:
            while self._failure is None and await self._schedule.ready():
                if self._run is not None and not self._schedule.find():
                    continue  # what was read is finished, and no session is needed for it
                admission = self._admission
                if admission is not None:
                    await admission.admit(ready=client is not None)
                if client is None:
                    client, error = await self._sessions.open(number)
                    if admission is not None and not admission.claim():
                        continue  # another task had a session for the episode, and plays it
                    if error is not None:
                        number += 1  # elsewhere, if there is an elsewhere
                        self._fail_one(error)
                        continue
                    if client is None:
                        return
                    if self._run is not None:
                        await self._run.check_environment(client, self._params)
                outcome = await self._play(client)
                if outcome is not None and outcome.status not in _GOES_ON:
                    closing, client = client, None
                    if outcome.status is OutcomeStatus.INFRA_ERROR:
                        number += 1
                    await self._sessions.close(closing)
                elif getattr(client, "leaving", False):
                    closing, client = client, None
                    await self._sessions.close(closing)
                await self._results.room()
        finally:
            if client is not None:
                await self._sessions.close(client)

    async def _play(self, client: Any) -> Outcome | None:
        """Play the next episode, if there is one."""
        begun = self._begin()
        if begun is None:
            if self._admission is not None:
                self._admission.give_back()
            return None
        planned, rollout = begun
        span = begin("episode", attributes={"openenv.episode.index": planned.index})
        try:
            if span is None:
                outcome = await rollout.play(client)
            else:
                outcome = await _traced(span, rollout, client)
        except Exception as exc:
            exc.add_note(f"in episode {rollout.index} of collect()")
            raise
        if outcome.status is OutcomeStatus.TASK_ERROR:
            self._name_row(outcome)
        if outcome.error is not None and outcome.trajectory is not None:
            await self._record_worker(client, outcome.trajectory)
        if self._running.pop(rollout.index, None) is not None:
            self._summary.running = len(self._running)
            self._watch.ended(rollout)
            if self._plays_again(planned, rollout, outcome):
                if self._run is not None:
                    self._run.lost(planned, outcome)
                self._schedule.again(planned)
            else:
                self._take(outcome)
        return outcome

    def _name_row(self, outcome: Outcome) -> None:
        """Say in the error of a task which row it is of."""
        where, error = self._schedule.where(outcome.index), outcome.error
        if where is not None and error is not None:
            if isinstance(error, OpenEnvError):
                error.detail["row"] = where
                if outcome.trajectory is not None:
                    detail = outcome.trajectory.error_detail or {}
                    outcome.trajectory.error_detail = {**detail, "row": where}
            error.add_note(f"{where}, the task {outcome.task.id!r}" if outcome.task else where)

    async def _record_worker(self, client: Any, trajectory: Trajectory) -> None:
        """Record which worker an episode failed on, and for some what that had written last."""
        worker = getattr(client, "worker", None)
        if worker is None:
            return
        detail = {"worker": worker.name, **(trajectory.error_detail or {})}
        trajectory.error_detail = detail
        if "log_tail" not in detail and self._logs_left:
            self._logs_left -= 1
            await asyncio.sleep(_LOG_LAG)
            if tail := await worker.log_tail():
                detail["log_tail"] = tail

    def _plays_again(self, planned: Planned, rollout: Rollout, outcome: Outcome) -> bool:
        """Tell whether a failed episode may be repeated; count it as repeated then."""
        index = rollout.index
        if outcome.status is not OutcomeStatus.INFRA_ERROR or self._options.retry == "never":
            return False
        retry, run = self._options.retry, self._run
        anyway = retry == "always" or (retry == "seeded" and rollout.is_seeded)
        last = self._retries.get(index, 0) >= _MAX_RETRIES
        if run is not None:
            last = run.is_last_attempt(planned)
        if last or (rollout.acted and not anyway):
            return False
        log.info("episode %d is played again: %s", index, outcome.error)
        self._retries[index] = self._retries.get(index, 0) + 1
        if self._admission is not None:
            self._admission.give_back()
        self._summary.add_repeated(rollout.steps)
        return True

    def _left(self) -> bool:
        """Tell whether there are episodes to begin."""
        return self._failure is None and self._schedule.left()

    def _nothing_left(self) -> None:
        """Note that no worker needs to wait for a session any more."""
        self._sessions.stop_opening()
        if self._admission is not None:
            self._admission.close()

    def _begin(self, *, plays: bool = True) -> tuple[Planned, Rollout] | None:
        """Take the next episode, to be played or not; ``None`` when there is none."""
        planned = self._schedule.take() if self._failure is None else None
        if not self._left():
            self._nothing_left()
        if planned is None:
            return None
        if self._run is not None and plays:
            self._run.begin(planned)
        rollout = self._options.rollout(planned)
        self._running[planned.index] = planned, rollout
        self._summary.running = len(self._running)
        return planned, rollout

    def _fail_one(self, error: BaseException) -> None:
        """Give the next episode the error of a session that could not be opened."""
        begun = self._begin(plays=False)
        if begun is None:
            if self._admission is not None:
                self._admission.give_back()
            return
        rollout = begun[1]
        del self._running[rollout.index]
        self._take(rollout.ended(status_of(error), error))

    # -- both ---------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        """Deliver an outcome; one of a run once its folder has it."""
        if self._run is None:
            self._deliver(outcome)
            return
        if self._options.finish is not None:
            self._options.finish(outcome)
        self._results.expect()
        self._run.keep(outcome, self._kept)

    def _kept(self, outcome: Outcome | None, error: BaseException | None) -> None:
        self._results.came()
        if error is not None:
            self._fail(error)
        elif outcome is not None:
            self._deliver(outcome)

    def _give_stored(self, planned: Planned, key: EpisodeKey) -> None:
        """Deliver a finished episode of before, whose group has a missing one."""
        assert self._run is not None
        if self._admission is not None:
            self._admission.joined()
        self._stored.add(planned.index)
        self._results.expect()
        self._run.fetch(planned, key, self._stored_came)

    def _stored_came(self, outcome: Outcome | None, error: BaseException | None) -> None:
        self._results.came()
        if error is not None:
            self._fail(error)
        elif outcome is not None:
            self._results.put(outcome)

    def _deliver(self, outcome: Outcome) -> None:
        self._summary.add(outcome)
        self._results.put(outcome)
        self._taken += 1
        if outcome.status in (OutcomeStatus.POLICY_ERROR, OutcomeStatus.TASK_ERROR):
            self._take_policy_error(outcome)
        if outcome.status.usable:
            self._usable += 1
            if self._usable == self._options.min_episodes:
                self._stop()

    def _take_policy_error(self, outcome: Outcome) -> None:
        """Note why no episode has got through, as long as none has."""
        self._policy_errors += 1
        if self._policy_error is None:
            self._policy_error = outcome.error
            if outcome.error is not None:
                outcome.error.add_note(f"in episode {outcome.index} of collect()")
        endless = self._schedule.total is None
        many = max(_HOPELESS, 2 * self._options.concurrency)
        if endless and self._policy_errors == self._taken == many:
            self._failure = self._policy_error
            self._results.wake()

    def _stop(self) -> None:
        """Stop all episodes, begun or not; each gives a ``cancelled`` outcome."""
        if self._stopped:
            return
        self._stopped = True
        running, self._running = self._running, {}
        self._summary.running = 0
        for _, rollout in running.values():
            self._take(rollout.ended(OutcomeStatus.CANCELLED))
        for planned in self._schedule.rest() if self._failure is None else ():
            self._take(self._options.rollout(planned).ended(OutcomeStatus.CANCELLED))
        for task in self._tasks:
            task.cancel()
        self._results.wake()

    def _interrupt(self) -> None:
        """Begin nothing more and cancel what runs; what has ended is still handed over."""
        if not self._stopped:
            self._stopped = self._interrupted = True
            self._running = {}
            self._summary.running = 0
            for task in self._tasks:
                task.cancel()
            self._results.wake()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._results.wake()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._failure is None and not self._stopped:
            self._failure = error


class Results(Generic[T]):
    """Results that were made and not yet read. Makers that ask for room wait for a slow reader.

    Args:
        most: results that may wait for the reader before there is no more room.
        rank: the reader is given the result of the least rank, of those that are there; by
            default the one that was made first.

    Attributes:
        expected: results that will come.
    """

    def __init__(self, most: int, rank: Callable[[T], int] | None = None) -> None:
        self._most = most
        self._rank = rank
        self._made = 0
        self._ready: list[tuple[int, int, T]] = []
        self.expected = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def expect(self) -> None:
        """Note that a result will come for which there must be room."""
        self.expected += 1
        self._check_room()

    def came(self) -> None:
        """Note that one that was expected is there, or will not come."""
        self.expected -= 1
        self._check_room()
        self._news.set()

    def put(self, result: T) -> None:
        """Add a result, room or not."""
        self._made += 1
        rank = self._made if self._rank is None else self._rank(result)
        heapq.heappush(self._ready, (rank, self._made, result))
        self._news.set()
        self._check_room()

    def _check_room(self) -> None:
        if len(self._ready) + self.expected < self._most:
            self._room.set()
        else:
            self._room.clear()

    async def room(self) -> None:
        """Return when the reader has not too many results before it."""
        await self._room.wait()

    def wake(self) -> None:
        """Have the reader ask again whether it is over."""
        self._news.set()

    async def next(self, over: Callable[[], bool]) -> T | None:
        """Return the next result; ``None`` when there is none and it is over.

        Args:
            over: whether no more will come; what it raises is raised here.
        """
        while not self._ready:
            if over():
                return None
            self._news.clear()
            await self._news.wait()
        *_, result = heapq.heappop(self._ready)
        self._check_room()
        return result
