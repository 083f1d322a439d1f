"""SyncEnvPool: the pool for code without an event loop, or inside a running one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.loop_thread import background_loop, close_blocking
from openenv_async.client.sync import SyncEnvClient
from openenv_async.pool.playing import ClientT, Mapped
from openenv_async.pool.pool import EnvPool, NewT, PoolKeywords
from openenv_async.pool.scheduler import PoolStatistics
from openenv_async.providers.base import Provider
from openenv_async.providers.static import Finder
from openenv_async.renamed import renamed_arguments
from openenv_async.rollouts.collection import BatchKeywords, CollectKeywords
from openenv_async.rollouts.tasks import Tasks
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import Target
from openenv_async.types import ActT, ObsT, Outcome, StateT, Task

__all__ = ["SyncEnvPool"]

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class SyncEnvPool(Generic[ClientT]):
    """An ``EnvPool`` as blocking calls, from any thread.

    Its I/O runs on the background thread that all blocking clients of a process share, and so do
    policies: one that computes for long should be async and compute elsewhere.

    Args:
        provider: as for ``EnvPool``; or a pool that was not opened.
        options: of ``EnvPool``, ``client`` among them.
    """

    @overload
    def __init__(
        self: SyncEnvPool[GenericEnvClient],
        provider: Provider | Iterable[Provider],
        **options: Unpack[PoolKeywords],
    ) -> None: ...

    @overload
    def __init__(
        self,
        provider: Provider | Iterable[Provider],
        *,
        client: type[ClientT],
        **options: Unpack[PoolKeywords],
    ) -> None: ...

    @overload
    def __init__(self, provider: EnvPool[ClientT]) -> None: ...

    @overload
    def __init__(
        self: SyncEnvPool[EnvClient[Any, Any, Any]],
        provider: Target,
        **options: Unpack[PoolKeywords],
    ) -> None: ...

    def __init__(
        self,
        provider: Provider | Iterable[Provider] | EnvPool[ClientT] | Target,
        **options: Any,
    ) -> None:
        if isinstance(provider, EnvPool):
            self.pool: EnvPool[ClientT] = provider
            return
        given: Any = provider
        if isinstance(given, Iterable) and not isinstance(given, str | Mapping):
            given = list(given)
        make: Any = EnvPool
        self.pool = make(given, **options)

    @overload
    @classmethod
    def of(cls, target: Target, *, client: type[NewT], **options: Any) -> SyncEnvPool[NewT]: ...

    @overload
    @classmethod
    def of(cls, target: Target, **options: Any) -> SyncEnvPool[EnvClient[Any, Any, Any]]: ...

    @classmethod
    def of(cls, target: Target, **options: Any) -> SyncEnvPool[Any]:
        """Return a pool of anything that can be played on; see ``EnvPool.of``."""
        return SyncEnvPool(EnvPool.of(target, **options))

    @overload
    @classmethod
    def from_env(
        cls,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        client: type[NewT],
        **options: Any,
    ) -> SyncEnvPool[NewT]: ...

    @overload
    @classmethod
    def from_env(
        cls, name: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> SyncEnvPool[EnvClient[Any, Any, Any]]: ...

    @classmethod
    def from_env(
        cls, name: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> SyncEnvPool[Any]:
        """Return a pool of an installed environment; see ``EnvPool.from_env``."""
        return SyncEnvPool(EnvPool.from_env(name, params, **options))

    @classmethod
    def from_spec(
        cls,
        spec: EnvironmentSpec | type | str | Path,
        params: Mapping[str, Any] | None = None,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> SyncEnvPool[NewT]:
        """Return a pool of an environment that need not be installed; see ``EnvPool.from_spec``."""
        return SyncEnvPool(EnvPool.from_spec(spec, params, client=client, **options))

    @classmethod
    def from_docker_image(
        cls,
        image: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> SyncEnvPool[NewT]:
        """Return a pool of containers; see ``EnvPool.from_docker_image``."""
        return SyncEnvPool(EnvPool.from_docker_image(image, client=client, **options))

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> SyncEnvPool[NewT]:
        """Return a pool on a server that runs already; see ``EnvPool.from_url``."""
        return SyncEnvPool(EnvPool.from_url(url, client=client, **options))

    @classmethod
    def from_urls(
        cls,
        urls: Iterable[str] | Finder,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> SyncEnvPool[NewT]:
        """Return a pool on servers that run already; see ``EnvPool.from_urls``."""
        return SyncEnvPool(EnvPool.from_urls(urls, client=client, **options))

    @classmethod
    def from_dns(
        cls,
        url: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> SyncEnvPool[NewT]:
        """Return a pool on the servers of a host name; see ``EnvPool.from_dns``."""
        return SyncEnvPool(EnvPool.from_dns(url, client=client, **options))

    @classmethod
    def from_space(
        cls,
        space: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> SyncEnvPool[NewT]:
        """Return a pool on a Hugging Face Space; see ``EnvPool.from_space``."""
        return SyncEnvPool(EnvPool.from_space(space, client=client, **options))

    def __enter__(self) -> Self:
        background_loop().run(self.pool.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> Self:
        """Start ``min_workers`` and wait for them, as ``EnvPool.open`` does."""
        background_loop().run(self.pool.open())
        return self

    def close(self) -> None:
        """End every worker and close the providers, as ``EnvPool.aclose`` does."""
        close_blocking(self.pool.aclose())

    @contextlib.contextmanager
    def session(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]], **options: Any
    ) -> Iterator[SyncEnvClient[ActT, ObsT, StateT]]:
        """Open a blocking environment for a block; the options of ``EnvPool.session``."""
        run = background_loop().run
        env = self.pool.session(**options)
        run(env.open())
        try:
            yield SyncEnvClient.wrap(env)
        finally:
            close_blocking(env.close())

    def rollout(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        *,
        seed: int | None = None,
        task: Task | Mapping[str, Any] | None = None,
        **options: Unpack[BatchKeywords],
    ) -> Outcome[ObsT, ActT]:
        """Play one episode, as ``EnvPool.rollout`` does."""
        return background_loop().run(self.pool.rollout(policy, seed=seed, task=task, **options))

    @renamed_arguments(n="episodes", min_k="min_episodes", min_count="min_episodes")
    def collect(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        episodes: int | None = None,
        **options: Unpack[CollectKeywords],
    ) -> Iterator[Outcome[ObsT, ActT]]:
        """Play episodes as ``EnvPool.collect`` does; leaving the loop cancels those that run."""
        return _iterate(self.pool.collect(policy, episodes, **options))

    @renamed_arguments(n="episodes", done_when="min_episodes", min_count="min_episodes")
    def group(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any] | None = None,
        episodes: int = 16,
        *,
        seed: int | None = None,
        task: Task | Mapping[str, Any] | None = None,
        **options: Unpack[BatchKeywords],
    ) -> list[Outcome[ObsT, ActT]]:
        """Play one episode several times at once, as ``EnvPool.group`` does."""
        return background_loop().run(
            self.pool.group(policy, episodes, seed=seed, task=task, **options)
        )

    @overload
    def map(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        function: Callable[[SyncEnvClient[ActT, ObsT, StateT], ItemT], ValueT],
        items: Iterable[ItemT],
        *,
        concurrency: int = 64,
        **session: Any,
    ) -> Iterator[Mapped[ItemT, ValueT]]: ...

    @overload
    def map(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        function: Callable[[SyncEnvClient[ActT, ObsT, StateT], Task], ValueT],
        *,
        tasks: Tasks,
        concurrency: int = 64,
        **session: Any,
    ) -> Iterator[Mapped[Task, ValueT]]: ...

    def map(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        function: Callable[[SyncEnvClient[ActT, ObsT, StateT], Any], ValueT],
        items: Iterable[Any] | None = None,
        *,
        tasks: Tasks | None = None,
        concurrency: int = 64,
        **session: Any,
    ) -> Iterator[Mapped[Any, ValueT]]:
        """Call ``function(env, item)`` for every item, in threads; results as they are made.

        Args:
            function: gets an environment of its own, and the item.
            items: what it is called for.
            tasks: instead of items, as for ``EnvPool.map``.
            concurrency: threads.
            session: of ``session``.
        """
        if tasks is None and items is not None:
            return self._map(function, items, concurrency, session)
        return self._map_tasks(function, items, tasks, concurrency, session)

    def _map_tasks(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        function: Callable[[SyncEnvClient[ActT, ObsT, StateT], Any], ValueT],
        items: Any,
        tasks: Any,
        concurrency: int,
        session: Mapping[str, Any],
    ) -> Iterator[Mapped[Any, ValueT]]:
        with concurrent.futures.ThreadPoolExecutor(concurrency, "openenv-map") as threads:

            async def call(env: EnvClient[ActT, ObsT, StateT], task: Task) -> ValueT:
                loop, blocking = asyncio.get_running_loop(), SyncEnvClient.wrap(env)
                return await loop.run_in_executor(threads, function, blocking, task)

            made: Any = self.pool.map(call, items, tasks=tasks, concurrency=concurrency, **session)
            yield from _iterate(made)

    def _map(
        self: SyncEnvPool[EnvClient[ActT, ObsT, StateT]],
        function: Callable[[SyncEnvClient[ActT, ObsT, StateT], ItemT], ValueT],
        items: Iterable[ItemT],
        concurrency: int,
        session: Mapping[str, Any],
    ) -> Iterator[Mapped[ItemT, ValueT]]:
        def call(index: int, item: ItemT) -> Mapped[ItemT, ValueT]:
            made: Mapped[ItemT, ValueT] = Mapped(index, item)
            try:
                with self.session(**session) as env:
                    made.value = function(env, item)
            except Exception as exc:
                made.error = exc
            return made

        with concurrent.futures.ThreadPoolExecutor(concurrency, "openenv-map") as threads:
            calls = {threads.submit(call, index, item) for index, item in enumerate(items)}
            try:
                for done in concurrent.futures.as_completed(calls):
                    yield done.result()
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def statistics(self) -> PoolStatistics:
        """Return the pool's counts now and so far."""
        return self.pool.statistics()


def _iterate(stream: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over an async generator, blocking."""
    run = background_loop().run

    async def following() -> T | None:
        return await anext(stream, None)

    try:
        while (item := run(following())) is not None:
            yield item
    finally:
        close_blocking(stream.aclose())
