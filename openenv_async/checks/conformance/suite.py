"""Runs the checks: over one door, or over every door of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Literal

from openenv_async.checks.conformance import (
    data,
    episodes,
    faults,
    frames,
    timing,
)
from openenv_async.checks.registry import (
    CHECKS,
    Check,
    CheckFailed,
    Result,
    Skipped,
    Subject,
)
from openenv_async.checks.transports import Door, HTTPDoor, NativeDoor, UpstreamDoor
from openenv_async.errors import ConnectFailed, OpenEnvError

__all__ = ["MODULES", "OWN_ENVIRONMENT", "Suite", "describe", "run"]

MODULES: Final = (episodes, faults, timing, data, frames)
"""Importing them registers the checks, in this order."""
OWN_ENVIRONMENT: Final = "ConformanceEnvironment"
_PATIENCE: Final = 60.0
"""Seconds that one check may take."""


class Suite:
    """Runs checks over one door, one after the other.

    Args:
        door: the way in.
        own: whether the conformance environment is behind it.
        schema, actions, seed, varying: as for ``Subject``.
    """

    def __init__(
        self,
        door: Door,
        *,
        own: bool = False,
        schema: dict[str, Any] | None = None,
        actions: list[Any] | None = None,
        seed: int = 0,
        varying: Collection[str] = (),
    ) -> None:
        self.door = door
        self._varying = varying
        self._own = own
        self._schema = schema
        self._actions = actions
        self._seed = seed

    async def run(self, names: Iterable[str] | None = None) -> list[Result]:
        """Run the named checks, by default all of them."""
        wanted = list(CHECKS) if names is None else list(names)
        return [await self.run_one(CHECKS[name]) for name in wanted]

    async def run_one(self, check: Check) -> Result:
        """Run one check; what goes wrong is the result."""
        if check.own and not self._own:
            return self._result(check, "skipped", f"needs a server of {OWN_ENVIRONMENT}")
        missing = sorted(check.needs - self.door.features)
        if missing:
            return self._result(check, "skipped", f"this door has no {', '.join(missing)}")
        subject = Subject(
            self.door, self._own, self._schema, self._actions, self._seed, self._varying
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                await check.call(subject)
        except Skipped as exc:
            return self._result(check, "skipped", str(exc))
        except CheckFailed as exc:
            return self._result(check, "failed", str(exc))
        except TimeoutError as exc:
            reason = str(exc) or f"nothing came within {_PATIENCE:g} s"
            return self._result(check, "failed", reason)
        except Exception as exc:  # the server may cause anything; it is the finding
            return self._result(check, "failed", f"{type(exc).__name__}: {exc}")
        return self._result(check, "passed", "")

    def _result(
        self, check: Check, status: Literal["passed", "failed", "skipped"], reason: str
    ) -> Result:
        remedy = check.remedy if status == "failed" else ""
        return Result(check.name, self.door.name, status, reason, remedy)


async def run(
    url: str,
    *,
    token: str | None = None,
    doors: Iterable[Door] | None = None,
    names: Iterable[str] | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Check a running server over every door that has a network.

    Args:
        url: of the server.
        token: access token.
        doors: by default native MessagePack, native JSON, HTTP and upstream's dialect.
        names: of the checks, by default all.
        on_result: called with each result as it comes.

    Raises:
        ConnectFailed: nothing answers at ``url``.
    """
    name, schema = await describe(url, token)
    wanted = list(CHECKS if names is None else names)
    results = []
    for door in doors or (
        NativeDoor(url, "msgpack", token),
        NativeDoor(url, "json", token),
        HTTPDoor(url, token),
        UpstreamDoor(url, token),
    ):
        suite = Suite(door, own=name == OWN_ENVIRONMENT, schema=schema)
        for one in wanted:
            result = await suite.run_one(CHECKS[one])
            results.append(result)
            if on_result is not None:
                on_result(result)
    return results


async def describe(url: str, token: str | None = None) -> tuple[str | None, dict[str, Any] | None]:
    """The environment's name and schemas, by HTTP; ``None`` where the server gives none.

    Raises:
        ConnectFailed: nothing answers.
        OpenEnvError: the server says itself why it gives none, such as ``Unauthorized``.
    """
    import aiohttp

    from openenv_async.client.refusals import read_failure, reason_of, refusal
    from openenv_async.endpoints.addresses import checked_url, is_here

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    base = checked_url(url).rstrip("/")
    found: list[Any] = []
    try:
        async with aiohttp.ClientSession(
            headers=headers,
            trust_env=not is_here(url),
            timeout=aiohttp.ClientTimeout(total=10),
        ) as http:
            for path in ("/metadata", "/schema"):
                async with http.get(base + path) as response:
                    good = response.status == 200
                    error = None if good else read_failure(await response.read())
                    if error is not None or response.status == 401:
                        raise refusal(url, response, await response.read())
                    found.append(await response.json(content_type=None) if good else None)
    except OpenEnvError:  # some are ValueErrors as well
        raise
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise ConnectFailed(f"{url} does not answer HTTP: {reason_of(url, exc)}") from exc
    metadata, schema = found
    return (metadata or {}).get("name"), schema
