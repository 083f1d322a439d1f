"""Typical mistakes: each message names the thing and the cure, in words of the caller's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from openenv_async import (
    AutoEnv,
    EngineOptions,
    EnvClient,
    Environment,
    EnvPool,
    GenericEnvClient,
    HTTPEnvClient,
    SyncEnvClient,
    connect,
    create_app,
    serve,
)
from openenv_async.checks.validation import validate
from openenv_async.cli import main
from openenv_async.engine import Engine
from openenv_async.errors import (
    ConnectFailed,
    EpisodeNotStarted,
    InvalidOption,
    OpenEnvError,
    SessionBusy,
    SessionClosed,
    TargetNotFound,
    Unauthorized,
    WrongTarget,
)
from openenv_async.providers.local_server import LocalServer
from openenv_async.providers.static import StaticProvider
from openenv_async.rollouts import fetch_schema

INNER = re.compile(
    r"SessionHolder|HTTPSession|VectorSessions|ssl:default|\[Errno|Traceback|__init__|_ssl\.c|aiohttp"
    r"|websockets\.|object at 0x|NoneType|positional argument|got an unexpected keyword"
)
"""Words of no use to a caller: classes that they never named, words of the libraries below."""


class Good(Environment[Any, Any, Any]):
    isolation = "inline"

    def __init__(self, size: int = 3, *, colour: str = "red") -> None:
        self.size = size

    def reset(self, seed: int = 0) -> dict[str, Any]:
        return {"n": 0}

    async def step(self, action: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"n": 1}


class Needs(Good):
    def __init__(self, path: str) -> None:
        self.path = path


class Abstract(Environment[Any, Any, Any]):
    def reset(self) -> dict[str, Any]:
        return {}


class NoEnvironment:
    pass


def factory() -> int:
    return 3


# -- addresses and servers ----------------------------------------------------------------------

CLIENTS = [EnvClient, HTTPEnvClient]


async def _reset(client: Any, **options: Any) -> Any:
    try:
        return await client.reset(**options)
    finally:
        await client.close()


def _told(caught: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    text = str(caught.value)
    for part in parts:
        assert part in text, text
    assert not INNER.search(text), text
    assert "\n" not in text


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server of something else, which answers everything so and closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _http(status: str, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Length: 6", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", "<html>"]).encode()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("", "it is empty, write http://HOST:PORT"),
        ("localhost:8100", "it has no scheme, write http://localhost:8100"),
        ("127.0.0.1:8100", "write http://127.0.0.1:8100"),
        ("localhost", "write http://localhost:8000"),
        ("echo", "AutoEnv.from_env('echo') finds environments by name"),
        ("openenv/echo_env", "AutoEnv.from_env('openenv/echo_env')"),
        ("//localhost:1", "write http://localhost:1"),
        ("http://", "write http://HOST:PORT"),
        ("htp://localhost:8100", "write http://localhost:8100"),
        (" http://localhost:8100\n", "white space"),
        ("http://local host:8100", "write http://HOST:PORT"),
        ("http://localhost:port", "Port could not be cast"),
        ("http://localhost:99999", "Port out of range"),
        ("envs:Good", "an environment, module:Class, is for serve"),
    ],
)
def test_what_is_no_address(client: Any, url: str, cure: str) -> None:
    with pytest.raises(ValueError, match="is not a valid server address") as caught:
        client(url)
    _told(caught, cure)


@pytest.mark.parametrize("client", [*CLIENTS, GenericEnvClient, SyncEnvClient])
def test_what_is_no_text_for_an_address(client: Any) -> None:
    for wrong in (None, 8100, b"http://localhost:8100", pathlib.Path("envs")):
        with pytest.raises(TypeError) as caught:
            client(wrong)
        _told(caught, "base_url must be the address of a server as text")
    for environment in (Good, Good()):
        with pytest.raises(TypeError) as caught:
            client(environment)
        _told(caught, "the environment Good", "connect(Good)")
    with pytest.raises(TypeError) as caught:
        client(EnvClient("http://localhost:1"))
    _told(caught, "a client of http://localhost:1", "env.sync()")


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_token_that_is_missing_or_wrong(client: Any) -> None:
    async with serve(Good, token="secret") as url:
        caught: pytest.ExceptionInfo[OpenEnvError]
        with pytest.raises(Unauthorized) as caught:
            await _reset(client(url))
        _told(caught, url, "it needs a token, and none was given", "OPENENV_TOKEN")
        with pytest.raises(Unauthorized) as caught:
            await _reset(client(url, token="wrong"))
        _told(caught, url, "check the token")
        with pytest.raises(Unauthorized) as caught:
            await fetch_schema(url)
        _told(caught, "it needs a token")
        with pytest.raises(OpenEnvError) as caught:
            await _reset(client(url + "/elsewhere", token="secret"))
        _told(caught, "/elsewhere", "path")


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_wrong_path_is_no_matter_of_the_token(client: Any) -> None:
    async with serve(Good) as url:
        for path in ("/site01", "/reset", "/a/b/"):
            with pytest.raises(OpenEnvError) as caught:
                await _reset(client(url + path))
            _told(caught, path.rstrip("/"), "path")
            assert "token" not in str(caught.value)
            assert not isinstance(caught.value, Unauthorized)
        for spelling in (url + "/", url + "/ws", url + "/ws/", url.replace("http", "ws")):
            await _reset(client(spelling))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (_http("401 Unauthorized"), ["HTTP 401", "needs a token"]),
        (_http("403 Forbidden"), ["HTTP 403", "check the path"]),
        (_http("404 Not Found"), ["HTTP 404", "check the path"]),
        (_http("407 Proxy Authentication Required"), ["the proxy wants credentials"]),
        (
            _http("301 Moved", Location="https://elsewhere/"),
            ["a redirection to https://elsewhere/"],
        ),
        (_http("307 There", Location="/login"), ["a redirection to /login", "the server itself"]),
        (_http("502 Bad Gateway"), ["HTTP 502", "behind it is not reachable"]),
        (_http("200 OK", Content_Type="text/html"), ["HTTP 200"]),
        (b"SSH-2.0-OpenSSH_9.6\r\n", ["check host and port"]),
        (b"", ["closed the connection without an HTTP answer", "write https://"]),
    ],
)
async def test_what_answers_is_something_else(client: Any, answer: bytes, parts: list[str]) -> None:
    async with answering(answer) as url:
        with pytest.raises(OpenEnvError) as caught:
            await _reset(client(url))
        _told(caught, url, *parts)


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "426 Upgrade Required"])
async def test_a_proxy_that_drops_the_upgrade_headers(status: str) -> None:
    async with answering(_http(status)) as url:
        with pytest.raises(ConnectFailed) as caught:
            await _reset(EnvClient(url))
        _told(caught, "instead of a WebSocket", "Upgrade and Connection", "HTTPEnvClient")


async def test_a_websocket_follows_no_redirection() -> None:
    """The token would go along."""
    async with serve(Good) as url, answering(_http("307 There", Location=url)) as there:
        with pytest.raises(ConnectFailed, match="a redirection to"):
            await _reset(EnvClient(there))


@pytest.mark.parametrize("client", CLIENTS)
async def test_http_for_https_and_the_reverse(
    client: Any, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    pair = tmp_path / "pair.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pair))
    async with serve(Good, ssl_certfile=str(pair)) as url:
        with pytest.raises(OpenEnvError) as caught:
            await _reset(client(url.replace("https", "http")))
        _told(caught, "if it speaks TLS, write https://")
        with pytest.raises(ConnectFailed) as caught:
            await _reset(client(url))
        _told(caught, "certificate is not trusted", "ssl=")
        with pytest.raises(OSError, match=r"nothere\.pem") as missing:
            await _reset(client(url, ssl=str(tmp_path / "nothere.pem")))
        assert "ssl=" in str(missing.value)
    async with serve(Good) as url:
        with pytest.raises(ConnectFailed) as caught:
            await _reset(client(url.replace("http", "https")))
        _told(caught, "it does not speak TLS there: write http://")


@pytest.mark.parametrize("client", CLIENTS)
async def test_nothing_listens_or_no_such_host(client: Any) -> None:
    async with serve(Good) as url:
        pass
    port = url.rpartition(":")[2]
    for address in (url, f"http://localhost:{port}"):
        with pytest.raises(ConnectFailed) as caught:
            await _reset(client(address))
        _told(caught, f":{port}", "nothing listens at", "start the server")
        with pytest.raises(ConnectFailed) as caught:
            await fetch_schema(address)
        _told(caught, "nothing listens at")
    with pytest.raises(ConnectFailed) as caught:
        await _reset(client("http://no-such-host.invalid:8000"))
    _told(caught, "there is no host 'no-such-host.invalid'")


@pytest.mark.parametrize("client", CLIENTS)
async def test_calls_that_come_too_early_too_late_or_at_once(client: Any) -> None:
    async with serve(Good) as url:
        env = client(url)
        with pytest.raises(EpisodeNotStarted) as early:
            await env.step({})
        _told(early, "call reset() first")
        await env.reset()
        with pytest.raises(SessionBusy) as busy:
            await asyncio.gather(env.step({}), env.step({}))
        _told(busy, "step() while another call", "await one call before the next")
        await env.close()
        with pytest.raises(SessionClosed) as late:
            await env.reset()
        _told(late, "make a new one")


# -- environments -------------------------------------------------------------------------------

ENTRIES: list[Callable[[Any], Any]] = [serve, connect]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("wrong", "error", "parts"),
    [
        (None, TypeError, ["None is not an environment", "pass an Environment"]),
        (5, TypeError, ["5 (int) is not an environment"]),
        ([Good], TypeError, ["(list) is not an environment"]),
        ("http://localhost:1", TypeError, ["needs an environment itself", "is a server that runs"]),
        (sys, TypeError, ["name its class, such as sys.MyEnvironment"]),
        (NoEnvironment, TypeError, ["NoEnvironment has no reset()"]),
        (Abstract, TypeError, ["Abstract is abstract: it lacks step"]),
        (factory, TypeError, ["'factory' does not say what it makes", "annotate"]),
        (Needs, InvalidOption, ["without its argument 'path'", "--param path="]),
        (EnvClient, TypeError, ["EnvClient is a client", "pass the Environment class"]),
        (
            GenericEnvClient("http://localhost:1"),
            TypeError,
            ["a client of http://localhost:1", "give the class"],
        ),
    ],
)
async def test_what_is_no_environment(
    entry: Any, wrong: Any, error: type[Exception], parts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        async with entry(wrong):
            pass
    _told(caught, *parts)


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"port": "8000"}, TypeError, ["port must be an integer"]),
        ({"port": -1}, ValueError, ["port must be from 0 to 65535"]),
        ({"port": 99999}, ValueError, ["port must be from 0 to 65535"]),
        ({"host": None}, TypeError, ["host must be"]),
        ({"host": "no-such-host.invalid"}, OSError, ["this machine has no address"]),
        ({"options": {}}, TypeError, ["options must be an EngineOptions"]),
        ({"max_sessions": 3}, TypeError, ["options=EngineOptions(max_sessions=…)"]),
        ({"timeout": 3}, TypeError, ["EngineOptions(timeouts=Timeouts(step=5))"]),
        ({"tokn": "x"}, TypeError, ["did you mean token=?"]),
        ({"token": 5}, TypeError, ["a token is text"]),
        ({"params": {"sizee": 3}}, InvalidOption, ["'sizee'", "did you mean 'size'?"]),
        ({"params": {"zzz": 3}}, InvalidOption, ["'zzz'", "it takes size, colour"]),
    ],
)
async def test_a_wrong_argument_of_serve(
    options: dict[str, Any], error: type[Exception], parts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        async with serve(Good, **options):
            pass
    for part in parts:
        assert part in str(caught.value)


async def test_a_port_in_use() -> None:
    async with serve(Good) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: the port is in use"):
            async with serve(Good, port=port):
                pass


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"options": {"size": 3}}, ["EngineOptions", "params={name: value}"]),
        ({"client": 5}, ["client must be a class of EnvClient"]),
        ({"client": SyncEnvClient}, ["client must be a class of EnvClient"]),
        ({"format": "xml"}, ["format must be 'msgpack' or 'json'"]),
        ({"timeout": 3}, ["takes no argument 'timeout'", "Timeouts(step=5)"]),
        ({"params": {"sizee": 3}}, ["'sizee'", "did you mean 'size'?"]),
    ],
)
async def test_a_wrong_argument_of_connect(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        async with connect(Good, **options):
            pass
    _told(caught, *parts)


FILES = {
    "envs.py": """
        from openenv_async import Environment
        class Good(Environment[dict, dict, dict]):
            def __init__(self, size: int = 3): ...
            def reset(self): return {}
            def step(self, action): return {}
        class Needs(Good):
            def __init__(self, path): ...
            def reset(self): return {}
            def step(self, action): return {}
        class Abstract(Environment[dict, dict, dict]):
            def reset(self): return {}
        class Nothing: ...
        class Unsendable(Environment[object, dict, dict]):
            def reset(self): return {}
            def step(self, action): return {}
        value = 5
        """,
    "needy.py": "import a_module_that_is_missing\nclass Env: ...\n",
    "misspelt.py": "class (:\n",
    "ending.py": "import sys\nsys.exit(4)\nclass Env: ...\n",
    "raising.py": "import os\n\nos.environ['A_VARIABLE_THAT_IS_MISSING']\nclass Env: ...\n",
    "borrowing.py": "from os import a_name_that_is_missing\nclass Env: ...\n",
    "notes.txt": "some text\n",
    "broken/openenv.yaml": "{{{\n",
    "empty/readme": "nothing\n",
}


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("envs", "needy", "misspelt", "ending", "raising", "borrowing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


NAMES: list[tuple[str, list[str]]] = [
    ("ecko", ["there is no environment 'ecko'", "did you mean echo?"]),
    ("no-such-thing", ["there is no environment", "module:Class"]),
    ("envs", ["envs is a module", "envs:Good"]),
    ("envs.py", ["is a file", "write envs:Good"]),
    ("envs.Good", ["has a dot before its class", "write envs:Good"]),
    ("./envs.py", ["is a file", "write envs:Good"]),
    ("./notes.txt", ["is a file, and not an environment"]),
    ("./nowhere", ["there is no folder './nowhere'"]),
    ("./empty", ["has no openenv.yaml"]),
    ("empty", ["the folder 'empty' has no openenv.yaml", "openenv-async init"]),
    ("./broken", ["openenv.yaml cannot be read"]),
    ("envs:Missing", ["'envs' has no 'Missing'", "name Good"]),
    ("envs:Godo", ["'envs' has no 'Godo'", "did you mean Good?"]),
    ("envs:", ["write module:Class"]),
    ("nomodule:Class", ["there is no module 'nomodule'"]),
    ("needy:Env", ["needy cannot be imported: it needs 'a_module_that_is_missing'"]),
    ("misspelt:Env", ["misspelt cannot be imported: SyntaxError", "misspelt.py, line 1"]),
    ("ending:Env", ["ending cannot be imported: it ends the program", "ending.py, line 2"]),
    ("raising:Env", ["KeyError: 'A_VARIABLE_THAT_IS_MISSING'", "raising.py, line 3"]),
    ("borrowing:Env", ["borrowing cannot be imported: ImportError: cannot import name"]),
    ("localhost:8100", ["the address of a server", "write http://localhost:8100"]),
    ("", ["there is no environment ''"]),
]


@pytest.mark.parametrize(("name", "parts"), NAMES)
async def test_a_name_that_is_none(folder: pathlib.Path, name: str, parts: list[str]) -> None:
    with pytest.raises(TargetNotFound) as caught:
        await AutoEnv.afrom_env(name)
    _told(caught, *parts)


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        ((5,), TypeError, ["cannot play on 5 (int)", "give the URL of a server"]),
        ((), InvalidOption, ["name an environment"]),
        (("echo", {"timeout": 3}), TypeError, ["AutoEnv.from_env takes no argument 'timeout'"]),
        (("echo", {"params": 5}), TypeError, ["params must be a dict"]),
        (("echo", {"provider": "k8s"}), InvalidOption, ["there are process and docker"]),
        ((None, {"base_url": "localhost:1"}), ValueError, ["write http://localhost:1"]),
    ],
)
async def test_a_wrong_argument_of_auto_env(
    arguments: tuple[Any, ...], error: type[Exception], parts: list[str]
) -> None:
    options = arguments[1] if len(arguments) > 1 else {}
    with pytest.raises(error) as caught:
        await AutoEnv.afrom_env(*arguments[:1], **options)
    _told(caught, *parts)


# -- the command line ---------------------------------------------------------------------------

COMMANDS: list[tuple[list[str], int, list[str]]] = [
    (["servee", "echo"], 2, ["No such command 'servee'", "did you mean serve?"]),
    (["xyz"], 2, ["No such command 'xyz'", "there are init"]),
    (["serve", "echo", "--port", "eight"], 2, ["'eight' is not a valid integer. (see"]),
    (["serve", "CartPole"], 1, ["no environment 'CartPole'; installed are", "CartPole-v1"]),
    (["serve"], 2, ["Missing argument 'TARGET'"]),
    (["serve", "echo", "--prt", "1"], 2, ["No such option", "--port"]),
    (["serve", "envs:Good", "--param", "sizee=3"], 1, ["did you mean 'size'?"]),
    (["serve", "envs:Good", "--param", "size"], 2, ["'size' is not KEY=VALUE"]),
    (["serve", "envs:Needs"], 1, ["without its argument 'path'", "--param path="]),
    (["serve", "envs:Abstract"], 2, ["Abstract is abstract: it lacks step"]),
    (["serve", "envs:Nothing"], 2, ["Nothing has no reset()"]),
    (["serve", "envs:value"], 2, ["5 (int) is not an environment"]),
    (["serve", "envs:Unsendable"], 2, ["object"]),
    (["serve", "misspelt:Env"], 1, ["SyntaxError", "misspelt.py, line 1"]),
    (["serve", "ending:Env"], 1, ["it ends the program"]),
    (["serve", "echo", "--port", "abc"], 2, ["'abc' is not a valid integer"]),
    (["serve", "http://127.0.0.1:1"], 1, ["is the address of a server"]),
    (["serve", "envs:Good", "--host", "no-such-host.invalid"], 1, ["has no address"]),
    (["serve", "envs:Good", "--ssl-certfile", "notes.txt"], 2, ["certificate"]),
    (["serve", "envs:Good", "--token-file", "nowhere"], 2, ["'nowhere' does not exist"]),
    (["serve", "envs:Good", "--host", "0.0.0.0"], 2, ["--token-file", "--insecure"]),
    (["serve", "echo", "--owner-lease", "nan"], 2, ["an owner's lease is a positive number"]),
    (
        ["serve", "echo", "--step-timeout", "1e300"],
        2,
        ["is not a number", "from 0 to 1e+09"],
    ),
    (["serve", "echo", "--step-timeout", "nan"], 2, ["is not a number of seconds"]),
    (["rollout", "http://127.0.0.1:1"], 1, ["nothing listens at 127.0.0.1:1"]),
    (["rollout", "http://"], 2, ["is not a valid server address"]),
    (["rollout", "envs:Abstract"], 1, ["did not start: Abstract is abstract: it lacks step"]),
    (["rollout", "echo", "--policy", "nosuch"], 2, ["write random or module:callable"]),
    (["rollout", "echo", "--policy", "envs:xyz"], 2, ["is not a policy: 'envs' has no 'xyz' (see"]),
    (["rollout", "echo", "--policy", "envs:Good"], 2, ["is not a policy: a Good is not callable"]),
    (["rollout", "echo", "--policy", "envs:Needs"], 2, ["Needs takes arguments, name an instance"]),
    (["info", "htp://127.0.0.1:1"], 2, ["write http://127.0.0.1:1 (or https)"]),
    (["info", "localhost:8100"], 2, ["write http://localhost:8100"]),
    (["info", "http://127.0.0.1:1"], 1, ["nothing listens at"]),
    (["play", "http://no-such-host.invalid:1"], 1, ["there is no host"]),
    (["validate", "localhost:8100"], 2, ["write http://localhost:8100"]),
    (["validate", "./envs.py"], 2, ["write envs:Good"]),
    (["conformance", "localhost:8100"], 2, ["write http://localhost:8100"]),
    *((["serve", name], 1, parts) for name, parts in NAMES),
]


@pytest.mark.parametrize(("arguments", "code", "parts"), COMMANDS)
def test_a_mistake_on_the_command_line_is_one_line(
    folder: pathlib.Path, arguments: list[str], code: int, parts: list[str]
) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert not INNER.search(line), line


@pytest.mark.parametrize("command", ["info", "play", "rollout", "validate", "conformance", "bench"])
async def test_a_command_at_a_server_that_asks_for_a_token(command: str) -> None:
    async with serve(Good, token="secret") as url:
        result = await asyncio.to_thread(CliRunner().invoke, main, [command, url])
    assert result.exit_code == 1
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "it needs a token" in line
    assert "--token-file" in line


def test_a_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    out = str(tmp_path / "out.parquet")
    arguments = ["rollout", "http://127.0.0.1:1", "--policy", "operator:neg", "--out", out]
    result = CliRunner().invoke(main, [*arguments, "--episodes", "1"])
    assert result.exit_code in (1, 2), (result.output, result.exception)
    [line] = result.stderr.splitlines()
    assert "pip install 'openenv-async[parquet]'" in line


SLOW = """
    import asyncio
    from openenv_async import Environment
    class Slow(Environment[dict, dict, dict]):
        async def reset(self): return {}
        async def step(self, action): await asyncio.sleep(0.05); return {}
        async def close(self): await asyncio.sleep(30)
    """


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("presses", [1, 2, 3])
@pytest.mark.parametrize("command", ["serve", "rollout"])
def test_ctrl_c_pressed_again_shows_no_traceback(
    command: str, presses: int, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "slow.py").write_text(textwrap.dedent(SLOW))
    arguments = {
        "serve": ["serve", "slow:Slow", "--port", "0"],
        "rollout": ["rollout", "slow:Slow", "--episodes", "99999", "--max-steps", "9"],
    }[command]
    wrapped = (
        "import signal, sys, pathlib; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from openenv_async.cli import main; main(prog_name='openenv-async', args=sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", wrapped, *arguments, *(["--json"] if command == "serve" else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        if command == "serve":
            url = json.loads(process.stdout.readline())["url"]
            asyncio.run(_open_and_leave(url))
        else:
            _wait_for_children(process.pid)
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
        if presses == 1 and command == "rollout":
            return  # it closes what it began, which takes its time here
        # Pressed once, the environments have their grace; pressed again, nobody waits for them.
        _, err = process.communicate(timeout=30 if presses == 1 else 8)
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in err, err
    assert "Task was destroyed" not in err, err
    if command == "rollout":
        assert process.returncode == 130
        assert "interrupted" in err


async def _open_and_leave(url: str) -> None:
    client = GenericEnvClient(url)
    await client.reset()


def _wait_for_children(pid: int) -> None:
    import time

    import psutil  # type: ignore[import-untyped]  # it has none

    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(child.net_connections("tcp") for child in psutil.Process(pid).children()):
            time.sleep(1.0)  # until the command plays, and no longer starts
            return
        time.sleep(0.05)
    raise AssertionError("no server was started")


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        (None, "give the URL of a server"),
        (5, "give the URL of a server"),
        ([Good], "connect(Good) plays on it"),
        (EnvPool(StaticProvider("http://localhost:1")), "has workers of its own"),
    ],
)
def test_what_a_pool_cannot_be_made_of(wrong: Any, cure: str) -> None:
    for make in (EnvPool, EnvPool.of):
        with pytest.raises(TypeError) as caught:
            make(wrong)
        _told(caught, cure)
    with pytest.raises(ValueError, match="write http://localhost:8100"):
        EnvPool.from_url("localhost:8100")


@pytest.mark.parametrize("name", ["max_sessions", "max_waiting", "workers", "max_threads"])
@pytest.mark.parametrize("value", ["3", 1.5, True, [1], -1])
def test_a_wrong_count_in_the_options_of_an_engine(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises((TypeError, ValueError)) as caught:
        EngineOptions(**options)
    _told(caught, name)


@pytest.mark.parametrize(
    ("make", "arguments", "options", "parts"),
    [
        (EngineOptions, (), {"timeouts": 3}, ["timeouts must be a Timeouts"]),
        (EngineOptions, (), {"limits": {}}, ["limits must be a Limits"]),
        (EngineOptions, (), {"close_grace": "3"}, ["close_grace must be a number of seconds"]),
        (Engine, (Good,), {}, ["EnvironmentSpec(env) makes one"]),
        (create_app, (Good,), {"options": {}}, ["options must be an EngineOptions"]),
        (create_app, (Good,), {"params": [1]}, ["params must be a dict"]),
        (create_app, (Good,), {"allowed_origins": "https://x"}, ["write ['https://x']"]),
        (LocalServer, (Good,), {}, ["a server's target is text", "is for serve"]),
        (LocalServer, ("echo",), {"params": 5}, ["params must be a dict"]),
    ],
)
def test_a_wrong_argument_is_told_where_it_is_given(
    make: Any, arguments: tuple[Any, ...], options: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make(*arguments, **options)
    for part in parts:
        assert part in str(caught.value)


async def test_a_class_to_validate() -> None:
    results = await validate(Good, names=["rewards_are_numbers"])
    assert [result.status for result in results] == ["passed", "passed"]
    target: Any = 5
    with pytest.raises(WrongTarget, match=r"validate\(\) cannot play on 5"):
        await validate(target)


class Levels(Environment[dict[str, Any], dict[str, Any], Any]):
    """Begins at a level, which has no default."""

    def reset(self, level: int) -> dict[str, Any]:
        return {"level": level}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {}


class Plain(Levels):
    """Takes no options of its own."""

    def reset(self) -> dict[str, Any]:  # type: ignore[override]  # which is the point
        return {}


@pytest.mark.parametrize(
    ("cls", "options", "parts"),
    [
        (Plain, {"levle": 3}, ["no option 'levle' (it takes: seed and episode_id)"]),
        (Levels, {"levle": 3}, ["(it takes: seed, episode_id and level)"]),
        (Levels, {}, ["needs the option 'level': give it, or let the environment have a default"]),
    ],
)
async def test_reset_names_the_options_that_there_are(
    cls: type[Levels], options: dict[str, Any], parts: list[str]
) -> None:
    async with connect(cls) as env:
        with pytest.raises(InvalidOption) as caught:
            await env.reset(**options)
        _told(caught, *parts)
