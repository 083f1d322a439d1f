"""A server's answers to plain HTTP questions."""

from __future__ import annotations

from typing import Any

from openenv_async.addresses import checked_url, is_here
from openenv_async.client.http_replies import refusal
from openenv_async.client.refusals import reason_of
from openenv_async.errors import OpenEnvError, ServerError

__all__ = ["get_json"]


async def get_json(url: str, path: str, token: str | None) -> Any:
    """Return what a server gives at a path.

    Raises:
        ServerError: it does not answer.
        OpenEnvError: it answers with something else; what it says is the reason.
    """
    import aiohttp

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    address = checked_url(url).rstrip("/") + path
    try:
        async with (
            aiohttp.ClientSession(headers=headers, trust_env=not is_here(url)) as http,
            http.get(address, timeout=aiohttp.ClientTimeout(total=10)) as response,
        ):
            if response.status != 200:
                raise refusal(url, response, await response.read())
            return await response.json(content_type=None)
    except OpenEnvError:  # some are ValueErrors as well
        raise
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise ServerError(f"{address} does not answer: {reason_of(url, exc)}") from exc
