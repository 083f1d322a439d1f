"""Episodes without end for a trainer that learns while they are played.

Rules:

- It is ``collect`` underneath: one session per task, one outcome per episode begun, which a policy
  or an agent plays.
- The policy may change while episodes run (``VersionedPolicy.publish``, see ``versions``). An
  episode that falls further behind than ``max_staleness`` is cancelled and left out, and that is
  logged. So that few do, one only begins when it can still be used (``admission``).
- The age of an episode is judged when it is handed over, with its group where there is one. A
  group with members that are too old is handed over with them, as it is with failures: the
  others can be trained on. No member is replaced: one of a newer policy would be of another kind.
- A slow learner delays the episodes: no more than ``max_ahead`` episodes wait for it.
- A group is ``group_size`` episodes of one task and seed; it is complete when each of them has
  ended, failed or been cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, Unpack, get_args, overload

from openenv_async.deadlines import wait_uncancelled
from openenv_async.renamed import renamed_arguments
from openenv_async.rollouts.agents import EpisodeAgent
from openenv_async.rollouts.checking import check_agent, check_count, check_policy, check_seed
from openenv_async.rollouts.collection import (
    BatchKeywords,
    CollectOptions,
    EpisodeKeywords,
    Receipt,
    outcomes_of,
)
from openenv_async.rollouts.groups import EpisodeGroup, InvalidActions, StreamedEpisode
from openenv_async.rollouts.sessions import (
    Retry,
    Source,
    TypedSource,
    sessions_of,
    usual_retry,
)
from openenv_async.rollouts.summary import Summary
from openenv_async.rollouts.tasks import Tasks, as_source
from openenv_async.rollouts.versions import Admission, PolicyWatch, WatchedClient
from openenv_async.types import ActT, ObsT, Outcome, PlainValue

__all__ = ["EpisodeStream", "GroupStream", "StreamStatistics", "stream", "stream_groups"]

log = logging.getLogger("openenv_async.rollouts")

_FEW: Final = 4
"""Episodes thrown away of which nothing is told yet."""


class StreamKeywords(BatchKeywords, total=False):
    """Keyword arguments that ``stream`` and ``stream_groups`` share, except those of URLs."""

    tasks: Tasks | None
    concurrency: int
    seed: int | None
    max_staleness: int | None
    invalid_actions: InvalidActions | None


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """The use that was made of a stream's episodes so far.

    Attributes:
        begun: episodes that began; one that is played again counts once.
        used: those that were handed over and are not too old, failures included.
        stale: those whose policy was too old, handed over with their group or not.
        left_out: failed ones that were not handed over.
        unfinished: those that are played, or wait to be read.
        groups: groups that were handed over.
        whole_groups: those among them of which no member was too old.
        waited: seconds for which the reader waited.
        seconds: from the reader's first wait to the end of its last.
    """

    begun: int
    used: int
    stale: int
    left_out: int
    unfinished: int
    groups: int
    whole_groups: int
    waited: float
    seconds: float

    @property
    def waste(self) -> float:
        """Share of the episodes thrown away for their age, of those that came to their end."""
        ended = self.used + self.stale + self.left_out
        return self.stale / ended if ended else 0.0

    @property
    def waiting(self) -> float:
        """Share of the time for which the reader waited."""
        return self.waited / self.seconds if self.seconds else 0.0


class EpisodeStream(AsyncIterator[StreamedEpisode[ObsT, ActT]], Generic[ObsT, ActT]):
    """A stream of episodes: iterate over it, and close it.

    Attributes:
        summary: of every episode that ended, failures included.
        stale: episodes thrown away because their policy became too old.
        left_out: failed episodes that were not handed over.
    """

    def __init__(
        self,
        outcomes: AsyncGenerator[Outcome[ObsT, ActT], None],
        watch: PolicyWatch,
        summary: Summary,
        *,
        partial: bool,
        failures: bool,
        admission: Admission | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        self.summary = summary
        self.stale = 0
        self.left_out = 0
        self._used = 0
        self._groups = 0
        self._whole_groups = 0
        self._waited = 0.0
        self._since: float | None = None
        self._until = 0.0
        self._outcomes = outcomes
        self._watch = watch
        self._partial = partial
        self._failures = failures
        self._admission = admission
        self._receipt = receipt
        self._in_groups = False
        self._told = 0
        self._coming: asyncio.Task[Outcome[ObsT, ActT] | None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def __anext__(self) -> StreamedEpisode[ObsT, ActT]:
        while True:
            if self._admission is not None:
                self._admission.asked()
            if self._coming is None:
                self._coming = asyncio.create_task(_next(self._outcomes), name="openenv-stream")
            asked = _loop_time()
            if self._since is None:
                self._since = asked
            try:
                # A reader whose wait times out ends the wait, not the stream.
                outcome = await asyncio.shield(self._coming)
            finally:
                self._until = _loop_time()
                self._waited += self._until - asked
            self._coming = None
            if outcome is None:
                raise StopAsyncIteration
            if self._receipt is not None:  # from here on nothing is awaited
                self._receipt.note(outcome)
            episode = self._watch.episode(outcome)
            if self._in_groups:
                return episode
            self._note([episode])
            if self._is_wanted(episode):
                if self._admission is not None:
                    self._admission.read(1)
                return episode
            if not episode.stale:
                self.left_out += 1
                self._used -= 1
            if self._admission is not None:
                self._admission.dropped()

    def statistics(self) -> StreamStatistics:
        """Return the use that was made of the episodes so far."""
        return StreamStatistics(
            begun=self._watch.begun,
            used=self._used,
            stale=self.stale,
            left_out=self.left_out,
            unfinished=len(self._watch.begun_at),
            groups=self._groups,
            whole_groups=self._whole_groups,
            waited=self._waited,
            seconds=0.0 if self._since is None else self._until - self._since,
        )

    def _note(self, members: list[StreamedEpisode[ObsT, ActT]]) -> None:
        """Count the episodes of a group, or one by itself, and the time that they took."""
        begun, ended = math.inf, -math.inf
        stale = 0
        for episode in members:
            at = self._watch.begun_at.pop(episode.outcome.index, None)
            if at is not None:
                begun = min(begun, at)
                ended = max(ended, at + episode.outcome.duration)
            stale += episode.stale
        if self._admission is not None and ended > begun:
            self._admission.pace.played(ended - begun, stale > 0)
        self._used += len(members) - stale
        self.stale += stale
        if stale:
            self._tell_stale()

    def _is_wanted(self, episode: StreamedEpisode[ObsT, ActT]) -> bool:
        if episode.stale:
            return False
        return episode.usable or self._failures or (self._partial and episode.partial)

    def _tell_stale(self) -> None:
        """Log that more than a quarter is too old, and again each time that these have doubled."""
        ended = self._used + self.stale + self.left_out
        if self.stale < max(_FEW, 2 * self._told) or self.stale <= ended / 4:
            return
        self._told = self.stale
        remedy = "" if self._admission is None else f"; {self._admission.pace.remedy()}"
        log.warning(
            "%d of %d episodes (%.0f %%) are thrown away: the policy moved on by more than"
            " max_staleness versions while they were played or waited to be read%s",
            self.stale,
            ended,
            100 * self.stale / ended,
            remedy,
        )

    def in_groups(self) -> None:
        """Leave out no episodes from now on: the maker of groups hands them over."""
        self._in_groups = self._watch.in_groups = True

    def hand_over(self, members: list[StreamedEpisode[ObsT, ActT]]) -> None:
        """Note that the reader is given a group, and which of its members are too old by now."""
        for episode in members:
            self._watch.judge(episode)
        self._note(members)
        self._groups += 1
        self._whole_groups += not any(episode.stale for episode in members)
        if self._admission is not None:
            self._admission.read(len(members))

    async def aclose(self) -> None:
        """Cancel the episodes that run and close every session; idempotent."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
        try:
            if coming is not None:
                await wait_uncancelled(coming)
                if not coming.cancelled():
                    coming.exception()  # of no interest to the caller that closes
        finally:
            await self._outcomes.aclose()


