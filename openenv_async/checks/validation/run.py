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

from openenv_async.checks.conformance.suite import describe
from openenv_async.checks.registry import Check, Result, chosen, of_kind
from openenv_async.checks.runner import OnResult, Runner
from openenv_async.checks.validation import episodes, folder, seeds, timing
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.client.settings import ClientSettings
from openenv_async.client.websocket import dial
from openenv_async.endpoints.tokens import TOKEN_VARIABLE
from openenv_async.errors import (
    ServerError,
    TargetNotFound,
    shown,
)
from openenv_async.providers.local_server import LocalServer
from openenv_async.targets import manifest
from openenv_async.targets.discovery import find_target, is_address, is_installed, looks_like_path

__all__ = ["CHECKS", "MODULES", "STARTS", "check_served", "validate"]

MODULES: Final = (folder, episodes, seeds, timing)
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
    target: str | Path,
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
        target: a folder with an ``openenv.yaml``, the URL of a server, the name of an installed
            environment, or ``module:Class``. All but a URL are served by a process of this
            machine meanwhile.
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
        ConnectFailed: nothing answers at the URL.
        TargetNotFound: there is no such environment.
        InvalidOption: there is no check of such a name.
    """
    given: Any = target
    if not isinstance(given, str | os.PathLike):
        raise TypeError(
            f"validate() takes a folder, a URL, a name or module:Class, got {shown(given)}: for a"
            " class itself there is openenv_async.testing.check_environment"
        )
    wanted = chosen(CHECKS, names)
    run = _Run(Candidate(token=token, timeout=timeout, sessions=sessions), wanted, on_result)
    candidate = run.candidate
    candidate.max_observation_size = max_observation_size
    candidate.actions, candidate.varying = tuple(actions), frozenset(varying)
    text = str(target)
    if "://" in text:
        candidate.url = _http_url(text)
        await run.folder()
        await run.behaviour()
        return run.results
    text, given = _look_at(candidate, target, dict(params or {}))
    if candidate.folder is None or candidate.manifest is not None:
        candidate.findings = await _inspect(text, given)
    await run.folder()
    await run.serve(text, given)
    return run.results


def _http_url(text: str) -> str:
    """Return a server's address as HTTP has it."""
    address = text.rstrip("/").removesuffix("/ws")
    return address.replace("ws://", "http://", 1).replace("wss://", "https://", 1)


def _look_at(
    candidate: Candidate, target: str | Path, params: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the target as ``serve`` takes it and its arguments; fill in folder and manifest."""
    text = str(target)
    folder = Path(text).expanduser()
    has_manifest = (folder / manifest.MANIFEST).is_file()
    if has_manifest and isinstance(target, str) and not looks_like_path(text):
        has_manifest = not is_installed(text)  # a plain name is an installed environment's
    if not has_manifest:
        if looks_like_path(text) and folder.is_dir():
            raise TargetNotFound(f"{folder} has no {manifest.MANIFEST}: it is not an environment")
        if looks_like_path(text) or ":" not in text or is_address(text):
            find_target(text)  # says what there is instead
        return text, params
    candidate.folder = folder
    with contextlib.suppress(TargetNotFound):
        about = candidate.manifest = manifest.load(folder)
        params = {**about.validation.params, **params}
        candidate.actions = candidate.actions or about.validation.actions
        candidate.varying |= frozenset(about.validation.varying)
    return _as_path(folder), params


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

    async def serve(self, target: str, params: dict[str, Any]) -> None:
        """Start a server, and make the checks of behaviour on it."""
        if not self._behaviour:
            return
        room = ("--max-sessions", str(max(64, 2 * self.candidate.sessions)))
        server = LocalServer(target, params, arguments=room)
        try:
            await server.__aenter__()
        except ServerError as exc:
            remedy = "run `openenv-async serve` and read what it says"
            self.add(Result(STARTS, "server", "failed", exc.message, remedy))
            self.skip(self._behaviour, "server", "the server did not start")
            return
        try:
            self.candidate.url, self.candidate.pid = server.url, server.pid
            self.candidate.token = getattr(server, "token", None)
            await self.behaviour()
        finally:
            await server.aclose()

    async def behaviour(self) -> None:
        """Make the checks of behaviour on the server at the candidate's address."""
        if not self._behaviour:
            return
        candidate = self.candidate
        _, schema = await describe(candidate.url, candidate.token)
        candidate.schema = schema or {}
        connection = await dial(candidate.url, ClientSettings(token=candidate.token))
        try:
            candidate.is_upstream = connection.server.get("dialect") == "upstream"
        finally:
            await connection.aclose()
        self.add(Result(STARTS, "server", "passed"))
        for each in self._behaviour:
            await self.run(each, candidate, "server")


def _as_path(folder: Path) -> str:
    """Return a folder as targets are written: a plain name could be an installed environment."""
    text = str(folder)
    return text if looks_like_path(text) else f"./{text}"


async def _inspect(target: str, params: dict[str, Any]) -> dict[str, list[str]]:
    """Return what ``inspection`` finds in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
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
