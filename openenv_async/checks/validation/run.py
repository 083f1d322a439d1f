"""Validation: the checks of a folder, an installed environment or a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from openenv_async.checks.registry import Check, Result, chosen, of_kind
from openenv_async.checks.runner import OnResult, Runner
from openenv_async.checks.servers import servers
from openenv_async.checks.validation import episodes, folder, legal, seeds, tasks, timing
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.endpoints.tokens import TOKEN_VARIABLES
from openenv_async.errors import (
    DeadlineExceeded,
    ProviderError,
    ServerError,
    TargetNotFound,
    TransportError,
)
from openenv_async.targets import manifest
from openenv_async.targets.resolve import ResolvedTarget, Target, resolve
from openenv_async.targets.schemes import scheme_of

__all__ = ["CHECKS", "MODULES", "STARTS", "check_served", "validate"]

MODULES: Final = (folder, episodes, legal, seeds, tasks, timing)
"""The modules whose import registers the checks."""
CHECKS: Final = {
    each.name: each
    for module in MODULES
    for each in of_kind("folder", "behaviour").values()
    if each.call.__module__ == module.__name__
}
"""The checks by name, in the order of the modules."""
STARTS: Final = "the_server_starts"
_PATIENCE: Final = 120.0
"""Seconds that one check may take."""
_LOOK: Final = 60.0


async def validate(
    target: Target,
    *,
    params: Mapping[str, Any] | None = None,
    token: str | None = None,
    names: Iterable[str] | None = None,
    actions: Iterable[Any] = (),
    varying: Iterable[str] = (),
    timeout: float = 10.0,
    max_observation_size: int = 16 * 1024 * 1024,
    sessions: int = 16,
    on_result: OnResult | None = None,
) -> list[Result]:
    """Check an environment.

    Args:
        target: anything that ``targets.resolve`` takes: a folder with an ``openenv.yaml``, an
            installed name, ``module:Class``, a class, the URL of a server or several, an image,
            … A target without a server is served meanwhile.
        params: constructor arguments.
        token: of the server at a URL.
        names: of the checks, by default all.
        actions: to choose from; by default the manifest's, else drawn from the schema.
        varying: names of fields that may differ between equal episodes; the manifest's are
            added.
        timeout: seconds that one call may take.
        max_observation_size: bytes.
        sessions: how many at once are tried.
        on_result: called with each result as it comes.

    Raises:
        WrongTarget: it is nothing that has a server; a ``TypeError``.
        TargetNotFound: there is no such environment.
        ConnectFailed: nothing answers at the URL.
        InvalidOption: there is no check of such a name, or it takes no params or no token.
    """
    wanted = chosen(CHECKS, names)
    found = resolve(target, params=params, token=token, entry="validate()")
    run = _Run(Candidate(timeout=timeout, sessions=sessions), wanted, on_result)
    candidate = run.candidate
    candidate.max_observation_size = max_observation_size
    candidate.actions, candidate.varying = tuple(actions), frozenset(varying)
    if found.kind == "named":
        found = _look_at(candidate, found)
        if candidate.folder is None or candidate.manifest is not None:
            candidate.findings = await _inspect(found.given, dict(found.params or {}))
    await run.folder()
    await run.serve(found)
    return run.results


def _look_at(candidate: Candidate, target: ResolvedTarget) -> ResolvedTarget:
    """Fill in folder and manifest; return the target with the arguments of the manifest."""
    folder = Path(target.given).expanduser()
    elsewhere = target.is_installed or scheme_of(target.given) is not None
    if elsewhere or not (folder / manifest.MANIFEST).is_file():
        return target
    candidate.folder = folder
    with contextlib.suppress(TargetNotFound):
        about = candidate.manifest = manifest.load(folder)
        candidate.actions = candidate.actions or about.validation.actions
        candidate.varying |= frozenset(about.validation.varying)
        return target.with_arguments({**about.validation.params, **(target.params or {})})
    return target


async def check_served(
    candidate: Candidate, names: Iterable[str] | None = None, on_result: OnResult | None = None
) -> list[Result]:
    """Make the checks of behaviour on the server at a candidate's address.

    Args:
        candidate: with its address, and what is known of the environment.
        names: of the checks, by default all of behaviour.
        on_result: called with each result as it comes.
    """
    run = _Run(candidate, chosen(CHECKS, names), on_result)
    await run.behaviour()
    return run.results


class _Run(Runner):
    """The checks of one candidate that are wanted."""

    def __init__(
        self, candidate: Candidate, wanted: list[Check], on_result: OnResult | None
    ) -> None:
        super().__init__(_PATIENCE, on_result)
        self.candidate = candidate
        self._folder = [each for each in wanted if each.kind == "folder"]
        self._behaviour = [each for each in wanted if each.kind == "behaviour"]

    async def folder(self) -> None:
        """Make the checks of the folder."""
        for each in self._folder:
            await self.run(each, self.candidate, "folder")

    async def serve(self, target: ResolvedTarget) -> None:
        """Make the checks of behaviour on each server of the target."""
        if not self._behaviour:
            return
        candidate = self.candidate
        async with contextlib.AsyncExitStack() as stack:
            room = max(64, 2 * candidate.sessions)
            try:
                found = await stack.enter_async_context(servers(target, max_sessions=room))
            except (ServerError, ProviderError, TransportError, DeadlineExceeded) as exc:
                remedy = "run `openenv-async serve` and read what it says"
                self.add(Result(STARTS, "server", "failed", exc.message, remedy))
                self.skip(self._behaviour, "server", "the server did not start")
                return
            for server in found:
                candidate.url, candidate.token = server.url, server.token
                # Of this process nothing can be told: it holds the clients as well.
                candidate.pid = server.pid if target.kind == "named" else None
                await self.behaviour("server" if len(found) == 1 else f"server {server.url}")

    async def behaviour(self, name: str = "server") -> None:
        """Make the checks of behaviour on the server at the candidate's address.

        Args:
            name: of the server, for the results.
        """
        if not self._behaviour:
            return
        candidate = self.candidate
        await candidate.look()
        self.add(Result(STARTS, name, "passed"))
        for each in self._behaviour:
            await self.run(each, candidate, name)


async def _inspect(target: str, params: dict[str, Any]) -> dict[str, list[str]]:
    """Return what ``inspection`` finds in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openenv_async.checks.validation.inspection", target),
        json.dumps(params),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_LOOK):
            out, err = await process.communicate()
    except TimeoutError:
        return {"modules_import": [f"importing the modules took more than {_LOOK:g} s"]}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not out:
        last = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return {"modules_import": [f"importing them ended the process: {last[-1]}"]}
    found: dict[str, list[str]] = json.loads(out)
    return found
