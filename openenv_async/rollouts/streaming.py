"""Episodes without end for a trainer that learns while they are played.

Rules:

- It is ``collect`` underneath: one session per worker, one outcome per episode begun.
- The policy may change while episodes run (``VersionedPolicy.publish``). Each action notes the
  version at which it was asked for. An episode that falls further behind than ``max_staleness``
  is cut off before its next step and left out.
- A slow learner holds the workers back: no more than ``max_ahead`` episodes wait for it.
- A group is ``group_size`` episodes of one seed; it is complete when each of them has ended,
  failed or been cut off.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Self

from openenv_async.errors import OperationCancelled
from openenv_async.rollouts.collection import Retry, Source, client_factories, collect
from openenv_async.rollouts.groups import EpisodeGroup, StreamedEpisode
from openenv_async.rollouts.policies import Turn, bind
from openenv_async.rollouts.summary import Summary
from openenv_async.types import Outcome

__all__ = ["EpisodeStream", "GroupStream", "VersionedPolicy", "stream", "stream_groups"]


class VersionedPolicy:
    """A policy that a learner replaces while rollouts use it.

    Args:
        policy: the first one.
        version: its number.
    """

    def __init__(self, policy: Callable[..., Any], version: int = 0) -> None:
        self.policy = policy
        self.version = version

    def publish(self, policy: Callable[..., Any] | None = None) -> int:
        """The next version, from now on; ``None`` when the same object has new weights."""
        if policy is not None:
            self.policy = policy
        self.version += 1
        return self.version

    def for_episode(self, index: int) -> Callable[[Any, Turn], Any]:
        """The policy of one episode; it follows what is published."""
        policy, decide = self.policy, bind(self.policy, index)

        def act(observation: Any, turn: Turn) -> Any:
            nonlocal policy, decide
            if policy is not self.policy:
                policy, decide = self.policy, bind(self.policy, index)
            return decide(observation, turn)

        return act

    def __call__(self, observation: Any, turn: Turn) -> Any:
        """An action of the current version."""
        return bind(self.policy, turn.index)(observation, turn)


class EpisodeStream(AsyncIterator[StreamedEpisode]):
    """What ``stream`` returns: iterate over it, and close it.

    Attributes:
        summary: of every episode that ended, failures included.
        stale: episodes left out because their policy became too old.
        left_out: failed episodes that were not handed over.
    """

    def __init__(
        self, outcomes: AsyncGenerator[Outcome, None], watch: _Watch, summary: Summary, **keep: bool
    ) -> None:
        self.summary = summary
        self.stale = 0
        self.left_out = 0
        self._outcomes = outcomes
        self._watch = watch
        self._keep = keep
        self._coming: asyncio.Task[Outcome | None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def __anext__(self) -> StreamedEpisode:
        while True:
            if self._coming is None:
                self._coming = asyncio.create_task(_next(self._outcomes), name="openenv-stream")
            # A reader that gives up waiting (a timeout) ends its wait, not the stream.
            outcome = await asyncio.shield(self._coming)
            self._coming = None
            if outcome is None:
                raise StopAsyncIteration
            episode = self._watch.episode(outcome)
            if episode.stale:
                self.stale += 1
                if not self._keep["stale"]:
                    continue
            elif not episode.usable and not (
                self._keep["failures"] or (self._keep["partial"] and episode.partial)
            ):
                self.left_out += 1
                continue
            return episode

    async def aclose(self) -> None:
        """Cancel what runs and close every session; idempotent."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.wait([coming])
            if not coming.cancelled():
                coming.exception()  # of no interest to who closes
        await self._outcomes.aclose()


async def _next(outcomes: AsyncGenerator[Outcome, None]) -> Outcome | None:
    return await anext(outcomes, None)


