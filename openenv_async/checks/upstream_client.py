"""The smallest client of upstream's dialect: one socket, one session, JSON text."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from openenv_async.client.websocket import websocket_url
from openenv_async.endpoints.addresses import is_here
from openenv_async.protocol.codec import read_json_reward
from openenv_async.renamed import renamed_attributes
from openenv_async.types import EpisodeInfo, StepResult

__all__ = ["UpstreamError", "UpstreamSession"]


class UpstreamError(Exception):
    """An ``error`` message; ``code`` as upstream spells it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class UpstreamSession:
    """One session; made by ``connect``."""

    episode: EpisodeInfo | None = None

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    @classmethod
    async def connect(cls, url: str, token: str | None = None) -> Self:
        """Open a socket, which opens a session. A refusal is met by the first call."""
        address = websocket_url(url)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        socket = await connect(
            address,
            additional_headers=headers,
            compression=None,
            max_size=None,
            proxy=None if is_here(address) else True,
        )
        return cls(socket)

    async def ask(self, kind: str, data: Any = None) -> Any:
        """Send one message and return the ``data`` of its reply.

        Raises:
            UpstreamError: the reply is an error, or the socket was closed.
        """
        message = {"type": kind} if data is None else {"type": kind, "data": data}
        try:
            await self._socket.send(json.dumps(message))
            reply = json.loads(await self._socket.recv())
        except ConnectionClosed as exc:
            raise UpstreamError("CLOSED", str(exc)) from None
        if reply["type"] == "error":
            raise UpstreamError(reply["data"].get("code", ""), reply["data"].get("message", ""))
        return reply["data"]

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> StepResult[Any]:
        """Begin an episode."""
        data = {**options}
        if seed is not None:
            data["seed"] = seed
        if episode_id is not None:
            data["episode_id"] = episode_id
        return self._result(await self.ask("reset", data))

    async def step(self, action: Any, *, timeout: float | None = None) -> StepResult[Any]:
        """Take one action."""
        return self._result(await self.ask("step", action))

    async def state(self) -> Any:
        """Return the state."""
        return await self.ask("state")

    async def close(self) -> None:
        """Say close, then close the socket."""
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send('{"type": "close"}')
        async with asyncio.timeout(10):
            await self._socket.close()

    def _result(self, data: Any) -> StepResult[Any]:
        # The dialect has one word for both ends of an episode.
        reward = read_json_reward(data["reward"])
        return StepResult(data["observation"], reward, bool(data["done"]))


__getattr__ = renamed_attributes(__name__, {"UpstreamFault": "UpstreamError"})
