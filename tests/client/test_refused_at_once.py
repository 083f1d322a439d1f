"""A port that takes connections and drops them, as a container's does before its server listens."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from openenv_async import GenericEnvClient
from openenv_async.errors import ConnectFailed


@contextlib.contextmanager
def dropping(reset: bool) -> Iterator[int]:
    """Its port. A thread of its own drops a connection before the client says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drop() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    if reset:
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.close()

        thread = threading.Thread(target=drop)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def dial_in_vain(port: int) -> None:
    for _ in range(50):
        with pytest.raises(ConnectFailed):
            await GenericEnvClient(f"http://127.0.0.1:{port}").open()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_dropped_connection_is_a_failed_one(loop: str, reset: bool) -> None:
    factory: Any = None
    if loop == "uvloop":
        if importlib.util.find_spec("uvloop") is None:
            pytest.skip("needs uvloop")
        from uvloop import new_event_loop as factory
    with dropping(reset) as port, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(dial_in_vain(port))
