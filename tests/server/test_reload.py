"""A server reads its file again: what changes at once, and that no session is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from openenv_async import EngineOptions, GenericEnvClient, serve
from openenv_async.errors import (
    AccessRefused,
    QuotaReached,
    SessionClosed,
    TargetNotFound,
    Unauthorized,
)
from openenv_async.server.callers import Callers, digest_of
from openenv_async.server.reload import Reload, Wanted, WantedEnvironment
from openenv_async.server.several import create_app_of_several
from openenv_async.targets.config import from_file
from tests.helpers import until

ONE = "{target: 'tests.behaviours.environments:CountedInline', max_sessions: 2}"
OTHER = "{target: 'tests.behaviours.environments:CountedAsync'}"


def token_of(name: str, more: str = "") -> str:
    return f"{name}: {{digest: 'sha256:{digest_of(name).hex()}'{more}}}"


BOSS = token_of("boss", ", admin: true")


@asynccontextmanager
async def served(path: Path, text: str) -> AsyncIterator[tuple[str, Any]]:
    """A server of a file's environments, and the file."""

    def read() -> Wanted:
        config = from_file(path)
        usual = EngineOptions()
        environments = {
            name: WantedEnvironment(
                each.fixed(),
                lambda each=each: each.spec,  # type: ignore[misc]  # it is this one
                lambda _, each=each: each.options(usual),  # type: ignore[misc]  # likewise
                each.labels,
                each.live(),
            )
            for name, each in config.environments.items()
        }
        return Wanted(environments, config.callers(environments))

    await asyncio.to_thread(path.write_text, text)
    wanted = read()
    callers = Callers()
    callers.hold(wanted.callers or ())
    made = {name: each.make() for name, each in wanted.environments.items()}
    options = {name: wanted.environments[name].options(spec) for name, spec in made.items()}
    app = create_app_of_several(made, options, callers=callers, drain_seconds=5)
    several = app.state.openenv
    several.wanted, several.reload = dict(wanted.environments), Reload(several, read)
    async with serve(app) as url:
        yield url, several


async def post(url: str, token: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.post(url, json={}, headers=headers) as reply:
        return reply.status, await reply.json()


async def test_tokens_quotas_and_limits_change_under_a_session(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    begun = (
        f"environments: {{one: {ONE}}}\ntokens: {{{BOSS}, {token_of('red')}, {token_of('old')}}}"
    )
    async with (
        served(path, begun) as (url, several),
        GenericEnvClient(f"{url}/one", token="red") as red,
        GenericEnvClient(f"{url}/one", token="old") as old,
    ):
        await red.reset()
        await old.reset()
        more = ONE.replace("2}", "9, timeouts: {step: 7}}")
        red_now = token_of("red", ", max_sessions: 1")
        path.write_text(
            f"environments: {{one: {more}}}\ntokens: {{{BOSS}, {red_now}, {token_of('new')}}}"
        )
        assert (await post(f"{url}/reload", "red"))[1]["error"]["code"] == AccessRefused.code
        status, told = await post(f"{url}/reload", "boss")
        assert (status, told["tokens"]) == (
            200,
            {"added": ["new"], "changed": ["red"], "removed": ["old"]},
        )
        assert told["environments"] == {"added": [], "changed": ["one"], "removed": []}
        assert told["needs_restart"] == {}
        assert (await red.step({})).observation["left"] == 4  # its session goes on
        with pytest.raises((SessionClosed, Unauthorized)):
            await old.step({})
        with pytest.raises(QuotaReached):
            await GenericEnvClient(f"{url}/one", token="red").open()
        async with GenericEnvClient(f"{url}/one", token="new") as new:
            await new.reset()
        engine = several.servers["one"].engine
        assert (engine.max_sessions, engine.options.timeouts.step) == (9, 7.0)
        assert (await post(f"{url}/reload", "boss"))[1]["environments"]["changed"] == []


async def test_environments_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    async with (
        served(path, f"environments: {{one: {ONE}}}\ntokens: {{{BOSS}}}") as (url, several),
        GenericEnvClient(f"{url}/one", token="boss") as first,
    ):
        await first.reset()
        path.write_text(f"environments: {{two: {OTHER}}}\ntokens: {{{BOSS}}}")
        _, told = await post(f"{url}/reload", "boss")
        assert told["environments"] == {"added": ["two"], "changed": [], "removed": ["one"]}
        async with GenericEnvClient(f"{url}/two", token="boss") as second:
            assert (await second.reset()).observation == {"left": 5}
        done = False
        while not done:  # the episode ends in its own time
            done = (await first.step({})).done
        await first.close()
        await until(lambda: "one" not in several.servers)
        assert (await post(f"{url}/one/reset", "boss"))[1]["error"]["code"] == TargetNotFound.code


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("environments: {one: {target: x, foo: 1}}", "there is no key 'foo'"),
        (f"environments: {{one: {ONE}}}", "let everybody in"),
        (f"environments: {{two: {{target: nothing-here}}}}\ntokens: {{{BOSS}}}", "nothing-here"),
        (f"environments: {{health: {OTHER}}}\ntokens: {{{BOSS}}}", "cannot be served as 'health'"),
    ],
)
async def test_a_bad_file_changes_nothing(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "a.yaml"
    begun = f"environments: {{one: {ONE}}}\ntokens: {{{BOSS}}}"
    async with served(path, begun) as (url, several):
        path.write_text(text)
        status, told = await post(f"{url}/reload", "boss")
        assert status >= 400
        assert part in told["error"]["message"]
        assert list(several.servers) == ["one"]
        async with GenericEnvClient(f"{url}/one", token="boss") as env:
            await env.reset()


async def test_what_needs_a_new_start_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    begun = f"environments: {{one: {ONE}}}\ntokens: {{{BOSS}}}"
    async with served(path, begun) as (url, several):
        path.write_text(begun.replace("max_sessions: 2", "max_sessions: 3, params: {steps: 2}"))
        assert (await post(f"{url}/reload", "boss"))[1]["needs_restart"] == {"one": ["params"]}
        assert several.servers["one"].engine.max_sessions == 3


async def test_a_server_without_a_file() -> None:
    from openenv_async.spec import EnvironmentSpec
    from tests.behaviours.environments import CountedInline

    async with serve(EnvironmentSpec(CountedInline)) as url:
        assert (await post(f"{url}/reload", "x"))[1]["error"]["code"] == "unsupported"
