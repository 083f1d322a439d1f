"""Requests of foreign hosts, pages and tokens are refused before anything is read."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from openenv_async import create_app, serve
from openenv_async.errors import AgentRefused, OriginRefused, Unauthorized
from openenv_async.server.auth import Grant, Guard
from tests.helpers import Counter
from tests.server.clients import asking

PATHS = ("/", "/health", "/schema", "/metadata", "/stats", "/metrics", "/openapi.json", "/nothing")
LOCAL = ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "10.0.0.7", "env-1:8000", "LOCALHOST")
FOREIGN = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.com")


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_token_a_name_of_elsewhere_is_refused(path: str) -> None:
    """A page whose name was made to point here could read every answer."""
    async with asking(create_app(Counter)) as http:
        for host in FOREIGN:
            reply = await http.get(path, headers={"Host": host})
            assert reply.status_code == 403, host
            message = reply.json()["error"]["message"]
            assert "allow-host" in message
            assert "token" in message
        for host in (*LOCAL, "host.docker.internal", "printer.local", "x.localhost"):
            reply = await http.get(path, headers={"Host": host})
            assert reply.status_code in (200, 404), host


async def test_every_route_that_changes_anything_checks_the_host() -> None:
    app = create_app(Counter)
    async with asking(app, headers={"Host": "evil.example"}) as http:
        for path in ("/open", "/reset", "/step", "/close"):
            assert (await http.post(path, json={})).status_code == 403
    assert not app.state.openenv.engine.sessions


async def test_hosts_that_are_allowed() -> None:
    evil = {"Host": "env.example:8443"}
    for settings in (
        {"allowed_hosts": ["env.example"]},
        {"allowed_hosts": ["*"]},
        {"allowed_origins": ["https://env.example"]},
        {"token": "sesame"},
    ):
        headers = {**evil, "Authorization": "Bearer sesame"}
        async with asking(create_app(Counter, **settings)) as http:
            assert (await http.get("/health", headers=headers)).status_code == 200


async def test_the_name_of_a_space_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_HOST", "me-env.hf.space")
    async with asking(create_app(Counter)) as http:
        assert (await http.get("/health", headers={"Host": "me-env.hf.space"})).status_code == 200
        assert (await http.get("/health", headers={"Host": "evil.hf.space"})).status_code == 403


async def test_a_websocket_of_a_foreign_host_is_refused() -> None:
    async with serve(Counter) as url:
        address = url.replace("http", "ws") + "/ws"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address.replace("127.0.0.1", "evil.example"), host="127.0.0.1"):
                pass
        assert caught.value.response.status_code == 403


# -- the guard by itself --------------------------------------------------------------------------


def scope(*subprotocols: str, **headers: str) -> dict[str, Any]:
    """A request's scope, with these headers."""
    raw = [(name.encode(), text.encode()) for name, text in headers.items()]
    return {"headers": raw, "subprotocols": list(subprotocols)}


def refusal(guard: Guard, asked: dict[str, Any]) -> type[Exception] | None:
    """The class of the error that refuses a request; ``None``: it was let through."""
    before = guard.admitted
    try:
        guard.check(asked)
    except (OriginRefused, Unauthorized, AgentRefused) as exc:
        assert guard.admitted == before
        return type(exc)
    assert guard.admitted == before + 1
    return None


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (scope(authorization="Bearer sesame"), None),
        (scope(authorization="bearer  sesame "), None),
        (scope(authorization="Bearer sesam"), Unauthorized),
        (scope(authorization="Bearer sesame2"), Unauthorized),
        (scope(authorization="Basic sesame"), Unauthorized),
        (scope(authorization="sesame"), Unauthorized),
        (scope(), Unauthorized),
        (scope("openenv.bearer.sesame"), None),
        (scope("openenv.v1.json", "openenv.bearer.sesame"), None),
        (scope("openenv.bearer.wrong", authorization="Bearer sesame"), None),
        (scope("openenv.bearer.wrong"), Unauthorized),
        (scope("openenv.bearer."), Unauthorized),
        (scope("sesame"), Unauthorized),
        (scope(authorization="Bearer sesame", host="evil.example"), None),
        (scope(host="localhost"), Unauthorized),
    ],
)
def test_a_token_is_shown_in_a_header_or_as_a_subprotocol(
    asked: dict[str, Any], refused: type[Exception] | None
) -> None:
    guard = Guard("sesame")
    assert not guard.open
    assert refusal(guard, asked) is refused


