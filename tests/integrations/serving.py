"""A server for tests that block: it runs on the background loop, beside the clients."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Iterator
from typing import Any

from openenv_async import serve
from openenv_async.client.loop_thread import background_loop


@contextlib.contextmanager
def served(env: Any, **options: Any) -> Iterator[str]:
    """The address of a server of ``env``, for as long as the block lasts."""
    ready: concurrent.futures.Future[str] = concurrent.futures.Future()
    stop = asyncio.Event()

    async def hold() -> None:
        try:
            async with serve(env, **options) as url:
                ready.set_result(url)
                await stop.wait()
        except BaseException as exc:
            if not ready.done():
                ready.set_exception(exc)
            raise

    loop = background_loop().loop
    held = asyncio.run_coroutine_threadsafe(hold(), loop)
    try:
        yield ready.result(60)
    finally:
        loop.call_soon_threadsafe(stop.set)
        held.result(60)
