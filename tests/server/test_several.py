"""Several environments on one server: a path, a list, one drain."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from openenv_async import EngineOptions, EnvPool, GenericEnvClient, serve
from openenv_async.errors import GoingAway, InvalidOption, ServerBusy, Unauthorized
from openenv_async.server.several import create_app_of_several
from openenv_async.spec import EnvironmentSpec
from tests.behaviours.environments import Blob, CountedAsync, CountedInline

ENVS = {"inline": EnvironmentSpec(CountedInline), "tasks.2": EnvironmentSpec(CountedAsync)}


async def ask(method: str, url: str, **settings: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, url, **settings) as got:
        is_json = got.content_type == "application/json"
        return got.status, await (got.json() if is_json else got.text())


async def test_each_is_played_below_its_name() -> None:
    options = {"inline": EngineOptions(max_sessions=1)}
    async with (
        serve(create_app_of_several(ENVS, options)) as url,
        GenericEnvClient(f"{url}/inline") as first,
        GenericEnvClient(f"{url}/tasks.2") as second,
    ):
        assert (await first.reset()).observation == {"left": 5}
        assert (await second.reset()).observation == {"left": 5}
        with pytest.raises(ServerBusy):
            await GenericEnvClient(f"{url}/inline").open()
        async with EnvPool.from_url(f"{url}/tasks.2") as pool, pool.session() as third:
            await third.reset()
            _, about = await ask("GET", f"{url}/")
            told = about["environments"]
            assert {name: each["sessions"] for name, each in told.items()} == {
                "inline": 1,
                "tasks.2": 2,
            }
            assert told["inline"]["max_sessions"] == 1
        assert (await ask("POST", f"{url}/tasks.2/reset", json={}))[1]["observation"] == {"left": 5}


async def test_the_root_has_what_concerns_all() -> None:
    async with serve(create_app_of_several(ENVS)) as url:
        assert await ask("GET", f"{url}/health") == (200, {"status": "healthy"})
        assert (await ask("GET", f"{url}/stats"))[1]["environments"]["inline"]["sessions"] == 0
        _, text = await ask("GET", f"{url}/metrics")
        assert 'openenv_sessions_limit{environment="inline"} 1024.0' in text
        assert 'openenv_sessions{environment="tasks.2",state="active"} 0.0' in text
        assert 'openenv_step_seconds_count{environment="inline",phase="env"} 0.0' in text
        _, text = await ask("GET", f"{url}/inline/metrics")
        assert "openenv_sessions_limit 1024.0" in text
        _, page = await ask("GET", f"{url}/", headers={"Accept": "text/html"})
        assert '<a href="./tasks.2/">tasks.2</a>' in page
        _, page = await ask("GET", f"{url}/inline", headers={"Accept": "text/html"})
        assert "<h1>CountedInline" in page
        status, wrong = await ask("GET", f"{url}/nothing")
        assert (status, wrong["error"]["code"]) == (404, "target_not_found")


async def test_draining_is_of_all() -> None:
    async with (
        serve(create_app_of_several(ENVS)) as url,
        GenericEnvClient(f"{url}/inline") as first,
        GenericEnvClient(f"{url}/tasks.2") as second,
    ):
        await first.reset()
        assert (await ask("GET", f"{url}/ready"))[0] == 200
        status, about = await ask("POST", f"{url}/drain", json={"seconds": 60})
        assert (status, about["playing"], about["finished"]) == (202, 1, False)
        assert (await ask("GET", f"{url}/ready"))[0] == 503
        assert (await ask("GET", f"{url}/tasks.2/ready"))[0] == 503
        with pytest.raises(GoingAway):
            await second.reset()
        for _ in range(5):
            await first.step({})
        await first.close()
        await second.close()
        while not about["finished"]:
            _, about = await ask("GET", f"{url}/drain")
        assert (about["lost"], about["sessions"]) == (0, 0)


async def test_one_token_is_for_all() -> None:
    app = create_app_of_several(ENVS, token="t")
    async with serve(app) as url:
        for path in ("/health", "/ready", "/inline/health", "/inline/ready"):  # probes
            assert (await ask("GET", url + path))[0] == 200
        for path in ("/", "/drain", "/stats", "/metrics", "/inline/stats"):
            assert (await ask("GET", url + path))[0] == 401
            headers = {"Authorization": "Bearer t"}
            assert (await ask("GET", url + path, headers=headers))[0] == 200
        with pytest.raises(Unauthorized):
            await GenericEnvClient(f"{url}/inline").open()


@pytest.mark.parametrize("name", ["health", "a/b", "", "ä", "..", "metrics"])
def test_names_are_parts_of_a_path(name: str) -> None:
    with pytest.raises(InvalidOption, match="cannot be served as"):
        create_app_of_several({name: EnvironmentSpec(Blob)})
