"""Environments of Open Reward servers: the package's own server, and one that misbehaves."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import queue
import random
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from openenv_async import Environment, connect
from openenv_async.building.importing import import_environment
from openenv_async.checks.validation import validate
from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidObservation,
    InvalidOption,
)
from openenv_async.hosts.openreward import API_KEY, OpenRewardHost, host_of
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_target
from openenv_async.targets.resolve import resolve
from openenv_async.types import Task, Timeouts
from tests.docs.pages import DOCS, read_page
from tests.peers import OPENREWARD, ensure_peer

pytestmark = pytest.mark.xdist_group("openreward")  # what they share is made once

PEER = Path(__file__).with_name("openreward_peer.py")
EPISODES = int(os.environ.get("HOSTED_EPISODES", "16"))
"""Played twice: by this runtime, and by the package's own client."""
AT_ONCE = 16
DEADLINE = 60.0
"""Seconds that the package's own server and client have for what they are asked."""


class RealServer:
    """The package's own server, in a process of its own."""

    def __init__(self, python: str) -> None:
        self.python = python
        self._process = subprocess.Popen(
            [python, str(PEER), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = f"http://127.0.0.1:{self._line()['port']}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def _line(self) -> Any:
        return json.loads(self._lines.get(timeout=DEADLINE))

    @property
    def sessions(self) -> int:
        """The number of its sessions."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line()["sessions"])

    def play(self, episodes: list[Any]) -> Any:
        """Return the answers that the package's own client gets."""
        given = json.dumps(episodes)
        command = [self.python, str(PEER), "play", self.url]
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE + len(episodes),
        )
        return json.loads(done.stdout)

    def stop(self) -> None:
        with self._process as process:  # which closes its pipes, and waits
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(DEADLINE)
            finally:
                process.kill()
                self._reader.join()


@pytest.fixture(scope="module")
def real() -> Iterator[RealServer]:
    server = RealServer(ensure_peer("openreward", OPENREWARD))
    yield server
    server.stop()


def spec_of(url: str, **params: Any) -> EnvironmentSpec:
    return EnvironmentSpec(OpenRewardHost, params={"url": url, **params})


# -- the package's own server ---------------------------------------------------------------------


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_name": tool, "arguments": arguments}


def random_episode(number: int) -> tuple[str, int, list[dict[str, Any]]]:
    draw = random.Random(number)
    split = draw.choice(["train", "test"])
    index = draw.randrange(39 if split == "train" else 5)
    actions = []
    for _ in range(12):
        low = draw.randrange(64)
        actions.append(
            draw.choice(
                [
                    call("guess", number=draw.randrange(64)),
                    call("guess", number=draw.randrange(64)),
                    call("guess"),
                    call("look", within={"low": low, "high": low + 9}),
                    call("words", length=draw.randrange(12_000)),
                    call("dance"),
                ]
            )
        )
    actions.append(call("answer", message=f"it is {draw.randrange(64)}"))
    return split, index, actions


async def played(env: Any, episode: tuple[str, int, list[dict[str, Any]]]) -> list[Any]:
    """The same as the package's client is answered, of this runtime's."""
    split, index, actions = episode
    await env.reset(split=split, index=index)
    steps: list[Any] = []
    for action in actions:
        try:
            result = await env.step(action)
        except InvalidAction as exc:
            steps.append([exc.detail["reason"]])
            continue
        steps.append([result.reward, result.terminated, result.observation.text])
        if result.done:
            break
    return steps


async def test_episodes_are_those_of_the_servers_own_client(real: RealServer) -> None:
    episodes = [random_episode(number) for number in range(EPISODES)]
    waiting = list(enumerate(episodes))
    ours: dict[int, Any] = {}

    async def play() -> None:
        async with connect(spec_of(real.url)) as env:
            while waiting:
                number, episode = waiting.pop()
                ours[number] = await played(env, episode)

    await asyncio.gather(*(play() for _ in range(AT_ONCE)))
    theirs = await asyncio.to_thread(real.play, episodes)
    assert [ours[number] for number in range(EPISODES)] == theirs
    kinds = {type(step[0]) for episode in theirs for step in episode}
    assert kinds == {float, type(None), str}  # rewards, no reward, and refusals
    assert real.sessions == 0


async def test_the_prompt_its_pictures_and_the_tools_come_with_the_reset(real: RealServer) -> None:
    async with connect(spec_of(real.url)) as env:
        result = await env.reset(seed=1)
        assert result.observation.text.startswith("Find the number.\nnumber ")
        assert result.observation.images[0].mime_type == "image/png"
        assert bytes(result.observation.images[0].data).startswith(b"\x89PNG")
        assert result.info["tools"] == ["fail", "guess", "look", "sleep", "words", "answer"]
        again = await env.reset(seed=1)
        assert again.info["index"] == result.info["index"]
        assert real.sessions == 1
        state = await env.state()
        assert (state.environment, state.split, state.calls) == ("numbers", "train", 0)
    assert real.sessions == 0


async def test_tasks_are_listed_without_their_columns(real: RealServer) -> None:
    spec = spec_of(real.url)
    assert spec.tasks is not None
    assert spec.tasks.splits == ("train", "test")
    assert spec.tasks.count("train") == 40
    assert spec.tasks.get("test", 2) == Task("2", {"index": 2}, {}, "test")
    with pytest.raises(InvalidOption, match="no task '7'"):
        spec.tasks.find("7", "test")
    with pytest.raises(InvalidOption, match="no task '02'"):
        spec.tasks.find("02")
    async with connect(spec) as env:
        result = await env.reset(task_id="2", split="test")
        assert result.observation.text.endswith("number 2 of test")
    public = spec_of(real.url, public=["question"])
    assert public.tasks is not None
    assert public.tasks.page("test", 1, 3)[1].data == {"index": 2, "question": "number 2 of test"}
    async with connect(public) as env:
        result = await env.reset(task_id="2", split="test")
        assert result.info["index"] == 2


async def test_a_tool_that_raises_ends_the_episode_without_a_reward(real: RealServer) -> None:
    async with connect(spec_of(real.url)) as env:
        await env.reset(seed=1)
        with pytest.raises(EnvironmentRaised, match=r"fail .* raised: the tool is out of order"):
            await env.step(call("fail"))
        with pytest.raises(EnvironmentDied, match="reset the session"):
            await env.step(call("guess", number=1))
        await env.reset(seed=1)
        assert (await env.step(call("guess", number=64))).reward == 0.0


async def test_a_task_whose_setup_fails_begins_no_episode(real: RealServer) -> None:
    async with connect(spec_of(real.url)) as env:
        with pytest.raises(EnvironmentRaised, match="cannot be set up"):
            await env.reset(split="train", index=39)
        await env.reset(split="train", index=0)
    assert real.sessions == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "dev", "index": 0}, "Invalid split"),
        ({"split": "train", "index": 99}, "Invalid index"),
    ],
)
async def test_a_task_that_is_not_there_is_an_invalid_option(
    real: RealServer, options: Any, said: str
) -> None:
    async with connect(spec_of(real.url)) as env:
        with pytest.raises(InvalidOption, match=said):
            await env.reset(**options)
    assert real.sessions == 0