class GroupStream(AsyncIterator[EpisodeGroup]):
    """What ``stream_groups`` returns: complete groups, in the order of their completion.

    Attributes:
        episodes: the stream behind, for its ``summary`` and ``stale``.
    """

    def __init__(self, episodes: EpisodeStream, size: int) -> None:
        self.episodes = episodes
        self._size = size
        self._open: dict[int, list[StreamedEpisode]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def __anext__(self) -> EpisodeGroup:
        while True:
            episode = await anext(self.episodes)
            members = self._open.setdefault(episode.group, [])
            members.append(episode)
            if len(members) == self._size:
                del self._open[episode.group]
                members.sort(key=lambda episode: episode.member)
                return EpisodeGroup(episode.group, members)

    async def aclose(self) -> None:
        """As ``EpisodeStream.aclose``."""
        await self.episodes.aclose()


def stream(
    source: Source,
    policy: Callable[..., Any],
    *,
    episodes: int | None = None,
    concurrency: int = 64,
    group_size: int = 1,
    seed: int | None = None,
    max_staleness: int | None = None,
    max_ahead: int | None = None,
    partial: bool = False,
    failures: bool = False,
    deadline: float | None = None,
    timeout: float | None = None,
    connections: int | None = None,
    token: str | None = None,
    retry: Retry | None = None,
    summary: Summary | None = None,
    **options: Any,
) -> EpisodeStream:
    """Episodes as they end, for ``async for``.

    It starts when it is first iterated; close it (``async with``) to stop.

    Args:
        source: a URL, several, a pool or a client factory, as for ``collect``.
        policy: as for ``collect``; one with an integer ``version`` (``VersionedPolicy``) is
            watched for staleness.
        episodes: how many in all; endless when ``None``.
        concurrency: episodes at once.
        group_size: episodes of one seed that begin one after the other.
        seed: of the first group, the others count on; a random one is drawn when ``None``.
        max_staleness: versions that an episode's first action may be behind the current one.
        max_ahead: episodes that may wait for the reader; ``2 * concurrency`` by default. Those
            that run when it is reached are finished.
        partial: hand over episodes that were cut off at a deadline with steps, too.
        failures: hand over everything that is not usable, too.
        deadline: seconds after which all that runs is cut off; only with ``episodes``.
        timeout: seconds for one episode.
        connections, token, retry, options: as for ``collect``.
        summary: is filled as episodes end; bring one to read it afterwards.
    """
    return _stream(
        source,
        policy,
        episodes=episodes,
        concurrency=concurrency,
        group_size=group_size,
        seed=seed,
        max_staleness=max_staleness,
        max_ahead=max_ahead,
        deadline=deadline,
        timeout=timeout,
        connections=connections,
        token=token,
        retry=retry,
        summary=summary if summary is not None else Summary(episodes),
        options=options,
        keep={"partial": partial, "failures": failures, "stale": False},
    )


def stream_groups(
    source: Source,
    policy: Callable[..., Any],
    *,
    group_size: int,
    groups: int | None = None,
    concurrency: int = 64,
    seed: int | None = None,
    max_staleness: int | None = None,
    max_ahead: int | None = None,
    deadline: float | None = None,
    timeout: float | None = None,
    connections: int | None = None,
    token: str | None = None,
    retry: Retry | None = None,
    summary: Summary | None = None,
    **options: Any,
) -> GroupStream:
    """Play groups and hand each over once all of its episodes have ended, failures included.

    Args:
        source, policy, options: as for ``stream``.
        group_size: episodes of one seed.
        groups: how many in all; endless when ``None``.
        concurrency, seed, max_staleness, max_ahead, deadline, timeout, connections, token,
        retry, summary: as for ``stream``.
    """
    episodes = None if groups is None else groups * group_size
    made = _stream(
        source,
        policy,
        episodes=episodes,
        concurrency=concurrency,
        group_size=group_size,
        seed=seed,
        max_staleness=max_staleness,
        max_ahead=max_ahead,
        deadline=deadline,
        timeout=timeout,
        connections=connections,
        token=token,
        retry=retry,
        summary=summary if summary is not None else Summary(episodes),
        options=options,
        keep={"partial": True, "failures": True, "stale": True},
    )
    return GroupStream(made, group_size)


def _stream(
    source: Source,
    policy: Callable[..., Any],
    *,
    episodes: int | None,
    group_size: int,
    seed: int | None,
    max_staleness: int | None,
    connections: int | None,
    token: str | None,
    deadline: float | None,
    retry: Retry | None,
    summary: Summary,
    options: dict[str, Any],
    keep: dict[str, bool],
    **limits: Any,
) -> EpisodeStream:
    if group_size < 1:
        raise ValueError(f"group_size must be at least 1, got {group_size}")
    if max_staleness is not None and (max_staleness < 0 or not hasattr(policy, "version")):
        raise ValueError(
            "max_staleness must be at least 0 and needs a policy with a version: VersionedPolicy"
        )
    if deadline is not None and episodes is None:
        raise ValueError("deadline= needs a number of episodes: an endless stream has no end")
    watch = _Watch(policy, group_size, max_staleness)
    make = itertools.cycle(client_factories(source, connections, token))
    first = random.SystemRandom().getrandbits(31) if seed is None else seed
    pooled = hasattr(source, "session")
    outcomes = collect(
        lambda: _Watched(next(make)(), watch),
        watch,
        episodes=sys.maxsize if episodes is None else episodes,
        seeds=_GroupSeeds(first, group_size),
        deadline=deadline,
        retry=retry or ("unstarted" if pooled else "never"),
        summary=summary,
        **limits,
        **options,
    )
    return EpisodeStream(outcomes, watch, summary, **keep)


class _GroupSeeds(Sequence[int]):
    """The seed of every episode, without an end."""

    def __init__(self, first: int, size: int) -> None:
        self._first = first
        self._size = size

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> Any:
        return self._first + index // self._size


class _Watch:
    """What the episodes of a stream have in common: the policy, and what version acted when."""

    def __init__(self, policy: Callable[..., Any], size: int, max_staleness: int | None) -> None:
        self._policy = policy
        self._size = size
        self._max_staleness = max_staleness
        self._versioned = hasattr(policy, "version")
        self._versions: dict[int, list[int]] = {}

    @property
    def version(self) -> int:
        """Of the policy, now."""
        return self._policy.version if self._versioned else 0  # type: ignore[attr-defined]  # it has one

    def __call__(self, observation: Any, turn: Turn) -> Any:
        return bind(self._policy, turn.index)(observation, turn)

    def for_episode(self, index: int) -> Callable[[Any, Turn], Any]:
        """The policy of one episode, with notes of its versions."""
        decide = bind(self._policy, index)
        versions = self._versions[index] = []
        if not self._versioned:
            return decide

        def act(observation: Any, turn: Turn) -> Any:
            versions.append(self.version)
            return decide(observation, turn)

        return act

    def too_old(self, version: int) -> bool:
        """Whether an episode that began with ``version`` is to be cut off."""
        return self._max_staleness is not None and self.version - version > self._max_staleness

    def episode(self, outcome: Outcome) -> StreamedEpisode:
        """The outcome with what is known of it."""
        versions = self._versions.pop(outcome.index, [])[: outcome.steps]
        group, member = divmod(outcome.index, self._size)
        stale = bool(versions) and self.too_old(versions[0])
        stale = stale or bool(getattr(outcome.error, "detail", {}).get("stale"))
        return StreamedEpisode(outcome, group, member, tuple(versions), stale)


class _Watched:
    """A client whose episode ends when its policy is too old."""

    def __init__(self, client: Any, watch: _Watch) -> None:
        self._client = client
        self._watch = watch
        self._version = 0

    @property
    def episode(self) -> Any:
        return getattr(self._client, "episode", None)

    async def open(self) -> None:
        if hasattr(self._client, "open"):
            await self._client.open()

    async def close(self) -> None:
        close = getattr(self._client, "close", None)
        if close is not None:
            await close()

    async def reset(self, **arguments: Any) -> Any:
        self._version = self._watch.version
        return await self._client.reset(**arguments)

    async def step(self, action: Any) -> Any:
        watch = self._watch
        if watch.too_old(self._version):
            raise OperationCancelled(
                f"the policy is at version {watch.version}, this episode began at {self._version}",
                stale=True,
            )
        return await self._client.step(action)
