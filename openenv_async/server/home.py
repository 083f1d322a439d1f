"""A loop of its own for an application whose callers' loops come and go.

Starlette's ``TestClient`` without ``with`` makes an event loop for each request and closes it
after it; sessions live longer than that. If such a client calls and no lifespan runs, the
engine lives in a thread's loop, and each request is carried there and back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from openenv_async.server.transport import Message, Receive, Scope, Send

__all__ = ["HomeLoop", "is_test_client"]

T = TypeVar("T")

_TEST_CLIENT: Final = "testclient"
_TEST_EXTENSION: Final = "http.response.debug"


def is_test_client(scope: Scope) -> bool:
    """Return whether Starlette's ``TestClient`` asks."""
    client = scope.get("client")
    return _TEST_EXTENSION in scope.get("extensions", {}) or (
        client is not None and client[0] == _TEST_CLIENT
    )


class HomeLoop:
    """An event loop in a daemon thread; it ends with the interpreter."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="openenv-home", daemon=True)
        thread.start()

    async def run(self, call: Awaitable[T]) -> T:
        """Run a coroutine there and wait for it here."""

        async def there() -> T:
            return await call

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), self._loop))

    def receiver(self, receive: Receive) -> Receive:
        """``receive`` of the running loop, to be awaited in this one."""
        return self._carried(receive)

    def sender(self, send: Send) -> Send:
        """``send`` of the running loop, to be awaited in this one."""
        carried = self._carried(send)

        async def send_there(message: Message) -> None:
            await carried(message)

        return send_there

    def _carried(self, call: Callable[..., Awaitable[T]]) -> Callable[..., Coroutine[Any, Any, T]]:
        caller = asyncio.get_running_loop()

        async def carried(*args: Any) -> T:
            async def there() -> T:
                return await call(*args)

            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), caller))

        return carried
