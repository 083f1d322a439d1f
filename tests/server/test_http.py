from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from websockets.asyncio.client import connect

from openenv_async import (
    EngineOptions,
    EnvClient,
    Environment,
    HTTPEnvClient,
    Limits,
    StepResult,
    create_app,
    serve,
)
from openenv_async.models import PayloadCodec
from tests.helpers import Counter
from tests.server.clients import (
    HEADER,
    Echo,
    asking,
    problem,
    served,
    step,
)

# -- an episode -------------------------------------------------------------------------------


async def test_a_cookie_jar_plays_an_episode() -> None:
    async with served() as (http, engine):
        began = await http.post("/reset", json={"seed": 7, "episode_id": "ep", "level": 3})
        assert began.json() == {
            "observation": {"echo": "level 3", "frame": None},
            "reward": None,
            "done": False,
            "terminated": False,
            "truncated": False,
            "episode_id": "ep",
            "seed": 7,
        }
        cookie = began.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert began.headers[HEADER] in cookie
        stepped = await http.post("/step", json=step("meta"))
        assert stepped.json() == {
            "observation": {"echo": "meta", "frame": None},
            "reward": 1.0,
            "done": False,
            "terminated": False,
            "truncated": False,
            "metadata": {"n": 1},
        }
        assert (await http.get("/state")).json() == {
            "episode_id": "ep",
            "step_count": 1,
            "steps": 1,
        }
        told = (await http.post("/step", json=step("info"))).json()
        assert (told["reward"], told["done"], told["truncated"]) == (2.0, True, True)
        assert told["info"] == {"why": "asked"}
        assert problem(await http.post("/step", json=step("x"))) == (409, "episode_ended")
        assert (await http.post("/close")).json() == {"status": "closed"}
        assert not http.cookies
        assert not engine.sessions


@pytest.mark.parametrize("body", [b"", b"null", b"{}"])
async def test_reset_needs_no_body(body: bytes) -> None:
    async with served() as (http, _):
        began = await http.post("/reset", content=body)
        assert began.status_code == 200
        assert isinstance(began.json()["seed"], int)


async def test_a_second_reset_stays_in_its_session() -> None:
    async with served() as (http, engine):
        first = await http.post("/reset")
        second = await http.post("/reset")
        assert first.headers[HEADER] == second.headers[HEADER]
        assert first.json()["episode_id"] != second.json()["episode_id"]
        assert len(engine.sessions) == 1


async def test_the_header_goes_before_the_cookie() -> None:
    async with served() as (http, engine):
        await http.post("/reset")
        opened = (await http.post("/open", headers={HEADER: "a" * 32 + "." + "b" * 32})).json()
        assert opened == {
            "session": "a" * 32 + "." + "b" * 32,
            "resumed": False,
            "seq": 0,
            "epoch": engine.epoch,
        }
        assert len(engine.sessions) == 2
        again = await http.post("/open", headers={HEADER: opened["session"]})
        assert again.json()["resumed"] is True
        assert len(engine.sessions) == 2


async def test_open_can_insist_on_resuming() -> None:
    async with served() as (http, engine):
        gone = await http.post(
            "/open", headers={HEADER: "a" * 32 + "." + "b" * 32}, json={"resume": True}
        )
        assert problem(gone) == (410, "session_lost")
        assert not engine.sessions


async def test_without_a_session() -> None:
    async with served() as (http, engine):
        for answer in (
            await http.post("/step", json=step("x")),
            await http.get("/state"),
            await http.post("/close"),
        ):
            assert problem(answer) == (409, "episode_not_started")
            assert "/reset" in answer.json()["detail"]
        assert not engine.sessions


async def test_an_unknown_session_allocates_nothing() -> None:
    async with served() as (http, engine):
        headers = {HEADER: "0" * 32 + "." + "1" * 32}
        for answer in (
            await http.post("/reset", headers=headers),
            await http.post("/step", headers=headers, json=step("x")),
            await http.get("/state", headers=headers),
            await http.post("/close", headers=headers),
        ):
            assert problem(answer) == (404, "session_not_found")
        assert problem(await http.post("/reset", headers={HEADER: "me"})) == (400, "protocol_error")
        assert not engine.sessions


