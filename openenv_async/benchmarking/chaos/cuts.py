"""Faults at the client's end of connections, where no proxy can stand between the two."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from openenv_async.client.connection import ClientConnection

__all__ = ["ConnectionCuts"]


class ConnectionCuts:
    """Something that cuts the connections of this process.

    Args:
        connections: returns those that there are now; ``None`` stands for one that is not there.
        seed: of the faults.
    """

    def __init__(
        self, connections: Callable[[], Iterable[ClientConnection | None]], seed: int = 0
    ) -> None:
        self._connections = connections
        self.random = random.Random(seed)

    def cut(self) -> int:
        """Drop the transport of every connection, without a word; return how many there were."""
        found = {connection for connection in self._connections() if connection is not None}
        for connection in found:
            connection.loop.call_soon_threadsafe(_drop, connection)
        return len(found)


def _drop(connection: ClientConnection) -> None:
    transport = connection._transport
    if transport is not None:
        connection.give_up(transport)
