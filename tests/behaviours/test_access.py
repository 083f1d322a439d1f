"""Closed by default: who may come in, checked on every route before anything is read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from click.testing import CliRunner
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Origin, Subprotocol

from openenv_async import (
    EngineOptions,
    EnvClient,
    Environment,
    GenericEnvClient,
    HTTPEnvClient,
    SyncEnvClient,
)
from openenv_async.cli import main
from openenv_async.endpoints.tokens import find_token
from openenv_async.errors import ConnectFailed, EnvironmentRaised, Unauthorized
from openenv_async.providers.local_server import LocalServer
from openenv_async.server import create_app
from openenv_async.server.auth import PROBES, Guard
from openenv_async.server.page.routes import PAGE_FILES
from openenv_async.server.run import run_server, serve
from tests.rollouts.environments import Counting

COUNTING = "tests.rollouts.environments:Counting"
TOKEN = "sesame-0123456789"
FRIEND = "https://friend.example"
FOE = "https://foe.example"
REFUSED = (401, 403)

PAGE = {"/login", "/logout", *(f"/{name}" for name in PAGE_FILES)}
"""The form for a token and what it needs: tests/server/page has more of them."""
APP = create_app(Counting)
ROUTES = sorted(
    (method, route.path)
    for route in APP.routes
    if isinstance(route, Route) and route.path not in PAGE
    for method in route.methods or ()
)
HEADERS: dict[str, tuple[dict[str, str], int | None]] = {
    "no token": ({}, 401),
    "wrong token": ({"Authorization": "Bearer sesame-012345678X"}, 401),
    "longer token": ({"Authorization": f"Bearer {TOKEN}0"}, 401),
    "other scheme": ({"Authorization": f"Basic {TOKEN}"}, 401),
    "right token": ({"Authorization": f"Bearer {TOKEN}"}, None),
    "foreign origin": ({"Authorization": f"Bearer {TOKEN}", "Origin": FOE}, 403),
    "foreign origin, no token": ({"Origin": FOE}, 403),
    "opaque origin": ({"Authorization": f"Bearer {TOKEN}", "Origin": "null"}, 403),
    "garbled origin": ({"Authorization": f"Bearer {TOKEN}", "Origin": "http://["}, 403),
    "allowed origin": ({"Authorization": f"Bearer {TOKEN}", "Origin": FRIEND}, None),
    "allowed origin, no token": ({"Origin": FRIEND}, 401),
}


@contextlib.asynccontextmanager
async def guarded(env: Any = Counting, **settings: Any) -> AsyncIterator[tuple[str, Any]]:
    settings.setdefault("token", TOKEN)
    app = create_app(env, allowed_origins=[FRIEND], **settings)
    async with serve(app) as url:
        yield url, app.state.openenv.engine


def ws(url: str) -> str:
    return url.replace("http", "ws", 1) + "/ws"


# -- every route --------------------------------------------------------------------------


def test_the_routes_are_all_known() -> None:
    """A new kind of route needs a test of its own here."""
    assert {type(route) for route in APP.routes} == {Route, WebSocketRoute}
    assert ("GET", "/metrics") in ROUTES
    assert ("GET", "/metrics.json") in ROUTES
    assert ("POST", "/step") in ROUTES
    assert [route.path for route in APP.routes if isinstance(route, WebSocketRoute)] == [
        "/ws",
        "/mcp",
        "/{path:path}",  # it lets nobody in: tests/server/test_not_found.py
    ]


async def test_every_http_route() -> None:
    async with guarded() as (url, engine), aiohttp.ClientSession() as http:
        for case, (headers, expected) in HEADERS.items():
            opened = engine.stats.opened
            for method, path in ROUTES:
                async with http.request(method, url + path, headers=headers) as reply:
                    where = f"{method} {path}: {case}"
                    if path in PROBES and expected == 401:
                        assert reply.status not in REFUSED, where
                        told = json.loads(await reply.text() or "{}")  # HEAD has no body
                        assert told.keys() <= {"status", "ready", "reason"}
                        continue
                    if expected is None:
                        assert reply.status not in REFUSED, where
                        continue
                    assert reply.status == expected, where
                    assert "Set-Cookie" not in reply.headers
                    if expected == 401:
                        assert reply.headers["WWW-Authenticate"] == "Bearer"
                    assert TOKEN not in await reply.text()
            if expected is not None:
                assert engine.stats.opened == opened


@pytest.mark.parametrize("dialect", ["openenv.v1.msgpack", "openenv.v1.json", None])
async def test_both_websocket_dialects(
    dialect: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    async with guarded() as (url, engine):
        for case, (headers, expected) in HEADERS.items():
            headers = dict(headers)
            origin = headers.pop("Origin", None)
            connecting = connect(
                ws(url),
                subprotocols=[Subprotocol(dialect)] if dialect else None,
                additional_headers=headers,
                origin=Origin(origin) if origin else None,
            )
            before = engine.stats.connections_opened
            if expected is None:
                async with connecting as socket:
                    assert socket.subprotocol == dialect, case
                assert engine.stats.connections_opened == before + 1
                continue
            with pytest.raises(InvalidStatus) as caught:
                await connecting
            assert caught.value.response.status_code == expected, case
            assert TOKEN.encode() not in caught.value.response.body
            assert engine.stats.connections_opened == before
    assert capsys.readouterr().err == ""  # strangers fill no log


async def test_a_browser_shows_its_token_as_a_subprotocol() -> None:
    async with guarded() as (url, _):
        for shown, good in ((TOKEN, True), (TOKEN[:-1], False), ("", False), (TOKEN + "0", False)):
            offered = [Subprotocol("openenv.v1.json"), Subprotocol(f"openenv.bearer.{shown}")]
            connecting = connect(ws(url), subprotocols=offered, origin=Origin(FRIEND))
            if good:
                async with connecting as socket:
                    assert socket.subprotocol == "openenv.v1.json"  # the token is not repeated
            else:
                with pytest.raises(InvalidStatus):
                    await connecting


async def test_a_token_in_the_url_is_none() -> None:
    async with guarded() as (url, _), aiohttp.ClientSession() as http:
        for query in (f"token={TOKEN}", f"access_token={TOKEN}", f"Authorization=Bearer%20{TOKEN}"):
            async with http.get(f"{url}/stats?{query}") as reply:
                assert reply.status == 401


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}"])
async def test_a_page_of_this_server_may_connect(host: str) -> None:
    async with guarded(token=None) as (url, _), aiohttp.ClientSession() as http:
        own = host.format(port=url.rpartition(":")[2])
        headers = {"Host": own, "Origin": f"http://{own}"}
        async with http.post(url + "/reset", headers=headers) as reply:
            assert reply.status == 200
        async with http.post(url + "/reset", headers={**headers, "Origin": FOE}) as reply:
            assert reply.status == 403


async def test_a_name_that_was_made_to_point_here_is_no_own_page() -> None:
    """DNS rebinding: to the browser the page and this server are one origin."""
    headers = {"Host": "foe.example:8000", "Origin": "http://foe.example:8000"}
    async with guarded(token=None) as (url, engine), aiohttp.ClientSession() as http:
        async with http.post(url + "/reset", headers=headers) as reply:
            assert reply.status == 403
        assert engine.stats.opened == 0
    async with guarded() as (url, _), aiohttp.ClientSession() as http:
        headers["Authorization"] = f"Bearer {TOKEN}"
        async with http.post(url + "/reset", headers=headers) as reply:
            assert reply.status == 200


async def test_a_body_is_not_read_before_the_check() -> None:
    """The answer comes while the body, however large, has not been sent."""
    async with guarded() as (url, engine):
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                b"POST /reset HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n" + b"{" * 1000
            )
            async with asyncio.timeout(5):
                assert b" 401 " in await reader.readline()
            assert engine.stats.bytes_in == 0
        finally:
            writer.close()


# -- tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token", ["", " ", "two words", "a,b", "line\nbreak", "schlüssel", "x" * 5000]
)
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    attempts: list[Callable[[], Any]] = [
        lambda: Guard(token),
        lambda: GenericEnvClient("http://127.0.0.1:1", token=token),
        lambda: HTTPEnvClient("http://127.0.0.1:1", token=token),
        lambda: find_token(None, {"OPENENV_TOKEN": f"x x{token}"}),
    ]
    for make in attempts:
        with pytest.raises(ValueError, match="token") as caught:
            make()
        if token.strip():
            assert token not in str(caught.value)


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert find_token(file, {"OPENENV_TOKEN": "other"}) == TOKEN
    assert find_token(None, {"OPENENV_TOKEN": "other"}) == "other"
    assert find_token(None, {}) is None
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="holds no token") as caught:
        find_token(file, {})
    assert caught.value.__cause__ is None


async def test_clients_show_their_token() -> None:
    async with guarded() as (url, _):
        for kind in (GenericEnvClient, HTTPEnvClient):
            with pytest.raises(Unauthorized) as caught:
                await kind(url, token="wrong").open()
            assert "wrong" not in str(caught.value)
            client: Any = kind(url, token=TOKEN)
            assert TOKEN not in repr(client)
            assert (await client.reset(seed=1)).observation is not None
            await client.close()


async def test_the_environment_variable_is_not_taken_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENENV_TOKEN", TOKEN)
    async with guarded() as (url, _):
        with pytest.raises(Unauthorized):
            await GenericEnvClient(url).open()


async def test_tokens_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with guarded() as (url, engine):
        async with GenericEnvClient(url, token=TOKEN) as client:
            await client.reset()
        http: HTTPEnvClient[Any, Any, Any] = HTTPEnvClient(url, token=TOKEN)
        await http.reset()
        await http.close()
        for kind in (GenericEnvClient, HTTPEnvClient):
            with pytest.raises(Unauthorized):
                await kind(url, token=TOKEN + "x").open()
        assert TOKEN not in repr(engine.options)
    assert TOKEN not in caplog.text


class Telltale(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Says what it finds in its environment variables."""

    isolation = "process"

    def reset(self) -> dict[str, Any]:
        return {"token": os.environ.get("OPENENV_TOKEN"), "home": "PATH" in os.environ}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {}


