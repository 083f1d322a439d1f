"""A server's answers to plain HTTP questions: its schemas, its health, what it tells of itself."""

from __future__ import annotations

from typing import Any

from openenv_async.client.refusals import reason_of, refusal
from openenv_async.endpoints.addresses import checked_url, is_here, told_url
from openenv_async.errors import ConnectFailed, OpenEnvError, ServerError

__all__ = ["fetch_schema", "get_json", "post_json"]


async def get_json(url: str, path: str, *, token: str | None = None, timeout: float = 10.0) -> Any:
    """Return what a server gives at a path.

    Raises:
        ServerError: it does not answer.
        OpenEnvError: it answers with something else; what it says is the reason.
    """
    return await _told(url, path, token, timeout)


async def post_json(
    url: str, path: str, body: Any, *, token: str | None = None, timeout: float = 10.0
) -> Any:
    """Return what a server answers to a body, as JSON, at a path; raises as ``get_json`` does."""
    return await _told(url, path, token, timeout, body)


async def _told(
    url: str, path: str, token: str | None, timeout: float, body: Any | None = None
) -> Any:
    try:
        return await _ask(url, checked_url(url).rstrip("/") + path, token, timeout, body)
    except _Silence as exc:
        raise ServerError(f"{exc.address} does not answer: {exc.reason}") from exc.__cause__


async def fetch_schema(url: str, *, token: str | None = None, timeout: float = 10.0) -> Any:
    """Return the JSON Schemas of a server: ``action``, ``observation``, ``state`` and more.

    Raises:
        ConnectFailed: the server did not answer with them.
        OpenEnvError: it said itself why not, such as ``Unauthorized`` or ``InvalidModel``.
        TypeError, ValueError: ``url`` is none.
    """
    address = checked_url(url).partition("?")[0].rstrip("/").removesuffix("/ws") + "/schema"
    address = address.replace("ws://", "http://", 1).replace("wss://", "https://", 1)
    try:
        return await _ask(url, address, token, timeout)
    except _Silence as exc:
        reason = exc.reason or f"no answer within {timeout:g} s"
        raise ConnectFailed(
            f"cannot read {told_url(address)}: {reason}", phase="connect"
        ) from exc.__cause__


class _Silence(Exception):
    """No JSON came from an address; its cause is what the HTTP library raised."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason


async def _ask(
    url: str, address: str, token: str | None, timeout: float, body: Any | None = None
) -> Any:
    import aiohttp

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=not is_here(address)) as http,
            http.request(
                "GET" if body is None else "POST", address, headers=headers, json=body
            ) as response,
        ):
            if not response.ok:
                raise refusal(url, response, await response.read())
            return await response.json(content_type=None)
    except OpenEnvError:  # some are ValueErrors as well
        raise
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise _Silence(address, reason_of(url, exc)) from exc
