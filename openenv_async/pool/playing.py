"""Playing on a pool: rollouts, groups and any other work, many at once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

from openenv_async.client.env import EnvClient
from openenv_async.deadlines import wait_uncancelled
from openenv_async.renamed import renamed_arguments, renamed_attributes
from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.collection import (
    BatchKeywords,
    CollectKeywords,
    Results,
    collect,
    collect_all,
)
from openenv_async.rollouts.schedule import Schedule
from openenv_async.rollouts.sessions import sessions_of
from openenv_async.rollouts.streaming import (
    EpisodeStream,
    GroupStream,
    StreamKeywords,
    stream,
    stream_groups,
)
from openenv_async.rollouts.tasks import Tasks, TaskSource, as_source
from openenv_async.targets.sessions import TargetSessions
from openenv_async.types import ActT, ObsT, Outcome, StateT, Task

__all__ = ["ClientT", "Mapped", "PlayingPool", "mapped"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ClientT = TypeVar(
        "ClientT",
        bound=EnvClient[Any, Any, Any],
        default=EnvClient[Any, Any, Any],
        covariant=True,
    )
else:  # the default is for type checkers alone
    from typing import TypeVar

    ClientT = TypeVar("ClientT", covariant=True)

OneT = TypeVar("OneT", bound=EnvClient[Any, Any, Any])
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class Mapped(Generic[ItemT, ValueT]):
    """The result of ``map`` for one item.

    Attributes:
        index: of the item.
        item: it.
        value: what the function returned; ``None`` if it raised.
        error: what it raised.
    """

    index: int
    item: ItemT
    value: ValueT | None = None
    error: Exception | None = None

    def unwrap(self) -> ValueT:
        """Return the value, or raise the error if there was one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only if that was returned


