"""The main function of a worker process: an engine of its own behind a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import sys
import threading
from typing import Any

from openenv_async.engine.isolation.pipe import HEADER_SIZE, Pipe, body_size
from openenv_async.engine.isolation.recipe import Recipe

__all__ = ["boot_code", "worker_main"]


def boot_code(channel: int, lifeline: int) -> str:
    """The ``python -c`` text that starts a worker on two inherited file descriptors."""
    return (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from openenv_async.engine.isolation.worker import worker_main; "
        f"worker_main({channel}, {lifeline})"
    )


def worker_main(channel_fd: int, lifeline_fd: int) -> None:
    """Serve sessions over a socket until it closes.

    Args:
        channel_fd: this end of the socket pair; its first message is the pickled recipe.
        lifeline_fd: a socket that reaches its end when the server process is gone.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel = socket.socket(fileno=channel_fd)
    lifeline = socket.socket(fileno=lifeline_fd)
    threading.Thread(target=_die_with, args=(lifeline,), name="lifeline", daemon=True).start()
    preparation, pickled = pickle.loads(_first_message(channel))
    multiprocessing.spawn.prepare(preparation)
    recipe: Recipe = pickle.loads(pickled)
    try:
        import uvloop

        run: Any = uvloop.run
    except ImportError:
        run = asyncio.run
    run(_serve(recipe, channel))


def _first_message(channel: socket.socket) -> bytes:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = channel.recv(size - len(data))
            if not part:
                raise SystemExit(0)  # the server is gone already
            data += part
        return data

    channel.setblocking(True)
    return exactly(body_size(exactly(HEADER_SIZE)) or 0)


def _die_with(lifeline: socket.socket) -> None:
    """Wait for the server's end, then end too, whatever the environment is doing."""
    with contextlib.suppress(OSError):
        lifeline.recv(1)
    os._exit(0)


async def _serve(recipe: Recipe, channel: socket.socket) -> None:
    from openenv_async.engine.engine import Engine
    from openenv_async.engine.native import NativeConnection
    from openenv_async.protocol.codec import MsgpackCodec
    from openenv_async.spec import EnvironmentSpec

    loop = asyncio.get_running_loop()
    spec = EnvironmentSpec(recipe.env, *recipe.types, params=recipe.params, name=recipe.name)
    engine = Engine(spec, recipe.options, in_worker=True)
    ended: asyncio.Future[None] = loop.create_future()

    def flush() -> None:
        for message in connection.take():
            pipe.send(message)

    def receive(message: bytes) -> None:
        connection.receive(message)
        flush()

    def lost() -> None:
        if not ended.done():
            ended.set_result(None)

    def wake() -> None:
        loop.call_soon(flush)

    codec = MsgpackCodec("server", recipe.options.limits.max_message_size)
    connection = NativeConnection(engine, codec, wake, lost)
    pipe = Pipe(receive, lost)
    channel.setblocking(False)
    await loop.create_connection(lambda: pipe, sock=channel)
    gc.freeze()  # what is imported stays: collections need not walk it
    await ended
    connection.lost(left=True)
    await engine.aclose("the server is gone")
