"""The servers of a target, for checks and commands that look at servers one by one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from openenv_async.targets.resolve import ResolvedTarget
from openenv_async.targets.served import Server

__all__ = ["servers"]


@contextlib.asynccontextmanager
async def servers(
    target: ResolvedTarget,
    *,
    max_sessions: int | None = None,
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[list[Server]]:
    """Have the servers of a target: those at its URLs, else one, started for it if need be.

    Nothing is asked of servers at URLs: the user of one finds out whether it answers.

    Args:
        target: what is served.
        max_sessions: sessions that a server started for it may hold.
        arguments: of ``openenv-async serve``, where a process is started.
        environ: environment variables of that process, beside those of this one.

    Raises:
        WrongTarget: it has no server.
        WorkerStartFailed, ProviderError: none could be started.
    """
    match target.kind:
        case "url":
            yield [Server(_http_url(target.given), target.token)]
        case "urls":
            yield [_one_of_several(each, target.token) for each in target.given]
        case kind:
            options: dict[str, Any] = {}
            if max_sessions is not None and kind in ("named", "environment"):
                options["max_sessions"] = max_sessions
            if arguments and kind == "named":
                options["arguments"] = arguments
            if environ and kind == "named":
                options["environ"] = environ
            async with target.serve(**options) as server:
                yield [server]


def _one_of_several(given: Any, token: str | None) -> Server:
    if isinstance(given, str):
        return Server(_http_url(given), token)
    url, own = given
    return Server(_http_url(url), own or token)


def _http_url(url: str) -> str:
    """Return a server's address as HTTP has it."""
    address = url.rstrip("/").removesuffix("/ws")
    return address.replace("ws://", "http://", 1).replace("wss://", "https://", 1)