async def test_a_wrong_secret_is_an_unknown_session() -> None:
    async with served() as (http, _):
        began = await http.post("/reset")
        id, _, secret = began.headers[HEADER].partition(".")
        forged = {HEADER: f"{id}.{secret[::-1]}"}
        assert problem(await http.get("/state", headers=forged)) == (404, "session_not_found")


async def test_a_wrong_secret_disturbs_nobody_who_waits() -> None:
    options = EngineOptions(max_sessions=1, max_waiting=1)
    async with served(options=options) as (http, engine):
        first = {HEADER: (await http.post("/reset")).headers[HEADER]}
        name = {HEADER: "a" * 32 + "." + "b" * 32}
        opening = asyncio.create_task(http.post("/open", headers=name))
        while not engine.waiting:  # noqa: ASYNC110 - nothing here could set an event
            await asyncio.sleep(0)
        forged = {HEADER: "a" * 32 + "." + "c" * 32}
        assert problem(await http.post("/open", headers=forged)) == (404, "session_not_found")
        assert not opening.done()
        await http.post("/close", headers=first)
        assert (await opening).json()["session"] == name[HEADER]


async def test_a_stale_cookie_is_cleared() -> None:
    async with served() as (http, engine):
        await http.post("/reset")
        [session] = engine.sessions.values()
        session.shut(engine.busy())
        assert not engine.sessions
        assert problem(await http.post("/reset")) == (404, "session_not_found")
        assert (await http.post("/reset")).status_code == 200


async def test_capacity() -> None:
    async with served(options=EngineOptions(max_sessions=1)) as (http, _):
        await http.post("/reset")
        http.cookies.clear()
        refused = await http.post("/reset")
        assert problem(refused) == (503, "server_busy")
        assert refused.json()["error"]["retryable"] is True
        assert refused.headers["Retry-After"] == "1"


# -- bodies and errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "kind", "loc"),
    [
        ("/step", {"message": "hi"}, "missing", ["body", "action"]),
        ("/step", {**step("x"), "render": True}, "extra_forbidden", ["body", "render"]),
        ("/step", {**step("x"), "timeout_s": "1"}, "greater_than", ["body", "timeout_s"]),
        ("/step", {"action": {}}, "missing", ["message"]),
        ("/step", step("x", z=1), "extra_forbidden", ["z"]),
        ("/step", step("x", inner={"weight": "a"}), "value_error", ["inner", "weight"]),
        ("/step", {"action": 3}, "value_error", []),
        ("/step", [1], "model_attributes_type", ["body"]),
        ("/reset", {"seed": -1}, "greater_than_equal", ["body", "seed"]),
        ("/reset", {"seed": 1.5}, "int_type", ["body", "seed"]),
        ("/reset", {"seed": [[]]}, "int_type", ["body", "seed"]),
        ("/reset", {"episode_id": "x" * 256}, "string_length", ["body", "episode_id"]),
        ("/reset", {"episode_id": 3}, "string_type", ["body", "episode_id"]),
        ("/reset", {"volume": 11}, "value_error", ["body", "volume"]),
        ("/reset", {"level": "high"}, "value_error", ["body", "level"]),
        ("/open", {"x": 1}, "extra_forbidden", ["body", "x"]),
        ("/close", {"x": 1}, "extra_forbidden", ["body", "x"]),
    ],
)
async def test_a_bad_body_is_422_as_upstream_lists_it(
    path: str, body: Any, kind: str, loc: list[str]
) -> None:
    async with served() as (http, _):
        await http.post("/reset")
        answer = await http.post(path, json=body)
        assert answer.status_code == 422
        [item] = answer.json()["detail"]
        assert (item["type"], item["loc"]) == (kind, loc)
        assert item["msg"]
        assert answer.json()["error"]["retryable"] is False
        assert (await http.post("/reset")).status_code == 200


