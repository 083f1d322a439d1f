"""Runs the checks: over a folder, an installed environment or a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from openenv_async.checks.conformance.suite import describe
from openenv_async.checks.registry import CheckFailed, Result, Skipped
from openenv_async.checks.validation import episodes, folder, seeds, timing
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.checks.validation.registry import CHECKS, Check
from openenv_async.client.settings import ClientSettings
from openenv_async.client.websocket import dial
from openenv_async.endpoints.tokens import TOKEN_VARIABLE
from openenv_async.errors import (
    ConnectFailed,
    InvalidOption,
    OpenEnvError,
    ServerError,
    TargetNotFound,
    shown,
)
from openenv_async.providers.local_server import LocalServer
from openenv_async.targets import manifest
from openenv_async.targets.discovery import find_target, is_address, is_installed, looks_like_path

__all__ = ["MODULES", "STARTS", "check_served", "validate"]

MODULES: Final = (folder, episodes, seeds, timing)
"""Importing them registers the checks, in this order."""
STARTS: Final = "the_server_starts"
_PATIENCE: Final = 120.0
"""Seconds that one check may take."""
_LOOK: Final = 60.0

OnResult = Callable[[Result], None]


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
    wanted = list(CHECKS if names is None else [names] if isinstance(names, str) else names)
    for name in wanted:
        if name not in CHECKS:
            raise InvalidOption(f"there is no check {name!r}; there are {', '.join(CHECKS)}")
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
    """A server's address as HTTP has it."""
    address = text.rstrip("/").removesuffix("/ws")
    return address.replace("ws://", "http://", 1).replace("wss://", "https://", 1)


def _look_at(
    candidate: Candidate, target: str | Path, params: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The target as ``serve`` takes it and its arguments; fills in folder and manifest."""
    text = str(target)
    folder = Path(text).expanduser()
    has_manifest = (folder / manifest.MANIFEST).is_file()
    if has_manifest and isinstance(target, str) and not looks_like_path(text):
        has_manifest = not is_installed(text)  # a plain name is an installed environment's
    if not has_manifest:
        if looks_like_path(text) and folder.is_dir():
            raise TargetNotFound(f"{folder} has no {manifest.MANIFEST}: it is no environment")
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
    run = _Run(candidate, list(CHECKS if names is None else names), on_result)
    await run.behaviour()
    return run.results


class _Run:
    """The results so far, and the checks that are wanted."""

    def __init__(self, candidate: Candidate, wanted: list[str], on_result: OnResult | None) -> None:
        self.candidate = candidate
        self.results: list[Result] = []
        self._wanted = [CHECKS[name] for name in wanted]
        self._on_result = on_result

    async def folder(self) -> None:
        """The checks of the folder."""
        for each in self._wanted:
            if each.subject == "folder":
                await self._one(each, "folder")

    async def serve(self, target: str, params: dict[str, Any]) -> None:
        """Start a server, and make the checks of behaviour on it."""
        if not any(each.subject == "behaviour" for each in self._wanted):
            return
        room = ("--max-sessions", str(max(64, 2 * self.candidate.sessions)))
        server = LocalServer(target, params, arguments=room)
        try:
            await server.__aenter__()
        except ServerError as exc:
            remedy = "run `openenv-async serve` and read what it says"
            self._add(Result(STARTS, "server", "failed", exc.message, remedy))
            self._skip_behaviour("the server did not start")
            return
        try:
            self.candidate.url, self.candidate.pid = server.url, server.pid
            self.candidate.token = getattr(server, "token", None)
            await self.behaviour()
        finally:
            await server.aclose()

    async def behaviour(self) -> None:
        """The checks of behaviour, on the server at the candidate's address."""
        wanted = [each for each in self._wanted if each.subject == "behaviour"]
        if not wanted:
            return
        candidate = self.candidate
        _, schema = await describe(candidate.url, candidate.token)
        candidate.schema = schema or {}
        connection = await dial(candidate.url, ClientSettings(token=candidate.token))
        try:
            candidate.is_upstream = connection.server.get("dialect") == "upstream"
        finally:
            await connection.aclose()
        self._add(Result(STARTS, "server", "passed"))
        for each in wanted:
            await self._one(each, "server")

    def _skip_behaviour(self, reason: str) -> None:
        for each in self._wanted:
            if each.subject == "behaviour":
                self._add(Result(each.name, "server", "skipped", reason))

    async def _one(self, check: Check, where: str) -> None:
        status: Literal["passed", "failed", "skipped"] = "passed"
        reason = ""
        failed: BaseException | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                await check.call(self.candidate)
        except Skipped as exc:
            status, reason = "skipped", str(exc)
        except CheckFailed as exc:
            status, reason, failed = "failed", str(exc), exc
        except TimeoutError as exc:
            status, reason = "failed", str(exc) or f"it took more than {_PATIENCE:g} s"
        except ExceptionGroup as exc:
            inner = failed = exc.exceptions[0]
            status = "skipped" if isinstance(inner, Skipped) else "failed"
            reason = str(inner)
        except ConnectFailed as exc:
            status, reason = "failed", f"the server is gone: {exc.message}"
        except OpenEnvError as exc:
            status, reason = "failed", f"{type(exc).__name__}: {exc.message}"
        reason = " ".join(reason.split())
        remedy = (self._told(failed) or check.remedy) if status == "failed" else ""
        self._add(Result(check.name, where, status, reason, remedy))

    def _told(self, failed: BaseException | None) -> str | None:
        """Return the remedy of a check whose call failed as one of an earlier check did.

        Such a check says nothing of its own promise, so its own remedy would mislead.
        """
        cause = failed.__cause__ if isinstance(failed, CheckFailed) else None
        if not isinstance(cause, OpenEnvError):
            return None
        text = " ".join(cause.message.split())
        for result in self.results:
            if result.status == "failed" and text in result.reason:
                return f"mend what {result.name} found: the same call failed here"
        return None

    def _add(self, result: Result) -> None:
        self.results.append(result)
        if self._on_result is not None:
            self._on_result(result)


def _as_path(folder: Path) -> str:
    """A folder as targets are written: a plain name could be an installed environment's."""
    text = str(folder)
    return text if looks_like_path(text) else f"./{text}"


async def _inspect(target: str, params: dict[str, Any]) -> dict[str, list[str]]:
    """What ``inspection`` finds, in a process of its own."""
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