async def test_worker_processes_do_not_inherit_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENENV_TOKEN", TOKEN)
    async with serve(Telltale) as url, GenericEnvClient(url) as client:
        assert (await client.reset()).observation == {"token": None, "home": True}


# -- where the server listens -------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_an_open_bind_needs_a_token(host: str) -> None:
    with pytest.raises(ValueError, match=r"--token-file .*--insecure") as caught:
        async with serve(Counting, host=host):
            pass
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="OPENENV_TOKEN"):
        async with serve(create_app(Counting), host=host):
            pass


@pytest.mark.parametrize("settings", [{"token": TOKEN}, {"insecure": True}])
async def test_an_open_bind_that_is_meant(settings: dict[str, Any]) -> None:
    async with serve(Counting, host="0.0.0.0", **settings) as url:
        here = url.replace("0.0.0.0", "127.0.0.1")
        async with GenericEnvClient(here, token=settings.get("token")) as client:
            await client.reset()


def test_a_process_with_an_open_bind_is_refused() -> None:
    with pytest.raises(ValueError, match="--insecure"):
        run_server(Counting, host="0.0.0.0", port=0)


async def test_an_application_takes_no_token_here() -> None:
    """It would be lost in silence."""
    with pytest.raises(TypeError, match="create_app"):
        async with serve(create_app(Counting), token=TOKEN):
            pass