@pytest.mark.parametrize("body", [b"{bad", b'{"action":' + b"[" * 100_000, b"\xff", b'"x"'])
async def test_a_malformed_body(body: bytes) -> None:
    async with served() as (http, _):
        answer = await http.post("/step", content=body)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body"]
        packed = await http.post(
            "/step", content=body, headers={"Content-Type": "application/msgpack"}
        )
        assert packed.status_code == 422


async def test_an_environment_that_raises_is_500_without_a_traceback() -> None:
    async with served() as (http, _):
        await http.post("/reset")
        answer = await http.post("/step", json=step("boom"))
        assert problem(answer) == (500, "environment_raised")
        assert "boom in step" in answer.json()["detail"]
        assert "Traceback" not in answer.text
        assert (await http.post("/step", json=step("fine"))).status_code == 200


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    options = EngineOptions(limits=Limits(max_message_size=1000))
    async with served(options=options) as (http, _):
        large = json.dumps(step("x" * 2000)).encode()
        assert problem(await http.post("/step", content=large)) == (413, "payload_too_large")

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 300

        assert problem(await http.post("/step", content=chunks())) == (413, "payload_too_large")


async def test_unknown_paths_and_verbs() -> None:
    async with served() as (http, _):
        assert (await http.get("/nowhere")).status_code == 404
        assert (await http.get("/step")).status_code == 405


# -- formats ----------------------------------------------------------------------------------


async def test_msgpack_loses_nothing() -> None:
    packed = {"Content-Type": "application/msgpack"}
    codec: PayloadCodec[Any] = PayloadCodec(dict[str, Any], "msgpack")
    async with served() as (http, _):
        await http.post("/reset", content=codec.encode({"seed": 3}), headers=packed)
        answer = await http.post("/step", content=codec.encode(step("frame")), headers=packed)
        assert answer.headers["content-type"] == "application/msgpack"
        body = codec.decode(answer.content)
        assert body["observation"]["reward"] == body["reward"] == 1.0
        frame = body["observation"]["frame"]
        assert frame.dtype == np.float32
        assert np.isnan(frame[1])
        state = await http.get("/state", headers={"Accept": "application/msgpack"})
        assert codec.decode(state.content) | {"episode_id": ""} == {
            "state": {"steps": 1, "step_count": None},
            "episode_id": "",
            "seed": 3,
            "step_count": 1,
        }
        failed = await http.post("/step", content=codec.encode({"action": {}}), headers=packed)
        assert codec.decode(failed.content)["error"]["code"] == "invalid_action"


async def test_the_two_formats_of_a_call_may_differ() -> None:
    async with served() as (http, _):
        await http.post("/reset")
        codec: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
        packed = codec.encode(step("frame"))
        answer = await http.post(
            "/step",
            content=packed,
            headers={"Content-Type": "application/msgpack", "Accept": "application/json"},
        )
        assert answer.json()["observation"]["frame"] == [1.5, "NaN"]
        answer = await http.post(
            "/step", json=step("frame"), headers={"Accept": "text/html, application/msgpack;q=1"}
        )
        assert codec.decode(answer.content)["observation"]["frame"].size == 2


async def test_a_session_changes_its_transport() -> None:
    async with served() as (http, engine), EnvClient[Any, Any, Any](str(http.base_url)) as env:
        await env.reset()
        assert (await env.step({"message": "ws"})).observation["echo"] == "ws"
        [session] = engine.sessions.values()
        name = {HEADER: f"{session.id}.{session.secret}"}
        answer = await http.post("/step", json=step("http"), headers=name)
        assert answer.json()["observation"]["echo"] == "http"
        assert (await http.get("/state", headers=name)).json()["step_count"] == 2


# -- descriptions -----------------------------------------------------------------------------


