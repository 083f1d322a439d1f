"""An Engine's answer that is a stream of JSON lines, closed however it is left.

aiodocker's own streams leave the connection to the garbage collector when they are cancelled, and
take a lost connection for the end.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Final

from openenv_async.errors import ProviderError
from openenv_async.providers.docker.address import find_engine

if TYPE_CHECKING:
    from aiodocker import Docker

__all__ = ["NO_ANSWER", "StreamError", "engine_stream", "opened"]

NO_ANSWER: Final = 900
"""The status that aiodocker gives to a connection that could not be made."""
_PART: Final = 256 * 1024


class StreamError(Exception):
    """The Engine refused the call, or says in its stream that it failed."""


@contextlib.asynccontextmanager
async def opened(url: str | None = None) -> AsyncIterator[Docker]:
    """A client of the Engine.

    Args:
        url: ``unix://…`` or ``tcp://…``; ``None``: as the docker command finds it.

    Raises:
        ProviderError: there is no Engine, or it stopped answering.
        StreamError: it refused a call.
    """
    import aiohttp
    from aiodocker import DockerError

    address = find_engine(url)
    docker = address.connect()
    try:
        yield docker
    except DockerError as exc:
        if exc.status != NO_ANSWER:
            raise StreamError(" ".join(exc.message.split())) from None
        raise ProviderError(address.no_answer(exc.__context__)) from exc
    except (aiohttp.ClientError, ConnectionError) as exc:
        raise ProviderError(
            f"the Docker Engine at {address} broke off ({type(exc).__name__})"
        ) from exc
    finally:
        await docker.close()


async def engine_stream(
    docker: Docker,
    path: str,
    params: Mapping[str, Any],
    headers: Mapping[str, str],
    body: IO[bytes] | None = None,
) -> AsyncGenerator[dict[str, Any], None]:
    """POST to the Engine and give the messages of its answer.

    Use it in ``contextlib.aclosing``: closing it breaks the connection, which ends what the Engine
    does for it.

    Raises:
        StreamError: a message tells of a failure.
    """
    data = None if body is None else _parts(body)
    query = docker._query(  # the public calls do not close what they open
        path, "POST", params=dict(params), headers=headers, data=data, timeout=None
    )
    async with query as response:
        try:
            rest = b""
            async for part in response.content.iter_any():
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _checked(json.loads(line))
            if rest.strip():
                yield _checked(json.loads(rest))
        finally:
            response.close()


async def _parts(body: IO[bytes]) -> AsyncIterator[bytes]:
    while part := body.read(_PART):
        yield part


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    if "error" in message or "errorDetail" in message:
        detail = message.get("errorDetail")
        words = detail.get("message") if isinstance(detail, dict) else None
        raise StreamError(" ".join(str(words or message.get("error")).split()))
    return message