class PlayingPool(ABC, Generic[ClientT]):
    """The methods of a pool that play on its sessions."""

    @abstractmethod
    def session(self, **options: Any) -> ClientT:
        """Return a client that takes a slot when it is opened and gives it back when closed."""

    async def rollout(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        *,
        seed: int | None = None,
        task: Task | Mapping[str, Any] | None = None,
        **options: Unpack[BatchKeywords],
    ) -> Outcome[ObsT, ActT]:
        """Play one episode.

        Args:
            policy: chooses the actions; see ``rollouts.policies``. ``None`` with an ``agent``.
            task: what it is about: a ``Task``, or a row of columns for ``reset``.
            seed: of the episode; ``None``: the environment draws one.
            options: of ``rollouts.collect``: ``agent``, ``max_steps``, ``timeout``,
                ``reset_options``, …
        """
        seeds = None if seed is None else [seed]
        tasks = None if task is None else [task]
        played: list[Outcome[ObsT, ActT]] = await collect_all(
            self, policy, episodes=1, tasks=tasks, seeds=seeds, **options
        )
        return played[0]

    @renamed_arguments(n="episodes", min_k="min_episodes", min_count="min_episodes")
    def collect(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        episodes: int | None = None,
        **options: Unpack[CollectKeywords],
    ) -> AsyncGenerator[Outcome[ObsT, ActT], None]:
        """Play ``episodes`` episodes; their outcomes as they end, exactly that many.

        Args:
            policy: chooses the actions; see ``rollouts.policies``. ``None`` with an ``agent``.
            episodes: how many; with ``tasks`` all that there are.
            options: of ``rollouts.collect``: ``agent``, ``tasks``, ``group_size``,
                ``min_episodes``, ``deadline``, ``concurrency``, ``seeds``, ``max_steps``,
                ``retry``, …
        """
        return collect(self, policy, episodes=episodes, **options)

    def stream(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        *,
        episodes: int | None = None,
        group_size: int = 1,
        partial: bool = False,
        failures: bool = False,
        **options: Unpack[StreamKeywords],
    ) -> EpisodeStream[ObsT, ActT]:
        """Play episodes for a trainer: ``async for episode in pool.stream(policy)``.

        Args:
            policy: chooses the actions; a ``VersionedPolicy`` is watched for staleness. ``None``
                with an ``agent``.
            episodes, group_size, partial, failures, options: of ``rollouts.stream``.
        """
        return stream(
            self,
            policy,
            episodes=episodes,
            group_size=group_size,
            partial=partial,
            failures=failures,
            **options,
        )

    def stream_groups(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        *,
        group_size: int,
        groups: int | None = None,
        **options: Unpack[StreamKeywords],
    ) -> GroupStream[ObsT, ActT]:
        """Play groups of one task and seed each, handed over complete.

        Args:
            policy: chooses the actions. ``None`` with an ``agent``.
            group_size: episodes of one task and seed.
            groups: how many in all; ``None``: one for each task, without tasks endless.
            options: of ``rollouts.stream_groups``.
        """
        return stream_groups(self, policy, group_size=group_size, groups=groups, **options)

    @renamed_arguments(n="episodes", done_when="min_episodes", min_count="min_episodes")
    async def group(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        episodes: int = 16,
        *,
        seed: int | None = None,
        task: Task | Mapping[str, Any] | None = None,
        **options: Unpack[BatchKeywords],
    ) -> list[Outcome[ObsT, ActT]]:
        """Play one episode several times at once, as group-relative methods want it.

        Args:
            policy: chooses the actions. ``None`` with an ``agent``.
            episodes: how many are started.
            seed: of all of them; ``None`` draws one.
            task: of all of them: a ``Task``, or a row of columns for ``reset``.
            options: of ``rollouts.collect``: ``min_episodes``, ``deadline``, …

        Returns:
            ``episodes`` outcomes by index, the cancelled ones included; ``status.usable`` tells.
        """
        episodes = check_count("episodes", episodes)
        if seed is None:
            seed = random.SystemRandom().getrandbits(31)
        outcomes: list[Outcome[ObsT, ActT]] = await collect_all(
            self,
            policy,
            episodes=episodes,
            tasks=None if task is None else [task],
            group_size=episodes,
            concurrency=episodes,
            seeds=[seed],
            **options,
        )
        return outcomes

    @overload
    def map(
        self,
        function: Callable[[ClientT, ItemT], Awaitable[ValueT]],
        items: Iterable[ItemT],
        *,
        concurrency: int = 64,
        **session: Any,
    ) -> AsyncGenerator[Mapped[ItemT, ValueT], None]: ...

    @overload
    def map(
        self,
        function: Callable[[ClientT, Task], Awaitable[ValueT]],
        *,
        tasks: Tasks,
        concurrency: int = 64,
        **session: Any,
    ) -> AsyncGenerator[Mapped[Task, ValueT], None]: ...

    def map(
        self,
        function: Callable[[ClientT, Any], Awaitable[ValueT]],
        items: Iterable[Any] | None = None,
        *,
        tasks: Tasks | None = None,
        concurrency: int = 64,
        **session: Any,
    ) -> AsyncGenerator[Mapped[Any, ValueT], None]:
        """Call ``await function(env, item)`` for every item, each with an environment of its own.

        Results come as they are made. An exception of the function is in its result. Leaving the
        loop (``contextlib.aclosing``) cancels what runs and gives every slot back.

        Args:
            function: async; the environment is its own until it returns.
            items: are taken as they are needed.
            tasks: instead of items, as for ``rollouts.collect``: the items are ``Task``, and
                ``env.reset(**task.reset_options)`` begins an episode of one.
            concurrency: calls at once, as far as the pool has slots.
            session: of ``session``.

        Raises:
            TypeError: there are neither items nor tasks, or both.
        """
        make: Callable[[], ClientT] = functools.partial(self.session, **session)
        if (items is None) == (tasks is None):
            raise TypeError("map() is over items or over tasks=: give one of them")
        if tasks is None:
            assert items is not None
            return mapped(make, function, items, concurrency)
        sessions = sessions_of(self, connections=None, token=None, params=None, entry="map()")
        return mapped_tasks(make, function, as_source(tasks), sessions, concurrency)


