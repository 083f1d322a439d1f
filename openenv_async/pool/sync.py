"""SyncEnvPool: the pool for code without an event loop, or inside a running one."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from openenv_async.client.loop_thread import background_loop, close_blocking
from openenv_async.client.sync import SyncEnvClient
from openenv_async.pool.mapping import Mapped
from openenv_async.pool.pool import EnvPool
from openenv_async.pool.scheduler import PoolStatistics
from openenv_async.pool.sources import PoolConstructors
from openenv_async.providers.base import Provider
from openenv_async.renamed import renamed_arguments
from openenv_async.types import Outcome

__all__ = ["SyncEnvPool"]

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class SyncEnvPool(PoolConstructors):
    """An ``EnvPool`` as blocking calls, from any thread.

    Its I/O runs on the background thread that all blocking clients of a process share, and so do
    policies: one that computes for long should be async and compute elsewhere.

    Args:
        provider, options: as for ``EnvPool``.
    """

    def __init__(self, provider: Provider | Iterable[Provider], **options: Any) -> None:
        several = provider if isinstance(provider, Provider) else list(provider)
        self.pool = EnvPool(several, **options)

    @classmethod
    def pool_class(cls) -> type:
        """Return the class whose options the constructors take."""
        return EnvPool

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
    def session(self, **options: Any) -> Iterator[SyncEnvClient[Any, Any, Any]]:
        """Open a blocking environment for a block; the options of ``EnvPool.session``."""
        run = background_loop().run
        env = self.pool.session(**options)
        run(env.open())
        try:
            yield SyncEnvClient.wrap(env)
        finally:
            close_blocking(env.close())

    def rollout(self, policy: Callable[..., Any], **options: Any) -> Outcome:
        """Play one episode, as ``EnvPool.rollout`` does."""
        return background_loop().run(self.pool.rollout(policy, **options))

    @renamed_arguments(n="episodes", min_k="min_episodes", min_count="min_episodes")
    def collect(
        self, policy: Callable[..., Any], episodes: int, **options: Any
    ) -> Iterator[Outcome]:
        """Play episodes as ``EnvPool.collect`` does; leaving the loop cancels those that run."""
        return _iterate(self.pool.collect(policy, episodes, **options))

    @renamed_arguments(n="episodes", done_when="min_episodes", min_count="min_episodes")
    def group(
        self, policy: Callable[..., Any], episodes: int = 16, **options: Any
    ) -> list[Outcome]:
        """Play one episode several times at once, as ``EnvPool.group`` does."""
        return background_loop().run(self.pool.group(policy, episodes, **options))

    def map(
        self,
        function: Callable[[SyncEnvClient[Any, Any, Any], ItemT], ValueT],
        items: Iterable[ItemT],
        *,
        concurrency: int = 64,
        **session: Any,
    ) -> Iterator[Mapped[ItemT, ValueT]]:
        """Call ``function(env, item)`` for every item, in threads; results as they are made."""

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