def _loop_time() -> float:
    """Seconds of the clock of the loop that runs."""
    return asyncio.get_running_loop().time()


async def _next(
    outcomes: AsyncGenerator[Outcome[ObsT, ActT], None],
) -> Outcome[ObsT, ActT] | None:
    return await anext(outcomes, None)


class GroupStream(AsyncIterator[EpisodeGroup[ObsT, ActT]], Generic[ObsT, ActT]):
    """A stream of complete groups, in the order of their completion.

    Attributes:
        episodes: the stream behind, for its ``summary`` and ``stale``.
    """

    def __init__(self, episodes: EpisodeStream[ObsT, ActT], size: int) -> None:
        episodes.in_groups()
        self.episodes = episodes
        self._size = size
        self._open: dict[int, list[StreamedEpisode[ObsT, ActT]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def __anext__(self) -> EpisodeGroup[ObsT, ActT]:
        while True:
            episode = await anext(self.episodes)
            members = self._open.setdefault(episode.group, [])
            members.append(episode)
            if len(members) == self._size:
                del self._open[episode.group]
                members.sort(key=lambda episode: episode.member)
                self.episodes.hand_over(members)
                return EpisodeGroup(episode.group, members)

    def statistics(self) -> StreamStatistics:
        """Return the use that was made of the groups and their episodes so far."""
        return self.episodes.statistics()

    async def aclose(self) -> None:
        """Cancel the episodes that run and close every session; idempotent."""
        await self.episodes.aclose()


@overload
def stream(
    source: TypedSource[ActT, ObsT],
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    group_size: int = 1,
    partial: bool = False,
    failures: bool = False,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[StreamKeywords],
) -> EpisodeStream[ObsT, ActT]: ...


@overload
def stream(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    group_size: int = 1,
    partial: bool = False,
    failures: bool = False,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[StreamKeywords],
) -> EpisodeStream[PlainValue, PlainValue]: ...


@renamed_arguments(min_count="min_episodes")
def stream(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    episodes: int | None = None,
    tasks: Tasks | None = None,
    group_size: int = 1,
    concurrency: int = 64,
    seed: int | None = None,
    max_staleness: int | None = None,
    invalid_actions: InvalidActions | None = None,
    partial: bool = False,
    failures: bool = False,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    retry: Retry | None = None,
    summary: Summary | None = None,
    agent: EpisodeAgent | None = None,
    **options: Unpack[EpisodeKeywords],
) -> EpisodeStream[Any, Any]:
    """Play episodes for ``async for``, each handed over when it has ended.

    It starts when it is first iterated; close it (``async with``) to stop.

    Args:
        source: anything that can be played on, as for ``collect``.
        policy: as for ``collect``; one with an integer ``version`` (``VersionedPolicy``) is
            watched for staleness. ``None`` with an ``agent``.
        episodes: how many in all; ``None``: as many as there are tasks, without tasks endless.
        tasks: one for each group, as for ``collect``.
        group_size: episodes of one task and seed that begin one after the other.
        concurrency: episodes at once.
        seed: of the first group, the others count on; a random one is drawn when ``None``.
        max_staleness: versions that an episode's first action may be behind the current one when
            the episode is read. An episode begins only when it can be read by then, and whole
            groups before others; one that is late all the same is left out, and that is logged.
        invalid_actions: ``keep`` or ``mask`` episodes that a mistake of the policy ended; by
            default those are kept for which the environment gave a penalty.
        partial: hand over episodes that were stopped at a deadline with steps, too.
        failures: hand over everything that is not usable, too.
        connections, token, params, retry: as for ``collect``.
        summary: is filled as episodes end; bring one to read it afterwards.
        agent: plays whole episodes by itself, as for ``collect``; one with an integer ``version``
            is watched for staleness, and an episode that is too old ends with its next step.
        options: as for ``collect``: ``max_steps``, ``timeout`` and ``reset_options`` of each
            episode, ``record``, ``on_progress``; ``max_ahead``, episodes that may wait for the
            reader (those that run when it is reached are finished); ``deadline`` and
            ``min_episodes``, only with ``episodes``.
    """
    group_size = check_count("group_size", group_size)
    if agent is None:
        check_policy(policy)
    else:
        check_agent(agent, {"policy": policy})
    player = policy if agent is None else agent
    if max_staleness is not None:
        max_staleness = check_count("max_staleness", max_staleness, 0)
    _check_stream(player, episodes, tasks, max_staleness, options)
    summary = summary if summary is not None else Summary(episodes)
    if invalid_actions is not None and invalid_actions not in get_args(InvalidActions):
        raise ValueError(f"invalid_actions must be 'keep' or 'mask', got {invalid_actions!r}")
    watch = PolicyWatch(
        player,
        group_size,
        max_staleness,
        invalid_actions,
        _loop_time,
        is_agent=agent is not None,
    )
    admission = None
    if max_staleness is not None:
        admission = Admission(lambda: watch.version, group_size, max_staleness, _loop_time)
    sessions = sessions_of(
        source, connections=connections, token=token, params=params, entry="stream()"
    )
    receipt = Receipt()
    outcomes = outcomes_of(
        sessions,
        CollectOptions(
            policy=watch if agent is None else None,
            agent=agent,
            on_decision=watch.agent_decides,
            episodes=episodes,
            tasks=None if tasks is None else as_source(tasks),
            group_size=group_size,
            concurrency=concurrency,
            seeds=random.SystemRandom().getrandbits(31)
            if seed is None
            else check_seed("seed", seed),
            draws_seed=seed is None,
            whole_groups=lambda: watch.in_groups,
            finish=watch.finish,
            retry=retry or usual_retry(sessions, options.get("run")),
            summary=summary,
            admission=admission,
            receipt=receipt,
            **options,
        ),
        # The steps of an agent do not go through its session's client.
        wrap=None if agent is not None else lambda client: WatchedClient(client, watch),
    )
    return EpisodeStream(
        outcomes,
        watch,
        summary,
        partial=partial,
        failures=failures,
        admission=admission,
        receipt=receipt,
    )


def _check_stream(
    player: Any,
    episodes: int | None,
    tasks: Any,
    max_staleness: int | None,
    options: EpisodeKeywords,
) -> None:
    """Refuse arguments that do not fit together.

    Raises:
        TypeError, ValueError: they do not.
    """
    known = EpisodeKeywords.__annotations__
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(
            f"stream() has no argument {unknown[0]!r}; there are {', '.join(sorted(known))}"
            " besides its own"
        )
    if max_staleness is not None and getattr(player, "version", None) is None:
        raise ValueError(
            "max_staleness needs a policy with a version: VersionedPolicy; or an agent with one,"
            " such as that of its gateway, which publish(0) sets"
        )
    if options.get("deadline") is not None and episodes is None and tasks is None:
        raise ValueError(
            "deadline= needs a number of episodes, or tasks: an endless stream has no end"
        )


@overload
def stream_groups(
    source: TypedSource[ActT, ObsT],
    policy: Callable[..., Any] | None = None,
    *,
    group_size: int,
    groups: int | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[StreamKeywords],
) -> GroupStream[ObsT, ActT]: ...


@overload
def stream_groups(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    group_size: int,
    groups: int | None = None,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[StreamKeywords],
) -> GroupStream[PlainValue, PlainValue]: ...


@renamed_arguments(min_count="min_episodes")
def stream_groups(
    source: Source,
    policy: Callable[..., Any] | None = None,
    *,
    group_size: int,
    groups: int | None = None,
    connections: int | None = None,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Unpack[StreamKeywords],
) -> GroupStream[Any, Any]:
    """Play groups and hand each over once all of its episodes have ended, failures included.

    Args:
        source, policy: as for ``stream``.
        group_size: episodes of one task and seed.
        groups: how many in all; ``None``: one for each task, without tasks endless.
        connections, token, params, options: as for ``stream``: ``agent``, ``tasks``,
            ``concurrency``, ``seed``, ``max_staleness``, ``max_ahead``, ``deadline``,
            ``timeout``, ``retry``, …
    """
    group_size = check_count("group_size", group_size)
    if groups is not None:
        groups = check_count("groups", groups)
    episodes = stream(
        source,
        policy,
        episodes=None if groups is None else groups * group_size,
        group_size=group_size,
        partial=True,
        failures=True,
        connections=connections,
        token=token,
        params=params,
        **options,
    )
    return GroupStream(episodes, group_size)
