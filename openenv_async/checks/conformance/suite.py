"""The conformance suite: the checks over one transport, or over every transport of a server."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from openenv_async.checks.conformance import data, episodes, faults, frames, tasks, timing
from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.registry import Check, Result, chosen, of_kind
from openenv_async.checks.runner import OnResult, Runner
from openenv_async.checks.servers import servers
from openenv_async.checks.transports import Transport, network_transports
from openenv_async.errors import ConnectFailed, InvalidOption, OpenEnvError
from openenv_async.renamed import renamed_arguments
from openenv_async.targets.resolve import Target, resolve
from openenv_async.targets.served import Server

__all__ = ["CHECKS", "MODULES", "OWN_ENVIRONMENT", "Suite", "describe", "run"]

MODULES: Final = (episodes, faults, timing, data, tasks, frames)
"""The modules whose import registers the checks."""
CHECKS: Final = {
    each.name: each
    for module in MODULES
    for each in of_kind("conformance").values()
    if each.call.__module__ == module.__name__
}
"""The checks by name, in the order of the modules."""
OWN_ENVIRONMENT: Final = "ConformanceEnvironment"
_PATIENCE: Final = 60.0
"""Seconds that one check may take."""


class Suite:
    """The checks over one transport, one after the other.

    Args:
        transport: how to reach the server.
        own: whether the conformance environment is behind it.
        schema, actions, seed, varying: as for ``Subject``.
    """

    @renamed_arguments(door="transport")
    def __init__(
        self,
        transport: Transport,
        *,
        own: bool = False,
        schema: dict[str, Any] | None = None,
        actions: list[Any] | None = None,
        seed: int = 0,
        varying: Collection[str] = (),
    ) -> None:
        self.transport = transport
        self._varying = varying
        self._own = own
        self._schema = schema
        self._actions = actions
        self._seed = seed

    async def run(
        self, names: Iterable[str] | None = None, on_result: OnResult | None = None
    ) -> list[Result]:
        """Run the named checks, by default all of them.

        Args:
            names: of the checks.
            on_result: called with each result as it comes.

        Raises:
            InvalidOption: there is no check of such a name.
        """
        runner = Runner(_PATIENCE, on_result)
        for each in chosen(CHECKS, names):
            await self._one(each, runner)
        return runner.results

    async def run_one(self, check: Check) -> Result:
        """Run one check; what goes wrong is the result."""
        return await self._one(check, Runner(_PATIENCE))

    async def _one(self, check: Check, runner: Runner) -> Result:
        name = self.transport.name
        missing = sorted(check.needs - self.transport.features)
        if check.own and not self._own:
            reason = f"needs a server of {OWN_ENVIRONMENT}"
        elif missing:
            reason = f"this transport has no {', '.join(missing)}"
        else:
            subject = Subject(
                self.transport, self._own, self._schema, self._actions, self._seed, self._varying
            )
            return await runner.run(check, subject, name)
        return runner.add(Result(check.name, name, "skipped", reason))


@renamed_arguments(url="target", doors="transports")
async def run(
    target: Target,
    *,
    params: Mapping[str, Any] | None = None,
    token: str | None = None,
    transports: Iterable[Transport | str] | None = None,
    names: Iterable[str] | None = None,
    on_result: OnResult | None = None,
) -> list[Result]:
    """Check a server over every transport that has a network.

    Args:
        target: anything that ``targets.resolve`` takes, such as the URL of a server. A
            target without a server is served meanwhile; of several URLs each server is checked.
        params: constructor arguments of an environment that is served for the checks.
        token: access token of servers at URLs.
        transports: names of transports, or transports of one server; by default all that
            ``network_transports`` gives.
        names: of the checks, by default all.
        on_result: called with each result as it comes.

    Raises:
        WrongTarget: it is nothing that has a server; a ``TypeError``.
        TargetNotFound: there is no such environment.
        ConnectFailed: nothing answers at a URL.
        InvalidOption: there is no check or transport of such a name.
    """
    transports = None if transports is None else list(transports)
    wanted = [each.name for each in chosen(CHECKS, names)]
    found = resolve(target, params=params, token=token, entry="conformance.run()")
    results = []
    async with servers(found) as every:
        for server in every:
            name, schema = await describe(server.url, server.token)
            for transport in _chosen_transports(server, transports):
                if len(every) > 1:
                    transport.name = f"{transport.name} of {server.url}"
                suite = Suite(transport, own=name == OWN_ENVIRONMENT, schema=schema)
                results += await suite.run(wanted, on_result)
    return results


def _chosen_transports(
    server: Server, wanted: Sequence[Transport | str] | None
) -> Sequence[Transport]:
    by_name = {each.name: each for each in network_transports(server.url, server.token)}
    if wanted is None:
        return list(by_name.values())
    for each in wanted:
        if isinstance(each, str) and each not in by_name:
            raise InvalidOption(f"there is no transport {each!r}; there are {', '.join(by_name)}")
    return [by_name[each] if isinstance(each, str) else each for each in wanted]


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