# -- the command line ---------------------------------------------------------------------


def one_line(*arguments: str, **environ: str) -> str:
    result = CliRunner().invoke(main, arguments, env=environ)
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    return line


def test_the_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    assert "--insecure" in one_line("serve", COUNTING, "--host", "0.0.0.0")
    empty = tmp_path / "empty"
    empty.touch()
    assert "holds no token" in one_line("serve", COUNTING, "--token-file", str(empty))
    assert "OPENENV_TOKEN" in one_line("serve", COUNTING, OPENENV_TOKEN="two words")
    assert "not exist" in one_line("serve", COUNTING, "--token-file", str(tmp_path / "none"))
    assert "certificate" in one_line(
        *("serve", COUNTING, "--port", "0", "--ssl-certfile", str(empty))
    )
    assert "certificate" in one_line(
        *("serve", COUNTING, "--port", "0", "--ssl-keyfile", str(empty))
    )


@pytest.mark.parametrize("command", ["serve", "rollout", "bench", "conformance"])
def test_no_command_takes_a_token_that_ps_would_show(command: str) -> None:
    result = CliRunner().invoke(main, [command, "x", "--token", TOKEN])
    assert result.exit_code == 2
    assert "--token-file" in CliRunner().invoke(main, [command, "--help"]).output


async def test_a_served_process_and_those_who_talk_to_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    more = ("--token-file", str(file), "--allow-origin", FRIEND, "--log-level", "debug")
    async with LocalServer(COUNTING, arguments=more) as server:
        with pytest.raises(Unauthorized):
            await GenericEnvClient(server.url).open()
        async with aiohttp.ClientSession() as http:
            headers = {"Authorization": f"Bearer {TOKEN}", "Origin": FRIEND}
            async with http.get(server.url + "/metrics", headers=headers) as reply:
                assert reply.status == 200

        def play(*arguments: str, **environ: str) -> Any:
            return CliRunner().invoke(
                main,
                ["rollout", server.url, "--episodes=2", "--max-steps=2", "--json", *arguments],
                env=environ,
            )

        assert (await asyncio.to_thread(play)).exit_code == 1
        for result in (
            await asyncio.to_thread(play, "--token-file", str(file)),
            await asyncio.to_thread(play, OPENENV_TOKEN=TOKEN),
        ):
            assert result.exit_code == 0, result.output
            assert json.loads(result.stdout)["episodes"] == 2
        assert TOKEN not in server.log_tail


