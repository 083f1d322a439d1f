"""Running a server: inside a test or script (``serve``), or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from openenv_async.engine import EngineOptions
from openenv_async.server import create_app

__all__ = ["Server", "serve", "uvicorn_config"]


def uvicorn_config(app: Any, options: EngineOptions, **settings: Any) -> uvicorn.Config:
    """Uvicorn as this runtime wants it: no deflate, no pings that kill, bounded shutdown."""
    return uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=options.limits.max_message_size,
        ws_ping_interval=None,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(options.close_grace) + 1,
        **{"log_level": "warning", "access_log": False, "lifespan": "on", **settings},
    )


class Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and that leaves signals to its owner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, then ``listening`` is set."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """The loop's owner handles signals."""
        yield


@contextlib.asynccontextmanager
async def serve(
    env: Any,
    *args: Any,
    host: str = "127.0.0.1",
    port: int = 0,
    options: EngineOptions | None = None,
    **server: Any,
) -> AsyncIterator[str]:
    """Serve an environment in this loop: ``async with serve(MyEnvironment) as url:``.

    Args:
        env, args, server: as for ``create_app``; ``env`` may also be an ASGI application.
        host, port: where to listen; port 0 takes a free one.
        options: capacity, deadlines, sizes.
    """
    options = options or EngineOptions()
    app = env if _is_app(env) else create_app(env, *args, options=options, **server)
    runner = Server(uvicorn_config(app, options))
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    bound = listener.getsockname()[1]
    task = asyncio.create_task(runner.serve([listener]), name="openenv-server")
    try:
        waiting = asyncio.create_task(runner.listening.wait())
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            raise RuntimeError("the server ended while starting: see its log")
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        runner.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
        listener.close()


def _is_app(env: Any) -> bool:
    return hasattr(env, "routes") and callable(env)
