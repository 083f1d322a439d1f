"""A gateway of another process, by its verbs over HTTP, as agents here use it.

``async with RemoteGateway("http://127.0.0.1:8100", token) as gateway:``

The calls of a session are read when it ends, and are kept here from then on: first its key is
closed, so that none comes or ends after they are read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import msgspec

from openenv_async.client.endpoint import Sockets
from openenv_async.client.refusals import read_failure
from openenv_async.endpoints.addresses import checked_url, is_here, told_url
from openenv_async.errors import (
    ConnectFailed,
    OpenEnvError,
    ProtocolError,
    SessionNotFound,
    Unauthorized,
)
from openenv_async.gateway.calls import CallRecord
from openenv_async.gateway.rows import TrainingRow, training_rows
from openenv_async.gateway.sessions import Budget, Spent

__all__ = ["RemoteGateway", "RemoteSession"]

_TIMEOUT: Final = 30.0
_encode: Final = msgspec.json.Encoder().encode


class _Opened(msgspec.Struct):
    id: str
    key: str
    openai_base_url: str
    anthropic_base_url: str


class _Summary(msgspec.Struct):
    spent: Spent
    exhausted: str | None = None


class _Sessions(msgspec.Struct):
    sessions: list[msgspec.Raw]


class RemoteSession:
    """A session of a gateway of another process.

    Attributes:
        id: of the session, in every record.
        key: opens it.
        openai_base_url, anthropic_base_url: for agents.
        records: its calls, once it has ended.
        spent: what it spent, likewise.
        exhausted: what of its budget it used up, in words, likewise; ``None``: nothing.
        is_read: those three are here.
    """

    def __init__(self, opened: _Opened) -> None:
        self.id = opened.id
        self.key = opened.key
        self.openai_base_url = opened.openai_base_url
        self.anthropic_base_url = opened.anthropic_base_url
        self.records: Sequence[CallRecord] = ()
        self.spent = Spent()
        self.exhausted: str | None = None
        self.is_read = False

    def rows(
        self,
        *,
        reward: float | None = None,
        group: str | int | None = None,
        member: int | None = None,
    ) -> list[TrainingRow]:
        """Return the training rows of what was sampled, once it has ended.

        Args:
            reward: of the episode; ``None`` if it failed or gave none.
            group, member: which group of episodes it is compared with, and which of them it is.
        """
        return training_rows(self.records, reward=reward, group=group, member=member)


class RemoteGateway:
    """A gateway of another process.

    Args:
        url: its address.
        token: its admin token.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = checked_url(url).rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._sockets: Sockets | None = None

    async def __aenter__(self) -> Self:
        self._sockets = await Sockets.acquire(not is_here(self.url))
        try:
            await self._ask("GET", "/stats")
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; sessions stay as they are. Idempotent."""
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            await sockets.release()

    async def open(self, *, budget: Budget | None = None) -> RemoteSession:
        """Return a session with a key of its own.

        Raises:
            OpenEnvError: the gateway opens none, or cannot be reached.
        """
        asked = {} if budget is None else {"budget": budget}
        return RemoteSession(self._read(await self._ask("POST", "/sessions", asked), _Opened))

    async def end(self, session: RemoteSession) -> None:
        """Close a session, read its calls and end it; after a failure it can be asked again.

        Raises:
            SessionNotFound: it has ended, and its calls were not read.
            OpenEnvError: the gateway cannot be reached.
        """
        place = f"/sessions/{session.id}"
        if not session.is_read:
            summary = self._read(await self._ask("POST", f"{place}/close"), _Summary)
            lines = (await self._ask("GET", f"{place}/calls")).splitlines()
            session.records = [self._read(line, CallRecord) for line in lines]
            session.spent, session.exhausted = summary.spent, summary.exhausted
            session.is_read = True
        with contextlib.suppress(SessionNotFound):  # the answer to an earlier asking was lost
            await self._ask("DELETE", place)

    async def sessions(self) -> list[str]:
        """Return all open sessions, also those of others, each as a line of JSON.

        Raises:
            OpenEnvError: the gateway cannot be reached.
        """
        known = self._read(await self._ask("GET", "/sessions"), _Sessions)
        return [bytes(each).decode() for each in known.sessions]

    async def calls(self, session: str) -> list[str]:
        """Return the calls of a session that is not ended, each as a line of JSON.

        Raises:
            SessionNotFound: there is no such session.
            OpenEnvError: the gateway cannot be reached.
        """
        return await self._lines(session, "calls")

    async def rows(self, session: str, **asked: str | float) -> list[str]:
        """Return the training rows of a session that is not ended, each as a line of JSON.

        Args:
            session: its id.
            asked: ``reward``, ``group`` and ``member``, as for ``ModelSession.rows``.

        Raises:
            SessionNotFound: there is no such session.
            OpenEnvError: the gateway cannot be reached.
        """
        return await self._lines(session, f"rows?{urlencode(asked)}")

    async def _lines(self, session: str, what: str) -> list[str]:
        place = f"/sessions/{quote(session, safe='')}/{what}"
        return (await self._ask("GET", place)).decode().splitlines()

    def _read(self, body: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise ProtocolError(
                f"{told_url(self.url)} does not answer as a gateway does: {exc}"
            ) from None

    async def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        import aiohttp

        assert self._sockets is not None, "open it with `async with`"
        data = None if body is None else _encode(body)
        try:
            async with (
                asyncio.timeout(_TIMEOUT),
                self._sockets.client.request(
                    method, self.url + path, data=data, headers=self._headers
                ) as response,
            ):
                told = await response.read()
        except (aiohttp.ClientError, OSError) as exc:
            why = str(getattr(exc, "os_error", exc)) or type(exc).__name__
            raise ConnectFailed(
                f"the gateway {told_url(self.url)} cannot be reached ({why}): start it, or correct"
                " its URL"
            ) from exc
        if response.status < 400:
            return told
        error: OpenEnvError | None = read_failure(told)
        if isinstance(error, Unauthorized):
            raise Unauthorized(
                f"the gateway {told_url(self.url)} did not take the admin token (token=, on the"
                f" command line --gateway-token-file or OPENENV_GATEWAY_TOKEN): {error.message}"
            )
        raise error or ProtocolError(f"{told_url(self.url)} answered HTTP {response.status}")