@pytest.mark.parametrize(
    ("settings", "asked", "refused"),
    [
        ({}, scope(host="127.0.0.1:80", origin="http://127.0.0.1:80"), None),
        ({}, scope(host="127.0.0.1:80", origin="http://127.0.0.1:81"), OriginRefused),
        ({}, scope(host="LOCALHOST:80", origin="http://localhost:80"), None),
        ({}, scope(host="x.localhost", origin="http://x.localhost"), None),
        ({}, scope(host="box.local", origin="http://box.local"), OriginRefused),
        ({}, scope(host="127.0.0.1", origin="null"), OriginRefused),
        ({}, scope(origin="http://"), OriginRefused),
        ({"allowed_origins": ["https://ui.example/"]}, scope(origin="https://UI.example"), None),
        (
            {"allowed_origins": ["https://ui.example"]},
            scope(origin="http://ui.example"),
            OriginRefused,
        ),
        ({"allowed_origins": ["*"]}, scope(host="any.example", origin="http://evil.example"), None),
    ],
)
def test_pages_of_this_server_and_of_allowed_origins_may_ask(
    settings: dict[str, Any], asked: dict[str, Any], refused: type[Exception] | None
) -> None:
    assert refusal(Guard(**settings), asked) is refused


def test_a_name_of_this_server_is_an_own_page_with_a_token_only() -> None:
    page = scope(host="env.example", origin="http://env.example", authorization="Bearer sesame")
    assert refusal(Guard("sesame"), page) is None
    assert refusal(Guard(allowed_hosts=["env.example"]), page) is OriginRefused


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("10.1.2.3:99", None),
        ("[fe80::1%25eth0]:80", None),
        ("::1", None),
        ("box", None),
        ("a.internal", None),
        ("internal.example", OriginRefused),
        ("a.example.", OriginRefused),
        ("ok.example.", None),
        ("[broken.example", OriginRefused),
    ],
)
def test_hosts_without_a_token(host: str, refused: type[Exception] | None) -> None:
    assert refusal(Guard(allowed_hosts=[" OK.example. "]), scope(host=host)) is refused


def test_a_request_without_a_host_comes_from_no_browser() -> None:
    guard = Guard()
    assert guard.open
    assert refusal(guard, scope()) is None


def test_one_origin_as_text_is_not_taken_for_its_characters() -> None:
    with pytest.raises(TypeError, match=r"write \['https://ui.example'\]"):
        Guard(allowed_origins="https://ui.example")


@pytest.mark.parametrize("token", ["", "two words", "ü"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        Guard(token)


@pytest.mark.parametrize(
    ("asked", "is_agent"),
    [
        (scope(authorization="Bearer player"), True),
        (scope("openenv.bearer.player"), True),
        (scope(authorization="Bearer sesame"), False),
        (scope("openenv.bearer.player", authorization="Bearer sesame"), False),
        (scope(authorization="Bearer playe"), None),
        (scope(authorization="Basic player"), None),
        (scope(), None),
        (scope(authorization="Bearer player", origin="http://evil.example"), None),
    ],
)
def test_agents_have_a_token_of_their_own(asked: dict[str, Any], is_agent: bool | None) -> None:
    guard = Guard("sesame", agent_token="player")
    if is_agent is None:
        with pytest.raises((Unauthorized, OriginRefused)):
            guard.admit(asked)
        assert refusal(guard, asked) in (Unauthorized, OriginRefused)
        return
    assert guard.admit(asked) is (Grant.AGENTS if is_agent else Grant.ALL)
    assert guard.admitted == (not is_agent)  # agents do not stand for the server's owner
    assert refusal(guard, asked) is (AgentRefused if is_agent else None)


@pytest.mark.parametrize(
    ("token", "agent_token", "message"),
    [
        (None, "player", "give it a token as well"),
        ("sesame", "sesame", "must be another one"),
        ("sesame", "two words", "visible ASCII"),
        ("sesame", "", "visible ASCII"),
    ],
)
def test_an_agents_token_that_keeps_nothing_from_agents(
    token: str | None, agent_token: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Guard(token, agent_token=agent_token)
    assert "sesame" not in str(caught.value)


async def test_probes_show_no_token_and_are_told_nothing_more() -> None:
    app = create_app(Counter, token="sesame", agent_token="agents")
    guard = app.state.openenv.guard
    async with asking(app) as http:
        for path, told in (
            ("/health", {"status": "healthy"}),
            ("/ready", {"ready": True, "reason": None}),
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                reply = await http.get(path, headers=headers)
                assert (reply.status_code, reply.json()) == (200, told)
            assert guard.admitted == 0  # it renews no owner's lease
            foreign = await http.get(path, headers={"Origin": "https://evil.example"})
            assert foreign.status_code == 403
        await http.get("/health", headers={"Authorization": "Bearer sesame"})
        assert guard.admitted == 1
    async with asking(create_app(Counter)) as http:
        for path in ("/health", "/ready"):
            foreign = await http.get(path, headers={"Host": "evil.example"})
            assert foreign.status_code == 403