async def test_a_step_that_passes_its_deadline_ends_the_servers_session_with_ours(
    real: RealServer,
) -> None:
    options = EngineOptions(timeouts=Timeouts(step=0.3))
    async with connect(spec_of(real.url), options=options) as env:
        await env.reset(seed=1)
        with pytest.raises(DeadlineExceeded):
            await env.step(call("sleep"))
    assert real.sessions == 0


def test_a_target_names_the_server_and_its_environment(real: RealServer) -> None:
    spec = find_target(f"ors:{real.url}/other", {"public": ["question"]})
    assert (spec.name, spec.cls) == ("other", OpenRewardHost)
    spec.check()
    assert {m["title"] for m in spec.schema["action"]["anyOf"]} >= {"guess", "answer"}
    tools = {tool.name: tool for tool in spec.tools("act")}
    assert tools["answer"].description.endswith("Ends the episode with the answer.")
    assert tools["guess"].action({"number": 3}) == call("guess", number=3)
    assert find_target(f"ors:{real.url}").name == "openreward"
    with pytest.raises(InvalidOption, match="'url' is what the target itself says"):
        find_target(f"ors:{real.url}", {"url": "http://127.0.0.1:1"})
    with pytest.raises(EnvironmentStartFailed, match="name of an environment that it lists"):
        find_target(f"ors:{real.url}/other2")


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("http://host:80", {"url": "http://host:80"}),
        ("https://host/a/b", {"url": "https://host/a", "environment": "b"}),
        ("https://host/a/b/", {"url": "https://host/a/b"}),
        ("https://host/a?x=1#y", {"url": "https://host", "environment": "a"}),
    ],
)
def test_the_last_part_of_a_path_is_the_environment(text: str, params: dict[str, Any]) -> None:
    assert host_of(text).params == params