# -- TLS ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    paths = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    issued.cert_chain_pems[0].write_to_path(paths["cert"])
    issued.private_key_pem.write_to_path(paths["key"])
    return paths


async def test_tls_over_websocket_and_http(certificate: dict[str, str]) -> None:
    tls: dict[str, Any] = {
        "ssl_certfile": certificate["cert"],
        "ssl_keyfile": certificate["key"],
    }
    async with serve(Counting, token=TOKEN, **tls) as url:
        assert url.startswith("https://")
        for trust in (certificate["ca"], ssl.create_default_context(cafile=certificate["ca"])):
            for kind in (GenericEnvClient, HTTPEnvClient):
                client: Any = kind(url, token=TOKEN, ssl=trust)
                first = await client.reset(seed=3)
                assert first.observation is not None
                await client.step({"amount": 1})
                await client.close()
            blocking: SyncEnvClient[Any, Any, Any] = SyncEnvClient(url, token=TOKEN, ssl=trust)
            await asyncio.to_thread(blocking.reset)
            await asyncio.to_thread(blocking.close)
        for kind in (GenericEnvClient, HTTPEnvClient):
            with pytest.raises(ConnectFailed, match="certificate"):
                await kind(url, token=TOKEN).open()
        with pytest.raises(ConnectFailed):
            await GenericEnvClient(url.replace("https", "http"), token=TOKEN).open()


async def test_clients_that_trust_differently_share_nothing(certificate: dict[str, str]) -> None:
    one: EnvClient[Any, Any, Any] = GenericEnvClient("https://127.0.0.1:1", ssl=certificate["ca"])
    other: EnvClient[Any, Any, Any] = GenericEnvClient("https://127.0.0.1:1")
    assert one._key() != other._key()


async def test_tls_of_a_served_process(certificate: dict[str, str]) -> None:
    arguments = ("--ssl-certfile", certificate["cert"], "--ssl-keyfile", certificate["key"])
    async with LocalServer(COUNTING, arguments=arguments) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with GenericEnvClient(server.url, ssl=certificate["ca"]) as client:
            await client.reset()
        for trusted in (False, True):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "openenv_async.cli", "rollout", server.url),
                *("--episodes", "2", "--max-steps", "2", "--json"),
                env={**os.environ, **({"SSL_CERT_FILE": certificate["ca"]} if trusted else {})},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            await process.communicate()
            assert (process.returncode == 0) is trusted


# -- what errors tell ---------------------------------------------------------------------


class Clumsy(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its error names a path: that is its own text."""

    isolation = "inline"

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        raise FileNotFoundError("/data/level-7.map")


@pytest.mark.parametrize("kind", [GenericEnvClient, HTTPEnvClient])
@pytest.mark.parametrize("debug", [False, True])
async def test_tracebacks_are_for_debugging(kind: Any, debug: bool) -> None:
    async with serve(Clumsy, options=EngineOptions(debug=debug)) as url:
        client = kind(url)
        await client.reset()
        with pytest.raises(EnvironmentRaised, match=r"/data/level-7\.map") as caught:
            await client.step({})
        told = str(caught.value.to_wire())
        assert ("traceback" in caught.value.detail) is debug
        assert ("Traceback" in told) is debug
        assert (__file__ in told) is debug
        await client.close()


async def test_an_error_inside_the_server_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError(f"secret in {__file__}")

    async with guarded(token=None) as (url, engine), aiohttp.ClientSession() as http:
        monkeypatch.setattr(engine, "open", broken)
        async with http.post(url + "/reset") as reply:
            assert reply.status == 500
            text = await reply.text()
        assert "secret" not in text
        assert "Traceback" not in text
        async with connect(ws(url)) as socket:  # upstream's dialect opens at once
            await socket.wait_closed()
        assert "secret" not in (socket.close_reason or "")
        native = [Subprotocol("openenv.v1.json")]
        async with connect(ws(url), subprotocols=native) as socket:
            frames = [[0, 1], [1, 1, "0" * 32, "1" * 32]]  # Hello, Open
            await socket.send(json.dumps(frames))
            said = ""
            with contextlib.suppress(ConnectionClosedError):
                while True:
                    said += str(await socket.recv())
        assert "secret" not in said + (socket.close_reason or "")