class _Items(Generic[ItemT]):
    """Items in their order.

    Attributes:
        count: how many there are, where known.
    """

    def __init__(self, items: Iterable[ItemT]) -> None:
        self.count = len(items) if isinstance(items, Sequence) else None
        self._left = iter(enumerate(items))

    async def next(self) -> tuple[int, ItemT] | None:
        """Return the next item with its number; ``None``: there are no more."""
        return next(self._left, None)

    def done(self, index: int) -> None:
        """Note that the reader was given the result of an item."""


class _TaskItems:
    """The tasks of a schedule, as items."""

    def __init__(self, schedule: Schedule) -> None:
        self.count = schedule.total
        self._schedule = schedule

    async def next(self) -> tuple[int, Task] | None:
        """Return the next task with its number; ``None``: there are no more."""
        while await self._schedule.ready():
            planned = self._schedule.take()
            if planned is not None and planned.task is not None:
                return planned.index, planned.task
        return None

    def done(self, index: int) -> None:
        """Note that the reader was given the result of a task."""
        self._schedule.done(index)


async def mapped_tasks(
    session: Callable[[], OneT],
    function: Callable[[OneT, Task], Awaitable[ValueT]],
    source: TaskSource,
    sessions: TargetSessions,
    concurrency: int,
) -> AsyncGenerator[Mapped[Task, ValueT], None]:
    """Call ``await function(client, task)`` for every task; yield results as they are made.

    Args:
        session, function, concurrency: as for ``mapped``.
        source: of the tasks; an error of theirs is raised after the results of those before.
        sessions: of the pool, to ask for its environment's tasks.
    """
    schedule = Schedule(episodes=None, source=source, ahead=check_count("concurrency", concurrency))
    async with sessions:
        try:
            await schedule.open(sessions)
            async with contextlib.aclosing(
                _mapped(session, function, _TaskItems(schedule), concurrency)
            ) as results:
                async for result in results:
                    yield result
            if schedule.error is not None:
                raise schedule.error
        finally:
            await schedule.aclose()


def mapped(
    session: Callable[[], OneT],
    function: Callable[[OneT, ItemT], Awaitable[ValueT]],
    items: Iterable[ItemT],
    concurrency: int,
) -> AsyncGenerator[Mapped[ItemT, ValueT], None]:
    """Call ``await function(client, item)`` for every item; yield results as they are made.

    Args:
        session: makes the client of one item, which is entered and left.
        function: raises what becomes the error of its item.
        items: are taken as they are needed; an error of theirs ends everything.
        concurrency: calls at once.
    """
    return _mapped(session, function, _Items(items), concurrency)


async def _mapped(
    session: Callable[[], OneT],
    function: Callable[[OneT, ItemT], Awaitable[ValueT]],
    items: _Items[ItemT] | _TaskItems,
    concurrency: int,
) -> AsyncGenerator[Mapped[ItemT, ValueT], None]:
    concurrency = check_count("concurrency", concurrency)
    if not callable(function):
        raise TypeError(f"function must be callable, got {function!r}")
    results: Results[Mapped[ItemT, ValueT]] = Results(2 * concurrency)
    limit = concurrency if items.count is None else min(concurrency, items.count)

    async def work() -> None:
        while (found := await items.next()) is not None:
            index, item = found
            made: Mapped[Any, ValueT] = Mapped(index, item)
            try:
                async with session() as client:
                    made.value = await function(client, made.item)
            except Exception as exc:
                made.error = exc
            results.put(made)
            await results.room()

    def over() -> bool:
        return all(task.done() for task in tasks)

    tasks = [asyncio.create_task(work(), name=f"openenv-map-{number}") for number in range(limit)]
    for task in tasks:
        task.add_done_callback(lambda _: results.wake())
    try:
        while (result := await results.next(over)) is not None:
            items.done(result.index)
            yield result
        for task in tasks:
            task.result()  # what iterating over ``items`` raised
    finally:
        for task in tasks:
            task.cancel()
        await wait_uncancelled(*tasks)


__getattr__ = renamed_attributes(__name__, {"Playing": "PlayingPool"})
