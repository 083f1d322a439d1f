"""The route ``/mcp``: both generations, how sessions are named, streams, refusals."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from openenv_async import EngineOptions, Environment, Limits, TaskTable, Timeouts, create_app
from openenv_async.models.observed import png
from tests.helpers import until
from tests.integrations.networks import Network
from tests.server.mcp.agent import (
    SECRET,
    STATELESS,
    WITH_SESSIONS,
    Agent,
    Maze,
    Move,
    Seen,
    events,
    playing,
    served,
)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_time_after_which_nothing_could_end(seconds: float) -> None:
    with pytest.raises(ValueError, match="agent_idle_timeout must be"):
        create_app(Maze, agent_idle_timeout=seconds)


GENERATIONS = pytest.mark.parametrize("revision", [STATELESS, WITH_SESSIONS, "2025-03-26"])


@GENERATIONS
async def test_an_episode(revision: str) -> None:
    async with playing(revision) as (agent, server):
        names = [tool["name"] for tool in (await agent.ask("tools/list"))["tools"]]
        assert names == ["reset", "step", *(["close"] if agent.is_stateless else [])]
        begun = (await agent.call("reset"))["structuredContent"]
        assert begun["observation"]["place"] == 0
        assert begun["legal_actions"] == [{"to": 1}]
        assert ("session" in begun) == agent.is_stateless
        stepped = (await agent.call("step", to=4))["structuredContent"]
        assert (stepped["observation"]["place"], stepped["done"]) == (4, False)
        over = (await agent.call("step", to=9))["structuredContent"]
        assert over["done"]
        after = await agent.call("step", to=1)
        assert after["isError"]
        assert "reset" in after["content"][0]["text"]
        again = (await agent.call("reset"))["structuredContent"]
        assert not again["done"]
        assert server.engine.active == 1


async def test_what_a_server_says_of_itself() -> None:
    async with playing(STATELESS) as (agent, _):
        found = await agent.ask("server/discover")
        assert found["supportedVersions"][-1] == STATELESS
        assert WITH_SESSIONS in found["supportedVersions"]
        assert found["resultType"] == "complete"
        assert found["ttlMs"] > 0
        assert "tools" in found["capabilities"]
        assert "Somewhere to move about." in found["instructions"]
    async with served() as (http, _):
        agent = Agent(http, "2025-06-18")
        begun = await agent.begin()
        assert begun["protocolVersion"] == "2025-06-18"
        assert begun["serverInfo"] == {"name": "Maze", "version": "3.1.0"}
        assert await agent.ask("ping") == {}
        asked = {"protocolVersion": "1999-01-01"}
        assert (await agent.ask("initialize", asked))["protocolVersion"] == WITH_SESSIONS


@GENERATIONS
async def test_pictures_and_numbers(revision: str) -> None:
    async with playing(revision) as (agent, _):
        await agent.call("reset")
        seen = await agent.call("step", to=2)
        text, image = seen["content"]
        assert image["mimeType"] == "image/png"
        assert seen["structuredContent"]["observation"]["picture"] == "<picture 1>"
        assert json.loads(text["text"]) == seen["structuredContent"]
        numbers = (await agent.call("step", to=3))["structuredContent"]["observation"]
        assert numbers["field_of"] == [1.5, "NaN"]


@GENERATIONS
async def test_the_last_observation_is_a_resource(revision: str) -> None:
    async with playing(revision) as (agent, _):
        uri = "openenv://session/observation"
        assert "error" in (await agent.send("resources/read", {"uri": uri})).json()
        await agent.call("reset")
        await agent.call("step", to=2)
        if agent.is_stateless:
            [template] = (await agent.ask("resources/templates/list"))["resourceTemplates"]
            assert (await agent.ask("resources/list"))["resources"] == []
            uri = template["uriTemplate"].replace("{session}", agent.handle)
        else:
            [resource] = (await agent.ask("resources/list"))["resources"]
            assert resource["uri"] == uri
        whole, picture = (await agent.ask("resources/read", {"uri": uri}))["contents"]
        assert json.loads(whole["text"])["place"] == 2
        assert picture["mimeType"] == "image/png"
        wrong = await agent.send("resources/read", {"uri": uri + "x"})
        assert wrong.json()["error"]["data"] == {"uri": uri + "x"}


@GENERATIONS
async def test_nothing_that_is_the_trainers_is_told_or_taken(revision: str) -> None:
    async with playing(revision) as (agent, _):
        tools = (await agent.ask("tools/list"))["tools"]
        reset = next(tool for tool in tools if tool["name"] == "reset")
        assert set(reset["inputSchema"]["properties"]) <= {"session"}
        assert "reward" not in json.dumps([tool["outputSchema"] for tool in tools[:2]])
        for option in ("seed", "level", "episode_id", "task_id", "split", "options"):
            refused = await agent.call("reset", **{option: 3})
            assert refused["isError"]
            assert option in refused["content"][0]["text"]
        assert not (await agent.call("reset"))["isError"]
        for place in (1, 2, 3, 13, 9):
            await agent.call("step", to=place)
        for name in ("state", "get_state", "score"):
            arguments = {"session": agent.handle} if agent.handle else {}
            sent = {"name": name, "arguments": arguments}
            unknown = (await agent.send("tools/call", sent)).json()
            assert unknown["error"]["code"] == -32602
        await agent.send("resources/read", {"uri": "openenv://session/state"})
        await agent.send("prompts/list")
        said = "\n".join(agent.texts)
        assert "987654" not in said
        assert "reward" not in said
        assert "hidden" not in said


@GENERATIONS
async def test_the_author_or_the_operator_may_say_otherwise(revision: str) -> None:
    class Open(Maze):
        agent_access = ("reward", "seed")

    more = ("state", "options", "info")
    async with playing(revision, Open, agent_access=more) as (agent, _):
        begun = (await agent.call("reset", seed=5, level=7))["structuredContent"]
        assert begun["seed"] == 5
        stepped = (await agent.call("step", to=1))["structuredContent"]
        assert stepped["reward"] == SECRET
        assert stepped["info"] == {"score": SECRET}
        state = (await agent.call("state"))["structuredContent"]
        assert state == {"hidden": SECRET, "level": 7}
        names = [tool["name"] for tool in (await agent.ask("tools/list"))["tools"]]
        assert "state" in names
    with pytest.raises(ValueError, match="must be one of reward"):
        async with served(Open, agent_access=["rewards"]):
            pass


@GENERATIONS
async def test_an_agent_may_be_let_see_what_is_rendered(revision: str) -> None:
    for access, params, wanted in (
        (["render"], {}, "image"),
        (["render"], {"render_mode": "ansi"}, "text"),
        ([], {}, None),
    ):
        async with playing(revision, Network, params=params, agent_access=access) as (agent, _):
            tools = [tool["name"] for tool in (await agent.ask("tools/list"))["tools"]]
            assert ("render" in tools) is (wanted is not None)
            assert "state" not in tools
            await agent.call("reset")
            if wanted is None:
                arguments = {"session": agent.handle} if agent.handle else {}
                sent = {"name": "render", "arguments": arguments}
                refused = (await agent.send("tools/call", sent)).json()
                assert refused["error"]["code"] == -32602
                continue
            for taken in range(2):
                [seen] = (await agent.call("render"))["content"]
                if wanted == "text":
                    assert seen == {"type": "text", "text": f"step {taken}"}
                else:
                    data = base64.b64decode(seen["data"])
                    assert data == png(np.full((4, 6, 3), taken, np.uint8))
                if taken == 0:
                    stepped = await agent.call("step", action=[0, 1])
                    assert not stepped["isError"], stepped
    async with playing(revision, Maze, agent_access=["render"]) as (agent, _):  # which renders not
        assert "render" not in [t["name"] for t in (await agent.ask("tools/list"))["tools"]]


class Quiz(Environment[Move, Seen, dict[str, Any]]):
    isolation = "inline"
    tasks = TaskTable({"train": [{"id": f"t{n}", "goal": n} for n in range(4)]})

    def reset(self, goal: int) -> Seen:
        return Seen(goal)

    def step(self, action: Move) -> Seen:
        return Seen(action.to, done=True)


@GENERATIONS
async def test_an_observation_of_no_declared_type_tells_no_reward(revision: str) -> None:
    class Untyped(Environment[Move, Any, Any]):
        isolation = "inline"

        def reset(self) -> Any:
            return {"text": "a", "reward": SECRET, "done": False, "metadata": {"score": SECRET}}

        def step(self, action: Move) -> Any:
            return self.reset()

        def state(self) -> Any:
            return None

    async with playing(revision, Untyped) as (agent, _):
        for told in (await agent.call("reset"), await agent.call("step", to=1)):
            assert told["structuredContent"]["observation"] == {"text": "a"}
        assert not any(str(SECRET) in text for text in agent.texts)


async def test_an_action_may_have_a_field_session() -> None:
    @dataclass
    class Join:
        session: str

    class Meetings(Environment[Join, dict[str, Any], Any]):
        isolation = "inline"

        def reset(self) -> dict[str, Any]:
            return {}

        def step(self, action: Join) -> dict[str, Any]:
            return {"joined": action.session}

        def state(self) -> Any:
            return None

    async with playing(STATELESS, Meetings) as (agent, _):
        begun = await agent.call("reset")
        handle = begun["structuredContent"]["openenv_session"]
        told = await agent.call("step", openenv_session=handle, session="mine")
        assert told["structuredContent"]["observation"] == {"joined": "mine"}


async def test_an_environment_that_needs_a_task_is_given_one() -> None:
    async with playing(STATELESS, Quiz) as (agent, _):
        places = set()
        for _ in range(60):
            begun = await agent.call("reset")
            places.add(begun["structuredContent"]["observation"]["place"])
        assert places == {0, 1, 2, 3}
        assert (await agent.call("reset", task_id="t1"))["isError"]
    async with playing(STATELESS, Quiz, agent_access=["task"]) as (agent, _):
        begun = await agent.call("reset", task_id="t1")
        assert begun["structuredContent"]["observation"]["place"] == 1


@GENERATIONS
async def test_mistakes_and_failures_are_told_to_the_model(revision: str) -> None:
    async with playing(revision) as (agent, _):
        early = await agent.call("reset")
        assert not early["isError"]
        wrong = await agent.call("step", to="far")
        assert wrong["isError"]
        assert "invalid action" in wrong["content"][0]["text"]
        wall = await agent.call("step", to=13)
        assert "there is a wall" in wall["content"][0]["text"]
        assert not (await agent.call("step", to=1))["isError"]


async def test_a_step_before_a_reset_says_what_to_do() -> None:
    async with playing(WITH_SESSIONS) as (agent, _):
        result = await agent.call("step", to=1)
        assert "call reset first" in result["content"][0]["text"]


async def test_the_address_names_a_session() -> None:
    async with playing(STATELESS) as (agent, _):
        await agent.call("reset")
        handle = agent.handle
        assert handle is not None
        for revision in (STATELESS, WITH_SESSIONS):
            for path in (f"/mcp/{handle}", f"/mcp?session={handle}"):
                other = Agent(agent.http, revision, path)
                await other.begin()
                assert other.session_id is None
                names = [tool["name"] for tool in (await other.ask("tools/list"))["tools"]]
                assert names == ["reset", "step"]
                told = (await other.call("step", to=3))["structuredContent"]
                assert told["observation"]["place"] == 3
        agent.http.headers["X-OpenEnv-Session"] = handle
        agent.handle = None
        assert not (await agent.call("step", to=3))["isError"]


async def test_a_name_that_is_not_a_sessions_is_refused() -> None:
    async with playing(WITH_SESSIONS) as (agent, _):
        headers, body = agent.request("tools/list")
        del headers["mcp-session-id"]
        assert (await agent.http.post("/mcp", json=body, headers=headers)).status_code == 400
        headers["mcp-session-id"] = "nothing"
        assert (await agent.http.post("/mcp", json=body, headers=headers)).status_code == 404
        assert (
            await agent.http.post("/mcp/nothing", json=body, headers=headers)
        ).status_code == 404
    async with playing(STATELESS) as (agent, _):
        agent.handle = "nothing"
        told = await agent.call("step", to=1)
        assert "no session has this handle" in told["content"][0]["text"]
        agent.handle = None
        assert (await agent.call("step", to=1))["isError"]


async def test_delete_ends_a_session() -> None:
    async with playing(WITH_SESSIONS) as (agent, server):
        await agent.call("reset")
        assert server.engine.active == 1
        headers, body = agent.request("tools/list")
        assert (await agent.http.delete("/mcp")).status_code == 400
        assert (await agent.http.delete("/mcp", headers=headers)).status_code == 200
        await until(lambda: server.engine.active == 0)
        assert (await agent.http.post("/mcp", json=body, headers=headers)).status_code == 404
        assert (await agent.http.delete("/mcp", headers=headers)).status_code == 404
        assert len(server.mcp.sessions) == 0


async def test_close_ends_a_session_that_a_handle_names() -> None:
    async with playing(STATELESS) as (agent, server):
        await agent.call("reset")
        assert not (await agent.call("close")).get("isError")
        await until(lambda: server.engine.active == 0)
        assert (await agent.call("step", to=1))["isError"]
        assert len(server.mcp.sessions) == 0


async def test_a_reset_that_fails_leaves_no_session_behind() -> None:
    class Broken(Maze):
        def reset(self, seed: int | None = None, level: int = 1) -> Any:
            raise LookupError("no maze today")

    async with playing(STATELESS, Broken) as (agent, server):
        told = await agent.call("reset")
        assert "no maze today" in told["content"][0]["text"]
        await until(lambda: server.engine.active == 0)
        assert len(server.mcp.sessions) == 0


async def test_a_full_server_says_so() -> None:
    async with playing(STATELESS, options=EngineOptions(max_sessions=1)) as (agent, server):
        await agent.call("reset")
        other = Agent(agent.http, STATELESS)
        told = await other.call("reset")
        assert "all 1 sessions" in told["content"][0]["text"]
        assert len(server.mcp.sessions) == 1
        await agent.call("close")
        await until(lambda: server.engine.active == 0)
        assert not (await other.call("reset"))["isError"]


async def test_without_the_token_nothing_is_answered() -> None:
    async with playing(STATELESS, token="t0ken") as (agent, _):
        await agent.call("reset")
        bare = {"authorization": ""}
        headers, body = agent.request("tools/list")
        paths = ("/mcp", f"/mcp/{agent.handle}", f"/mcp?session={agent.handle}")
        for path in paths:
            for request in (
                agent.http.post(path, json=body, headers={**headers, **bare}),
                agent.http.get(path, headers={"accept": "text/event-stream", **bare}),
                agent.http.delete(path, headers={"mcp-session-id": agent.handle or "", **bare}),
            ):
                refused = await request
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"


async def test_web_pages_and_foreign_names_are_refused() -> None:
    async with served() as (http, _):
        headers, body = Agent(http, STATELESS).request("tools/list")
        for bad in ({"origin": "https://evil.example"}, {"host": "rebound.example"}):
            refused = await http.post("/mcp", json=body, headers={**headers, **bad})
            assert refused.status_code == 403


async def test_bodies_are_bounded() -> None:
    limits = Limits(max_message_size=4096, max_containers=50)
    async with playing(STATELESS, options=EngineOptions(limits=limits)) as (agent, _):
        await agent.call("reset")
        large = await agent.send("tools/call", {"name": "step", "arguments": {"to": "x" * 5000}})
        assert large.status_code == 413
        many = await agent.send("tools/call", {"name": "step", "arguments": {"to": [[]] * 60}})
        assert many.json()["error"]["code"] == -32600
        deep: Any = 1
        for _ in range(200):
            deep = [deep]
        sunk = await agent.send("tools/call", {"name": "step", "arguments": {"to": deep}})
        assert sunk.status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, -32700),
        (b"[]", 400, -32700),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": 3}', 400, -32602),
    ],
)
async def test_what_is_no_request_is_refused(body: bytes, status: int, code: int) -> None:
    async with served() as (http, _):
        headers = {"accept": "application/json, text/event-stream"}
        refused = await http.post("/mcp", content=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("headers", [{}, {"accept": "application/json, text/event-stream"}])
@pytest.mark.parametrize("broken", [b"1e999", b'{"to": 1e999}', b'"\xff"', b'{"to": "\xff"}'])
@pytest.mark.parametrize("name", [b"arguments", b"name", b"session_id"])
async def test_parameters_that_cannot_be_decoded_are_refused(
    headers: dict[str, str], broken: bytes, name: bytes
) -> None:
    params = {b"name": b'"step"', b"arguments": b'{"to": 1}', name: broken}
    body = b"{%s}" % b", ".join(b'"%s": %s' % each for each in params.items())
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": %s}' % body
    async with served() as (http, _):
        begun = await Agent(http, WITH_SESSIONS).send("initialize")
        if headers:
            headers = {**headers, "mcp-session-id": begun.headers["mcp-session-id"]}
        refused = await http.post("/mcp", content=body, headers=headers)
        assert refused.status_code < 500
        told = refused.json()
        assert "error" in told or told["result"]["isError"]


async def test_headers_that_contradict_the_body_are_refused() -> None:
    async with playing(STATELESS) as (agent, _):
        await agent.call("reset")
        for wrong in (
            {"mcp-method": "tools/list"},
            {"mcp-name": "reset"},
            {"mcp-protocol-version": "2027-01-01"},
        ):
            params = {"name": "step", "arguments": {"session": agent.handle, "to": 1}}
            headers, body = agent.request("tools/call", params)
            refused = await agent.http.post("/mcp", json=body, headers={**headers, **wrong})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32020)
        headers, body = agent.request("tools/list")
        headers["mcp-protocol-version"] = "2027-01-01"
        meta = body["params"]["_meta"]
        meta["io.modelcontextprotocol/protocolVersion"] = "2027-01-01"
        refused = await agent.http.post("/mcp", json=body, headers=headers)
        assert refused.json()["error"]["code"] == -32022
        assert STATELESS in refused.json()["error"]["data"]["supported"]
        del body["params"]["_meta"]
        bare = await agent.http.post("/mcp", json=body, headers=headers)
        assert bare.json()["error"]["code"] == -32602


async def test_unknown_methods() -> None:
    async with playing(STATELESS) as (agent, _):
        unknown = await agent.send("prompts/list")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, -32601)
    async with playing(WITH_SESSIONS) as (agent, _):
        unknown = await agent.send("prompts/list")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (200, -32601)


class Slow(Maze):
    isolation = None  # type: ignore[assignment]  # it is async
    entered: asyncio.Event
    leave: asyncio.Event
    running = 0
    most = 0
    cancelled = 0

    async def reset(self, seed: int | None = None, level: int = 1) -> Any:
        return Seen(0)

    async def step(self, action: Move) -> Any:
        cls = type(self)
        cls.running += 1
        cls.most = max(cls.most, cls.running)
        cls.entered.set()
        try:
            if action.to == 1:
                await cls.leave.wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            cls.cancelled += 1
            raise
        finally:
            cls.running -= 1
        return Seen(action.to)


@pytest.fixture
def slow() -> type[Slow]:
    class Own(Slow):
        entered = asyncio.Event()
        leave = asyncio.Event()

    return Own


@GENERATIONS
async def test_calls_of_a_session_run_one_at_a_time(slow: type[Slow], revision: str) -> None:
    async with playing(revision, slow) as (agent, _):
        await agent.call("reset")
        first = asyncio.create_task(agent.call("step", to=1))
        await slow.entered.wait()
        rest = [asyncio.create_task(agent.call("step", to=n)) for n in range(2, 8)]
        await asyncio.sleep(0)
        slow.leave.set()
        places = [
            (await task)["structuredContent"]["observation"]["place"] for task in [first, *rest]
        ]
        assert places == [1, 2, 3, 4, 5, 6, 7]
        assert slow.most == 1


async def test_too_many_calls_of_a_session_are_refused(slow: type[Slow]) -> None:
    async with playing(STATELESS, slow) as (agent, _):
        await agent.call("reset")
        first = asyncio.create_task(agent.call("step", to=1))
        await slow.entered.wait()
        rest = [asyncio.create_task(agent.call("step", to=2)) for _ in range(30)]
        refused, _ = await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
        result = refused.pop().result()
        assert "await their results" in result["content"][0]["text"]
        slow.leave.set()
        results = await asyncio.gather(*rest)
        assert sum(not each["isError"] for each in results) >= 16
        await first


async def test_a_cancelled_call_is_stopped(slow: type[Slow]) -> None:
    async with playing(WITH_SESSIONS, slow) as (agent, _):
        await agent.call("reset")
        sent = {"name": "step", "arguments": {"to": 1}}
        running = asyncio.create_task(agent.send("tools/call", sent, number="mine"))
        await slow.entered.wait()
        for number in ("other", "mine"):
            cancelled = await agent.send("notifications/cancelled", {"requestId": number})
            assert cancelled.status_code == 202
        told = (await running).json()["result"]
        assert "cancelled" in told["content"][0]["text"]
        assert slow.cancelled == 1
        assert not (await agent.call("step", to=2))["isError"]


async def test_a_call_that_is_cancelled_while_it_waits_is_never_run(slow: type[Slow]) -> None:
    async with playing(WITH_SESSIONS, slow) as (agent, server):
        await agent.call("reset")
        first = asyncio.create_task(agent.call("step", to=1))
        await slow.entered.wait()
        sent = {"name": "step", "arguments": {"to": 2}}
        waiting = asyncio.create_task(agent.send("tools/call", sent, number="mine"))
        [session] = server.mcp.sessions
        await until(lambda: "mine" in session.calls)
        await agent.send("notifications/cancelled", {"requestId": "mine"})
        slow.leave.set()
        told = (await waiting).json()["result"]
        assert told["isError"]
        assert told["content"][0]["text"] == "cancelled before it started"
        await first
        assert session.session is not None
        assert session.session.log.taken == 2  # the reset and the first step
        assert session.calls == {}


async def test_calls_that_wait_end_with_their_session(slow: type[Slow]) -> None:
    async with playing(WITH_SESSIONS, slow) as (agent, server):
        await agent.call("reset")
        first = asyncio.create_task(agent.call("step", to=1))
        await slow.entered.wait()
        [session] = server.mcp.sessions
        waiting = asyncio.create_task(
            agent.send("tools/call", {"name": "reset", "arguments": {}}, number="reset")
        )
        await until(lambda: "reset" in session.calls)
        headers = {"mcp-session-id": session.handle}
        assert (await agent.http.delete("/mcp", headers=headers)).status_code == 200
        told = (await waiting).json()["result"]
        assert (told["isError"], told["content"][0]["text"]) == (
            True,
            "the session was closed by its client",
        )
        assert (await first)["isError"]
        await until(lambda: server.engine.active == 0)


async def test_in_the_newer_revision_to_disconnect_is_to_cancel(slow: type[Slow]) -> None:
    async with playing(STATELESS, slow) as (agent, server):
        await agent.call("reset")
        running = asyncio.create_task(agent.call("step", to=1))
        await slow.entered.wait()
        running.cancel()
        await until(lambda: slow.cancelled == 1)
        assert server.engine.active == 1
        assert not (await agent.call("step", to=2))["isError"]


async def test_in_the_older_ones_a_call_runs_on_without_its_caller(slow: type[Slow]) -> None:
    async with playing(WITH_SESSIONS, slow) as (agent, _):
        await agent.call("reset")
        running = asyncio.create_task(agent.call("step", to=1))
        await slow.entered.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        after = asyncio.create_task(agent.call("step", to=2))
        slow.leave.set()
        assert not (await after)["isError"]
        assert slow.cancelled == 0


@GENERATIONS
async def test_progress_is_told_while_a_call_runs(
    slow: type[Slow], revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openenv_async.server.mcp.endpoint._PROGRESS_AFTER", 0.01)
    monkeypatch.setattr("openenv_async.server.mcp.endpoint._PROGRESS_EVERY", 0.01)
    async with playing(revision, slow) as (agent, _):
        await agent.call("reset")
        arguments = {"to": 1, **({"session": agent.handle} if agent.handle else {})}
        params = {"name": "step", "arguments": arguments, "_meta": {"progressToken": "p"}}
        headers, body = agent.request("tools/call", params)
        text = ""
        async with agent.http.stream("POST", "/mcp", json=body, headers=headers) as response:
            assert response.headers["content-type"] == "text/event-stream"
            async for part in response.aiter_text():
                text += part
                if len(events(text)) >= 2:
                    slow.leave.set()
        *notes, answer = events(text)
        assert all(note["method"] == "notifications/progress" for note in notes)
        told = [note["params"]["progress"] for note in notes]
        assert told == sorted(told)
        assert {note["params"]["progressToken"] for note in notes} == {"p"}
        assert answer["result"]["structuredContent"]["observation"]["place"] == 1
        quick = await agent.send("tools/call", {**params, "name": "reset", "arguments": {}})
        assert quick.status_code == 200


async def test_deadlines_are_the_environments_own(slow: type[Slow]) -> None:
    options = EngineOptions(timeouts=Timeouts(step=0.05))
    async with playing(STATELESS, slow, options) as (agent, _):
        await agent.call("reset")
        told = await agent.call("step", to=1)
        assert told["isError"]
        assert "longer than its deadline" in told["content"][0]["text"]


async def test_a_get_without_a_session_is_not_allowed() -> None:
    async with served() as (http, _):
        bare = await http.get("/mcp", headers={"accept": "text/event-stream"})
        assert bare.status_code == 405
        assert bare.headers["allow"] == "POST, GET, DELETE"


async def test_a_client_that_is_gone_leaves_no_session() -> None:
    options = EngineOptions(timeouts=Timeouts(resume=0.05))
    async with playing(WITH_SESSIONS, options=options) as (agent, server):
        await agent.call("reset")
        headers, _ = agent.request("ping")
        async with agent.http.stream("GET", "/mcp", headers=headers) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert (await anext(stream.aiter_raw())).startswith(b":")
            assert server.engine.active == 1
        await until(lambda: server.engine.active == 0)
        assert len(server.mcp.sessions) == 0


async def test_a_server_that_stops_ends_the_streams() -> None:
    async with served() as (http, server):
        agent = Agent(http, WITH_SESSIONS)
        await agent.begin()
        headers, _ = agent.request("ping")
        async with http.stream("GET", "/mcp", headers=headers) as stream:
            parts = stream.aiter_raw()
            await anext(parts)
            await server.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(parts)


async def test_the_pages_of_a_long_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.server.mcp.endpoint._PAGE", 2)
    async with playing(STATELESS) as (agent, _):
        first = await agent.ask("tools/list")
        second = await agent.ask("tools/list", {"cursor": first["nextCursor"]})
        names = [tool["name"] for tool in (*first["tools"], *second["tools"])]
        assert names == ["reset", "step", "close"]
        assert "nextCursor" not in second
        for cursor in ("x", "-1", "99", 3):
            refused = await agent.send("tools/list", {"cursor": cursor})
            assert refused.json()["error"]["code"] == -32602


async def test_a_mounted_application_answers_too() -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from openenv_async import create_app

    app = create_app(Maze)
    outer = Starlette(routes=[Mount("/maze", app)], lifespan=app.router.lifespan_context)
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/maze") as http:
        agent = Agent(http, STATELESS)
        await agent.begin()
        assert not (await agent.call("reset"))["isError"]
        await app.state.openenv.aclose()
