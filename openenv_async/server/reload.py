"""Reloading: a server reads again what it serves, and to whom, without losing a session.

Rules:

- The file is read and everything in it is made before anything changes: a bad one changes nothing.
- Tokens, quotas, labels, numbers of sessions and deadlines change at once. New environments are
  served; removed ones drain, and then are gone. Sessions of a token that was removed are closed.
- The target, parameters and place of an environment stay until the server is started again, which
  is told.
- One reload runs at a time; another one waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.requests import Request

from openenv_async.engine import EngineOptions
from openenv_async.engine.callers import Caller
from openenv_async.errors import InvalidOption, OpenEnvError, OperationUnsupported, SessionClosed
from openenv_async.models import Format
from openenv_async.server.auth import caller_of
from openenv_async.server.callers import Callers
from openenv_async.spec import EnvironmentSpec

__all__ = ["Reload", "Reloadable", "Wanted", "WantedEnvironment", "reloaded"]

log = logging.getLogger("openenv_async.server")


@dataclass(frozen=True, eq=False)
class WantedEnvironment:
    """An environment as it is to be served.

    Attributes:
        fixed: settings that cannot change while it is served, by name.
        make: reads it, in a thread.
        options: makes the engine's options for it, once it is read.
        labels: in metrics.
        live: settings that can change meanwhile, by name.
    """

    fixed: dict[str, Any]
    make: Callable[[], EnvironmentSpec]
    options: Callable[[EnvironmentSpec], EngineOptions]
    labels: Mapping[str, str] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)

    def is_as(self, other: WantedEnvironment) -> bool:
        """Return whether another one has the same settings."""
        theirs = (other.fixed, other.live, other.labels)
        return (self.fixed, self.live, self.labels) == theirs


@dataclass(frozen=True)
class Wanted:
    """The environments and callers of a server.

    Attributes:
        environments: by name.
        callers: with the SHA-256 of their tokens; ``None`` where the file has no say.
    """

    environments: Mapping[str, WantedEnvironment]
    callers: Collection[tuple[Caller, Collection[bytes]]] | None


class Reloadable(Protocol):
    """A server, or several as one, whose environments can change."""

    callers: Callers

    def served(self) -> Mapping[str, WantedEnvironment]:
        """Return the environments that do not go, as they were wanted last."""
        ...

    def check_names(self, names: Collection[str]) -> None:
        """Check names of new environments.

        Raises:
            InvalidOption: one cannot be served now.
        """
        ...

    async def add(
        self, name: str, wanted: WantedEnvironment, spec: EnvironmentSpec, options: EngineOptions
    ) -> None:
        """Serve one more."""
        ...

    def change(self, name: str, wanted: WantedEnvironment) -> list[str]:
        """Serve one with other numbers; return the settings that need a new start."""
        ...

    def remove(self, name: str) -> None:
        """Let the episodes of one end, and serve it no more."""
        ...

    def shut_sessions(self, caller: Caller, reason: OpenEnvError) -> None:
        """Close the sessions of a caller."""
        ...


class Reload:
    """The reloading of one server.

    Args:
        server: that changes.
        read: reads what is wanted now; called in a thread.
    """

    def __init__(self, server: Reloadable, read: Callable[[], Wanted]) -> None:
        self._server = server
        self._read = read
        self._lock: Final = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> dict[str, Any]:
        """Read again and change what has changed; return what that was.

        Raises:
            OpenEnvError: the file is wrong, or an environment cannot be served; nothing changed.
        """
        async with self._lock:
            server = self._server
            wanted = await asyncio.to_thread(self._read)
            if wanted.callers is not None and not (wanted.callers or server.callers.open):
                raise InvalidOption(
                    "there are no tokens in the file any more, which would let everybody in: keep"
                    " one, or start the server again without",
                    option="tokens",
                )
            before = server.served()
            new = [name for name in wanted.environments if name not in before]
            gone = [name for name in before if name not in wanted.environments]
            server.check_names(new)
            made = {name: await asyncio.to_thread(_made, wanted.environments[name]) for name in new}
            changed: list[str] = []
            restart: dict[str, list[str]] = {}
            added: list[str] = []
            try:
                for name, (spec, options) in made.items():
                    await server.add(name, wanted.environments[name], spec, options)
                    added.append(name)
            except BaseException:
                for name in added:
                    server.remove(name)
                raise
            for name in before:
                if name in wanted.environments and not wanted.environments[name].is_as(
                    before[name]
                ):
                    needs = server.change(name, wanted.environments[name])
                    changed.append(name)
                    if needs:
                        restart[name] = needs
            for name in gone:
                server.remove(name)
            tokens, revoked = server.callers.update(wanted.callers)
            for caller in revoked:
                why = f"the token {caller.name!r:.80} was taken out of the server's file"
                server.shut_sessions(caller, SessionClosed(f"{why}: ask who runs the server"))
        environments = {"added": new, "changed": changed, "removed": gone}
        told = {"environments": environments, "tokens": tokens, "needs_restart": restart}
        log.info("reloaded: %s", told)
        return told

    def begin(self) -> None:
        """Reload soon; what is wrong is logged."""
        task = asyncio.create_task(self._logged(), name="openenv-reload")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _logged(self) -> None:
        try:
            await self.run()
        except (OpenEnvError, TypeError) as exc:
            log.error("nothing was reloaded: %s", exc)

    async def aclose(self) -> None:
        """End a reload that runs: the server stops."""
        running = [*self._running]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


def _made(wanted: WantedEnvironment) -> tuple[EnvironmentSpec, EngineOptions]:
    spec = wanted.make()
    return spec, wanted.options(spec)


async def reloaded(reload: Reload | None, request: Request, format: Format) -> dict[str, Any]:
    """Answer ``POST /reload``.

    Raises:
        AccessRefused: the caller is not an administrator.
        OperationUnsupported: the server has no file to read again.
        OpenEnvError: the file is wrong; nothing changed.
    """
    caller_of(request.scope).check_admin("reloading a server")
    if reload is None:
        raise OperationUnsupported(
            "this server was started without a file of settings, so there is nothing to read again:"
            " start it with --config FILE"
        )
    return await reload.run()
