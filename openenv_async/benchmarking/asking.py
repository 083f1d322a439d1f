"""A server's answers to plain HTTP questions."""

from __future__ import annotations

from typing import Any

from openenv_async.addresses import is_here
from openenv_async.errors import ServerError

__all__ = ["get_json"]


async def get_json(url: str, path: str, token: str | None) -> Any:
    """What a server gives at a path.

    Raises:
        ServerError: it does not answer, or with something else.
    """
    import aiohttp

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    address = url.rstrip("/") + path
    try:
        async with (
            aiohttp.ClientSession(headers=headers, trust_env=not is_here(url)) as http,
            http.get(address, timeout=aiohttp.ClientTimeout(total=10)) as response,
        ):
            if response.status != 200:
                raise ServerError(f"{address} answered HTTP {response.status}")
            return await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise ServerError(f"{address} does not answer: {exc}") from exc