@pytest.mark.parametrize("text", ["host", "ws://host:80", "ftp://host/x"])
def test_other_text_names_no_server(text: str) -> None:
    with pytest.raises(InvalidOption):
        host_of(text)


@pytest.mark.parametrize(
    "params", [{"timeout": 0}, {"silence": "1"}, {"ping_interval": -1}, {"start_timeout": True}]
)
def test_an_argument_that_is_not_valid_is_named(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(params))):
        OpenRewardHost("http://127.0.0.1:9", **params)


def test_the_public_columns_are_names() -> None:
    with pytest.raises(InvalidOption, match="public takes names"):
        OpenRewardHost.tasks_for(url="http://127.0.0.1:9", public="question")
    with pytest.raises(InvalidOption, match="--param url="):
        OpenRewardHost.tasks_for()


def test_a_server_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(EnvironmentDied, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        find_target("ors:http://127.0.0.1:9/numbers")


@pytest.mark.heavy
async def test_the_folder_that_import_writes_validates(real: RealServer, tmp_path: Path) -> None:
    import_environment("ors", f"{real.url}/other", tmp_path / "imported_env")
    results = await validate(resolve(tmp_path / "imported_env"), sessions=2)
    assert [(r.name, r.reason) for r in results if r.status == "failed"] == []
    assert sum(result.status == "passed" for result in results) > 20


async def test_the_page_of_the_documentation_plays(
    real: RealServer, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = read_page(DOCS / "hosts.md").blocks
    (text,) = [b.text for b in blocks if b.language == "python" and "ors:" in b.text]
    body = text.replace("http://127.0.0.1:8080", real.url)
    made = eval(compile(body, "hosts.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
    await made
    prompt, answer = capsys.readouterr().out.strip().split("\n", 1)[1].split("\n")
    assert "number 2 of test ['fail', 'guess'" in prompt
    assert answer == "too high 0.0 False"


# -- a server that misbehaves ---------------------------------------------------------------------


class FakeServer:
    """The routes of the standard; what a call is answered is up to the test."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[Any] = []
        self.calls: list[Any] = []
        self.pings = asyncio.Event()
        self.deleted: list[str] = []
        self.answer_call: Callable[[web.Request, Any], Any] | None = None
        self.starting = 0
        self.prompt: Any = [{"type": "text", "text": "go"}]
        self.splits: Any = [{"name": "train", "type": "train"}]
        self.rows: list[Any] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers)
        path = request.path.removeprefix("/numbers")
        body = await request.json() if request.can_read_body else None
        match path:
            case "/list_environments":
                return web.json_response(["numbers"])
            case "/splits":
                return web.json_response(self.splits)
            case "/num_tasks":
                return web.json_response({"num_tasks": 3})
            case "/task_range":
                return web.json_response({"tasks": self.rows})
            case "/tools" | "/task_tools":
                tools = [{"name": "act", "description": "", "input_schema": None}]
                return web.json_response({"tools": tools})
            case "/create_session":
                return await self.stream(request, [("task_id", "s1"), ("end", "")])
            case "/create":
                return web.json_response({"sid": "s1"})
            case "/prompt":
                if self.starting:
                    self.starting -= 1
                    headers = {"X-Backend-State": "starting", "Retry-After": "0.1"}
                    return web.json_response({"detail": "starting"}, status=503, headers=headers)
                return web.json_response(self.prompt)
            case "/ping":
                self.pings.set()
                return web.json_response({})
            case "/delete" | "/delete_session":
                self.deleted.append(path)
                return web.json_response({})
            case "/call":
                self.calls.append(body)
                assert self.answer_call is not None
                reply = await self.answer_call(request, body)
                assert isinstance(reply, web.StreamResponse)
                return reply
        return web.json_response({"detail": "not here"}, status=404)

    async def stream(
        self, request: web.Request, events: list[tuple[str, str]], cut: bool = False
    ) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b": ping\r\n\r\n")
        for event, data in events:
            await reply.write(f"event: {event}\r\ndata: {data}\r\n\r\n".encode())
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return reply


OUTPUT: dict[str, Any] = {"blocks": [], "metadata": None, "reward": 0.5, "finished": True}
DONE = json.dumps({"ok": True, "output": OUTPUT})


@contextlib.asynccontextmanager
async def fake() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def playing(server: FakeServer, **params: Any) -> AsyncIterator[OpenRewardHost]:
    env = OpenRewardHost(server.url, **params)
    try:
        await env.reset(seed=1)
        yield env
    finally:
        await env.close()


async def test_a_broken_stream_is_taken_up_again_under_the_name_of_the_call() -> None:
    async with fake() as server, playing(server) as env:

        async def answer(request: web.Request, body: dict[str, Any]) -> Any:
            first = [("task_id", "t1"), ("chunk", DONE[:10])]
            if "task_id" not in body:
                return await server.stream(request, first, cut=True)
            rest = [("task_id", "t1"), ("chunk", DONE[:10]), ("end", DONE[10:])]
            return await server.stream(request, rest)

        server.answer_call = answer
        result = await env.step(call("act", a=1))
        assert (result.reward, result.terminated) == (0.5, True)
        assert server.calls == [
            {"name": "act", "input": {"a": 1}},
            {"name": "act", "input": {"a": 1}, "task_id": "t1"},
        ]


async def test_a_call_that_may_have_run_is_not_sent_again() -> None:
    async with fake() as server, playing(server) as env:

        async def answer(request: web.Request, body: dict[str, Any]) -> Any:
            return await server.stream(request, [], cut=True)

        server.answer_call = answer
        with pytest.raises(EnvironmentDied, match="may have run"):
            await env.step(call("act"))
        assert len(server.calls) == 1
        with pytest.raises(EnvironmentDied, match="reset the session"):
            await env.step(call("act"))


async def test_a_stream_that_always_breaks_is_given_up() -> None:
    async with fake() as server, playing(server) as env:

        async def answer(request: web.Request, body: dict[str, Any]) -> Any:
            return await server.stream(request, [("task_id", "t1")], cut=True)

        server.answer_call = answer
        with pytest.raises(EnvironmentDied, match="broke 6 times"):
            await env.step(call("act"))
        assert len(server.calls) == 6


async def test_a_silent_stream_is_given_up() -> None:
    async with fake() as server, playing(server, silence=0.2) as env:

        async def answer(request: web.Request, body: dict[str, Any]) -> Any:
            await server.stream(request, [("task_id", "t1")])
            await asyncio.Event().wait()

        server.answer_call = answer
        with pytest.raises(EnvironmentDied, match=r"nothing came for 0\.2 s"):
            await env.step(call("act"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("nonsense", "not JSON"),
        ('{"ok": 1}', "answered"),
        ('{"ok": true, "output": 3}', "'output' must be a dict"),
        ('{"ok": true, "output": {"blocks": [{"type": "sound"}]}}', "'sound'"),
        ('{"ok": true, "output": {"blocks": 3}}', "list of blocks"),
        ('{"ok": true, "output": {"blocks": [], "reward": true}}', "reward"),
        ('{"ok": true, "output": {"blocks": [{"type": "image", "data": "!"}]}}', "base64"),
    ],
)
async def test_an_answer_that_is_not_of_the_standard_is_refused(data: str, said: str) -> None:
    async with fake() as server, playing(server) as env:

        async def answer(request: web.Request, body: dict[str, Any]) -> Any:
            return await server.stream(request, [("task_id", "t1"), ("end", data)])

        server.answer_call = answer
        with pytest.raises(InvalidObservation, match=said):
            await env.step(call("act"))
        with pytest.raises(EnvironmentDied, match="reset the session"):
            await env.step(call("act"))


@pytest.mark.parametrize("rows", [[], [3], [{}, {}]])
async def test_tasks_that_were_not_asked_for_are_refused(rows: list[Any]) -> None:
    async with fake() as server:
        server.rows = rows
        tasks = OpenRewardHost.tasks_for(url=server.url, public=["question"])
        with pytest.raises(InvalidObservation, match="as the 1 tasks of train from 2"):
            await asyncio.to_thread(tasks.find, "train", "2")


@pytest.mark.parametrize("text", ["9" * 5000, "٣", "-1", "3", "x", ""])
async def test_a_text_that_is_no_index_names_no_task(text: str) -> None:
    async with fake() as server:
        tasks = OpenRewardHost.tasks_for(url=server.url)
        assert await asyncio.to_thread(tasks.find, "train", text) is None


@pytest.mark.parametrize("splits", [3, [], [3]])
async def test_splits_that_are_not_of_the_standard_are_refused(splits: Any) -> None:
    async with fake() as server:
        server.splits = splits
        tasks = OpenRewardHost.tasks_for(url=server.url)
        with pytest.raises((EnvironmentStartFailed, InvalidObservation), match=r"no splits|'name'"):
            await asyncio.to_thread(tasks.splits)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("input_validation", InvalidAction),
        (None, InvalidAction),
        ("name_collision", EnvironmentRaised),
        ("episode_finished", EnvironmentRaised),
    ],
)
async def test_a_call_that_is_not_taken_is_the_policys_mistake(
    reason: str | None, kind: type[Exception]
) -> None:
    async with fake() as server, playing(server) as env:
        data = json.dumps({"ok": False, "error": "no", "reason": reason})

        async def answer(request: web.Request, body: dict[str, Any]) -> Any:
            return await server.stream(request, [("task_id", "t1"), ("end", data)])

        server.answer_call = answer
        with pytest.raises(kind, match="no"):
            await env.step(call("act"))


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, EnvironmentDied, "no such session"),
        (410, EnvironmentDied, "no such session"),
        (401, EnvironmentStartFailed, API_KEY),
        (308, EnvironmentStartFailed, "not followed"),
        (500, EnvironmentRaised, "broken"),
    ],
)
async def test_each_status_has_its_error(status: int, kind: type[Exception], said: str) -> None:
    async with fake() as server, playing(server) as env:

        async def answer(request: web.Request, body: dict[str, Any]) -> Any:
            elsewhere = {"Location": "http://127.0.0.1:9/"} if status == 308 else {}
            return web.json_response({"detail": "broken"}, status=status, headers=elsewhere)

        server.answer_call = answer
        with pytest.raises(kind, match=said):
            await env.step(call("act"))


async def test_a_server_that_is_starting_is_asked_again() -> None:
    async with fake() as server:
        server.starting = 2
        async with playing(server) as env:
            assert (await env.state()).calls == 0
        server.starting = 100
        env = OpenRewardHost(server.url, start_timeout=0.15)
        with pytest.raises(EnvironmentRaised, match="starting"):
            await env.reset()
        await env.close()


async def test_the_key_goes_to_the_server_and_into_no_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(API_KEY, "the-key")
    async with fake() as server:
        server.prompt = 3
        env = OpenRewardHost(server.url)
        with pytest.raises(InvalidObservation) as caught:
            await env.reset()
        await env.close()
        assert "the-key" not in str(caught.value)
        assert {headers["X-API-Key"] for headers in server.headers} == {"the-key"}


async def test_an_episode_is_kept_alive_and_ended() -> None:
    async with fake() as server:
        async with playing(server, ping_interval=0.02):
            async with asyncio.timeout(10):
                await server.pings.wait()
        assert server.deleted == ["/delete", "/delete_session"]


async def test_a_server_that_is_gone_has_ended_the_session() -> None:
    async with fake() as server:
        env = OpenRewardHost(server.url)
        await env.reset()
    with pytest.raises(EnvironmentDied, match=r"cannot be reached|was lost|took the call"):
        await env.step(call("act"))
    await env.close()


async def test_a_server_that_does_not_answer_has_a_deadline() -> None:
    gone = asyncio.Event()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    listening = await asyncio.start_server(ignore, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        env = OpenRewardHost(f"http://127.0.0.1:{port}", timeout=0.1)
        with pytest.raises(EnvironmentDied, match=r"not answered in 0\.1 s"):
            await env.reset()
        await env.close()
        async with asyncio.timeout(10):
            await gone.wait()


def test_the_classes_options_are_the_operators_alone() -> None:
    assert OpenRewardHost.session_options == Environment.session_options == frozenset()
