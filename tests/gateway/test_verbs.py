"""The gateway's verbs over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from openenv_async.gateway.calls import Call, CallRecord
from openenv_async.gateway.gateway import Gateway
from tests.gateway.scripted import ROUTES, Client, Reply, ScriptedEngine

TOKEN = "admin-token"


class CountingEngine(ScriptedEngine):
    """A scripted engine with a model, versions and a count of tokens."""

    model = "qwen3"
    version: str | int | None = None

    def publish(self, version: str | int) -> None:
        self.version = version

    async def count_tokens(self, call: Call) -> int:
        return len(call.messages)


@asynccontextmanager
async def admin(token: str | None = TOKEN) -> AsyncIterator[tuple[Gateway, Client]]:
    gateway = Gateway(CountingEngine(), routes=ROUTES, admin_token=token)
    async with gateway, Client(gateway.url, TOKEN) as client:
        yield gateway, client


async def get(client: Client, path: str, method: str = "GET", **headers: str) -> Reply:
    await client.send(path, b"", method, **headers)
    return await client.reply()


async def test_a_session_by_http() -> None:
    async with admin() as (gateway, client):
        opened = (await client.ask({"budget": {"calls": 5}}, "/sessions")).json
        assert opened["openai_base_url"] == f"{gateway.url}/v1"
        assert opened["anthropic_base_url"] == gateway.url
        async with Client(gateway.url, opened["key"]) as agent:
            assert (await agent.ask({"say": "hi"})).status == 200
        place = f"/sessions/{opened['id']}"
        summary = (await get(client, place)).json
        assert summary["budget"]["calls"] == 5
        assert summary["spent"]["calls"] == 1
        assert opened["key"] not in str(summary)
        assert [each["id"] for each in (await get(client, "/sessions")).json["sessions"]] == [
            opened["id"]
        ]
        calls = (await get(client, f"{place}/calls")).body.splitlines()
        [record] = [msgspec.json.decode(line, type=CallRecord) for line in calls]
        assert record.messages == [{"role": "user", "content": "hi"}]
        rows = (await get(client, f"{place}/rows?reward=0.5&group=g1&member=2")).body
        row = msgspec.json.decode(rows)
        assert (row["reward"], row["group"], row["member"]) == (0.5, "g1", 2)
        assert (await get(client, place, "DELETE")).json["open"] is False
        assert (await get(client, place)).status == 404
        assert (await get(client, "/stats")).json["sessions"] == 0


async def test_a_session_that_is_closed_by_http_can_be_read() -> None:
    async with admin() as (gateway, client):
        opened = (await client.ask({}, "/sessions")).json
        place = f"/sessions/{opened['id']}"
        async with Client(gateway.url, opened["key"]) as agent:
            assert (await agent.ask({"say": "hi"})).status == 200
            for _ in range(2):
                closed = await get(client, f"{place}/close", "POST")
                assert (closed.status, closed.json["open"]) == (200, False)
            assert (await agent.ask({"say": "hi"})).status == 401
        assert len((await get(client, f"{place}/calls")).body.splitlines()) == 1
        other = await get(client, f"{place}/open", "POST")
        assert other.status == 404
        assert "/close" in other.json["error"]["message"]
        assert (await get(client, place, "DELETE")).status == 200


async def test_versions_by_http() -> None:
    async with admin() as (gateway, client):
        assert (await client.ask({"version": 7}, "/versions")).json == {"version": 7}
        assert isinstance(gateway.engine, CountingEngine)
        assert gateway.engine.version == 7


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sessions"),
        ("GET", "/sessions"),
        ("GET", "/sessions/x/calls"),
        ("GET", "/sessions/x/rows"),
        ("DELETE", "/sessions/x"),
        ("POST", "/sessions/x/close"),
        ("POST", "/versions"),
        ("GET", "/stats"),
        ("GET", "/metrics"),
    ],
)
async def test_no_other_key_opens_a_verb(method: str, path: str) -> None:
    async with admin() as (gateway, _):
        session = await gateway.open()
        for key in ("", session.key, TOKEN + "x"):
            async with Client(gateway.url, key) as client:
                assert (await get(client, path, method)).status == 401
    async with admin(token=None) as (_, client):
        refused = await get(client, path, method)
        assert refused.status == 401
        assert "admin_token" in refused.json["error"]["message"]


async def test_the_admin_token_opens_no_session() -> None:
    async with admin() as (_, client):
        assert (await client.ask({"say": "hi"})).status == 401
        assert (await get(client, "/v1/models")).status == 401


async def test_anybody_may_ask_whether_it_is_alive() -> None:
    async with admin() as (gateway, _), Client(gateway.url, "") as client:
        assert (await get(client, "/healthz")).json == {"status": "ok"}


async def test_a_request_that_is_cut_opens_no_session() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with admin() as (gateway, _):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/sessions",
            "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
        }
        await gateway.app(scope, receive, send)
        assert gateway.sessions() == []
        assert sent[0]["status"] == 499


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/sessions", b'{"budgets": {}}', "budgets"),
        ("/sessions", b'{"budget": {"calls": -1}}', "calls must not be negative"),
        ("/sessions", b'{"budget": {"call": 5}}', "`call`"),
        (
            "/sessions",
            b'{"prices": {"prompt": 1, "completion": 2, "cashed": 0}}',
            "`cashed`",
        ),
        ("/sessions", b'{"prices": {"prompt": -1, "completion": 2}}', "a price of prompt"),
        ("/sessions", b"{", "what to do"),
        ("/sessions", b'{"budget": {"cost": 1}}', "prices"),
        ("/versions", b"{}", "version"),
    ],
)
async def test_a_wrong_body_is_refused(path: str, body: bytes, words: str) -> None:
    async with admin() as (gateway, client):
        await client.send(path, body)
        refused = await client.reply()
        assert (refused.status, refused.json["error"]["code"]) == (400, "call_refused")
        assert words in refused.json["error"]["message"]
        assert gateway.sessions() == []


@pytest.mark.parametrize("path", ["/sessions/x/y/z", "/sessions/{id}/y", "/versions/1", "/nothing"])
async def test_unknown_verbs_are_told(path: str) -> None:
    async with admin() as (gateway, client):
        session = await gateway.open()
        assert (await get(client, path.format(id=session.id))).status == 404
        assert (await get(client, f"/sessions/{session.id}/rows?reward=much")).status == 400
        for asked in ("reward=nan", "reward=1e999", "member=1.5", "member=inf"):
            assert (await get(client, f"/sessions/{session.id}/rows?{asked}")).status == 400
        refused = await get(client, f"/sessions/{session.id}/rows?rewrd=1")
        assert refused.status == 400
        assert "'rewrd'" in refused.json["error"]["message"]


async def test_models_are_listed_for_agents() -> None:
    async with admin() as (gateway, _):
        session = await gateway.open()
        async with Client(gateway.url, session.key) as agent:
            listed = (await get(agent, "/v1/models")).json
            assert [model["id"] for model in listed["data"]] == ["qwen3"]
            one: Any = (await get(agent, "/v1/models/gpt-9")).json
            assert one["id"] == "gpt-9"
            page = (await get(agent, "/v1/models", anthropic_version="2023-06-01")).json
            assert page["first_id"] == "qwen3"


async def test_tokens_are_counted_in_the_dialects_that_ask_for_it() -> None:
    async with admin() as (gateway, _):
        session = await gateway.open()
        hello = {"role": "user", "content": "hello"}
        async with Client(gateway.url, session.key) as agent:
            asked: dict[str, Any] = {"model": "m", "messages": [hello]}
            counted = (await agent.ask(asked, "/v1/messages/count_tokens")).json
            assert counted == {"input_tokens": 1}
            asked = {"model": "m", "instructions": "be brief", "input": [hello]}
            counted = (await agent.ask(asked, "/v1/responses/input_tokens")).json
            assert counted == {"object": "response.input_tokens", "input_tokens": 2}
        assert session.records == []