async def test_descriptions() -> None:
    async with served() as (http, engine):
        assert (await http.get("/health")).json() == {"status": "healthy"}
        assert (await http.get("/metadata")).json() == {
            "name": "Echo",
            "description": "Says what it hears.",
            "readme_content": None,
            "version": "2.5.0",
            "author": "somebody",
            "documentation_url": None,
        }
        schema = (await http.get("/schema")).json()
        assert set(schema) == {"action", "observation", "reset_observation", "state", "reset"}
        await http.post("/reset")
        stats = (await http.get("/stats")).json()
        assert stats["opened"] == stats["sessions"] == 1
        assert stats["epoch"] == engine.epoch
        assert stats["rss_bytes"] > 1_000_000
        assert stats["cpu_seconds"] > 0
        assert len(stats["runs_on"]) == 3
        assert stats["runs_on"][2].startswith("websockets ")


async def test_openapi_describes_exactly_the_routes() -> None:
    app = create_app(Echo)
    async with serve(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        document = (await http.get("/openapi.json")).json()
    assert document["info"]["version"] == "2.5.0"
    described = {
        (path, verb.upper()) for path, verbs in document["paths"].items() for verb in verbs
    }
    routes = {
        (getattr(route, "path", "").replace(":path}", "}"), method)
        for route in app.routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD" and getattr(route, "include_in_schema", True)
    }
    assert described == routes

    def references(tree: Any) -> list[str]:
        if isinstance(tree, dict):
            own = [tree["$ref"]] if isinstance(tree.get("$ref"), str) else []
            return own + [ref for value in tree.values() for ref in references(value)]
        return [ref for item in tree for ref in references(item)] if isinstance(tree, list) else []

    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    action = document["paths"]["/step"]["post"]["requestBody"]["content"]["application/json"]
    assert action["schema"]["properties"]["action"] == {"$ref": "#/components/schemas/action"}


# -- options and rewards --------------------------------------------------------------------------


class Sandbox(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its reset has options with names that mean something elsewhere."""

    def reset(self, timeout: float = 5.0, session_id: str = "none") -> dict[str, Any]:
        return {"timeout": timeout, "session_id": session_id}

    def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
        return StepResult({}, reward=float(action["reward"]))


class Gymlike(Sandbox):
    """Its reset has an option that is called options."""

    def reset(self, options: dict[str, Any] | None = None) -> dict[str, Any]:  # type: ignore[override]  # another environment
        return {"options": options}


@pytest.mark.parametrize("nested", [False, True])
async def test_options_with_any_name_reach_the_environment(nested: bool) -> None:
    own = {"timeout": 3.0, "session_id": "mine"}
    async with asking(create_app(Sandbox)) as http:
        body: dict[str, Any] = {"seed": 1, "options": own} if nested else {"seed": 1, **own}
        assert (await http.post("/reset", json=body)).json()["observation"] == own
        twice = await http.post("/reset", json={"timeout": 1.0, "options": {"timeout": 2.0}})
        assert twice.status_code == 422
        assert "twice" in twice.text
        unknown = await http.post("/reset", json={"options": {"level": 2}})
        assert unknown.status_code == 422
        assert "level" in unknown.text


async def test_an_option_that_is_called_options_is_the_environments() -> None:
    async with asking(create_app(Gymlike)) as http:
        reply = await http.post("/reset", json={"options": {"level": 2}})
        assert reply.json()["observation"] == {"options": {"level": 2}}


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0.0", "1.5"])
async def test_a_reward_arrives_exactly_over_http_and_upstreams_dialect(text: str) -> None:
    reward = float(text)
    spelled = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, reward)
    async with serve(Sandbox) as url, httpx.AsyncClient(base_url=url) as http:
        await http.post("/reset", json={})
        for media in ("application/json", "application/openenv+json"):
            reply = await http.post(
                "/step", json={"action": {"reward": text}}, headers={"Accept": media}
            )
            assert json.loads(reply.text, parse_constant=pytest.fail)["reward"] == spelled
        packed = await http.post(
            "/step",
            json={"action": {"reward": text}},
            headers={"Accept": "application/msgpack"},
        )
        assert repr(msgspec.msgpack.decode(packed.content)["reward"]) == repr(reward)
        async with HTTPEnvClient[Any, Any, Any](url) as env:
            await env.reset()
            assert repr((await env.step({"reward": text})).reward) == repr(reward)
        async with connect(url.replace("http", "ws") + "/ws") as socket:
            await socket.send('{"type": "reset", "data": {}}')
            assert json.loads(await socket.recv())["data"]["reward"] is None
            await socket.send(json.dumps({"type": "step", "data": {"reward": text}}))
            assert json.loads(await socket.recv())["data"]["reward"] == spelled
        assert math.isnan(reward) == (spelled == "NaN")


async def test_a_seed_past_64_bits_is_refused_over_http_and_upstreams_dialect() -> None:
    async with serve(Counter) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            for seed in (2**64, 10**300, -1):
                reply = await http.post("/reset", json={"seed": seed})
                assert reply.status_code == 422
                assert "seed" in reply.text
            assert (await http.post("/reset", json={"seed": 2**64 - 1})).status_code == 200
            for value in (10**300, -1, 0, "x"):
                body: dict[str, Any] = {"action": {}, "timeout_s": value}
                assert (await http.post("/step", json=body)).status_code == 422
            for text in ("nan", "inf", "-1", "1e300", "x"):
                headers = {"X-OpenEnv-Timeout": text}
                reply = await http.post("/step", json={"action": {}}, headers=headers)
                assert reply.status_code == 400
            assert (await http.post("/step", json={"action": {}})).status_code == 200
        async with connect(url.replace("http", "ws") + "/ws") as socket:
            await socket.send(json.dumps({"type": "reset", "data": {"seed": 2**64}}))
            assert json.loads(await socket.recv())["type"] == "error"
            await socket.send('{"type": "reset", "data": {"seed": 3}}')
            assert json.loads(await socket.recv())["data"]["observation"]["seed"] == 3


async def test_without_a_session_each_call_has_an_environment_of_its_own() -> None:
    app = create_app(Echo, stateless_http=True)
    engine = app.state.openenv.engine
    async with serve(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        began = await client.post("/reset", json={"level": 3, "unknown": 1})
        assert began.json()["observation"]["echo"] == "level 3"
        assert (HEADER not in began.headers, not client.cookies) == (True, True)
        stepped = await client.post("/step", json={**step("meta"), "render": True})
        assert stepped.json()["metadata"] == {"n": 1}
        again = await client.post("/step", json=step("meta"))
        assert again.json()["metadata"] == {"n": 1}
        assert (await client.get("/state")).json()["steps"] == 0
        raised = await client.post("/step", json=step("boom"))
        assert raised.status_code == 500
        assert (await client.post("/step", json=step(3))).status_code == 422  # type: ignore[arg-type]  # wrong on purpose
        assert not engine.sessions
        name = (await client.post("/open", json={})).headers[HEADER]
        client.cookies.clear()
        header = {HEADER: name}
        early = await client.post("/step", json=step("x"), headers=header)
        assert problem(early) == (409, "episode_not_started")
        await client.post("/reset", json={}, headers=header)
        for n in (1, 2):
            kept = await client.post("/step", json=step("meta"), headers=header)
            assert kept.json()["metadata"] == {"n": n}


async def test_models_are_plain_objects_in_their_schemas() -> None:
    async with served() as (client, _):
        schema = (await client.get("/schema")).json()
    assert schema["action"]["title"] == "Action"
    assert schema["action"]["required"] == ["message"]
    assert set(schema["action"]["properties"]) == {"message", "inner"}
    assert "$ref" not in schema["action"]
    assert "Inner" in schema["action"]["$defs"]
    assert schema["reset_observation"] == schema["observation"]
    assert schema["observation"]["properties"]["echo"] == {"type": "string"}
