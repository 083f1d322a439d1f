"""A session that its client lends to agents, which play it over MCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Generic, Self

import msgspec

from openenv_async.client.endpoint import MEDIA, Endpoint, ResultReply, read_reply
from openenv_async.client.models import WireModels
from openenv_async.client.settings import ClientSettings
from openenv_async.errors import PayloadTooLarge
from openenv_async.types import ObsT, StepResult

__all__ = ["SharedSession"]

_WAIT: Final = 20.0
"""Seconds that the server waits for a result before it says that there is none."""
_TIMEOUT: Final = 30.0


class _Lent(msgspec.Struct):
    path: str
    token: str


class _Results(msgspec.Struct):
    first: int
    results: list[ResultReply]
    is_over: bool


class SharedSession(Generic[ObsT]):
    """The address by which agents play in a session, and what their steps gave. Made by ``share``.

    Attributes:
        url: the address of an MCP server, for agents.
        token: what agents show there, if the server asks for a token: it plays this session over
            MCP, and opens nothing else of the server.
    """

    def __init__(
        self, base_url: str, settings: ClientSettings, name: str, models: WireModels
    ) -> None:
        self._endpoint = Endpoint(base_url, settings)
        about = {"X-OpenEnv-Session": name, "Content-Type": MEDIA}
        self._headers = {**self._endpoint.headers, **about}
        self._models = models
        self._next = 0
        self.url = ""
        self.token = ""

    async def open(self) -> Self:
        """Have the server make the address.

        Raises:
            OpenEnvError: it does not, such as one that has no such route.
        """
        try:
            lent = await self._ask("POST", "/share", _Lent)
        except BaseException:
            await self._endpoint.aclose()
            raise
        self.url, self.token = self._endpoint.url + lent.path, lent.token
        return self

    async def results(self) -> list[StepResult[ObsT]]:
        """Return what steps of agents gave since the last time, rewards and all.

        Raises:
            PayloadTooLarge: results were dropped because nobody asked for them in time; asked
                again, it returns those that are kept.
        """
        return (await self._page(0.0))[0]

    async def steps(self) -> AsyncIterator[StepResult[ObsT]]:
        """Yield what each step of an agent gives, as it comes, until an episode or the share ends.

        Raises:
            PayloadTooLarge: as by ``results``.
        """
        is_over = False
        while not is_over:
            found, is_over = await self._page(_WAIT)
            for number, result in enumerate(found):
                yield result
                if result.done:
                    self._next -= len(found) - number - 1
                    return

    async def aclose(self) -> None:
        """Take the address back: it opens nothing any more. The session goes on. Idempotent."""
        try:
            if self.url:
                self.url = ""
                await self._ask("DELETE", "/share", dict)
        finally:
            await self._endpoint.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _page(self, wait: float) -> tuple[list[StepResult[ObsT]], bool]:
        path = f"/share?after={self._next}&wait={wait:g}"
        page = await self._ask("GET", path, _Results)
        if page.first > self._next:
            dropped, self._next = page.first - self._next, page.first
            raise PayloadTooLarge(
                f"{dropped} results of shared steps were dropped: read them while"
                " agents play, or raise Limits.max_retained_size of the server",
                field="max_retained_size",
            )
        self._next += len(page.results)
        results = [
            self._models.result(reply, memoryview(reply.observation), memoryview(reply.info))
            for reply in page.results
        ]
        return results, page.is_over

    async def _ask(self, method: str, path: str, reply: Any) -> Any:
        response, body = await self._endpoint.exchange(method, path, None, self._headers, _TIMEOUT)
        return read_reply(self._endpoint.url, response, body, reply)
