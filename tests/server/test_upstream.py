from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from openenv_async import EngineOptions, Environment, Limits, StepResult, create_app, serve


class Talk(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    isolation = "inline"
    closed = 0

    def reset(self, seed: int | None = None, level: int = 1) -> dict[str, Any]:
        self.steps = 0
        return {"echo": f"level {level} seed {seed}", "done": False}

    def step(self, action: dict[str, Any]) -> Any:
        if "boom" in action:
            raise ValueError(action["boom"])
        self.steps += 1
        if "info" in action:
            return StepResult({"echo": "told"}, info={"why": 1})
        return {"echo": action["say"], "reward": 2, **action.get("extra", {})}

    def state(self) -> dict[str, Any]:
        return {"total": 0.5, "episode_id": None}

    def close(self) -> None:
        type(self).closed += 1


class Typed(Environment[Any, Any, Any]):
    isolation = "inline"

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: int) -> list[int]:
        return [action]

    def state(self) -> str:
        return "fine"


class Broken(Talk):
    def __init__(self) -> None:
        raise RuntimeError("no display")


class Gated(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    entered: asyncio.Event
    ended: asyncio.Event

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.entered.set()
        await asyncio.Event().wait()
        return {}

    async def close(self) -> None:
        self.ended.set()


@asynccontextmanager
async def talking(url: str) -> AsyncIterator[ClientConnection]:
    async with connect(url.replace("http", "ws") + "/ws", proxy=None) as socket:
        yield socket


async def ask(socket: ClientConnection, message: Any) -> dict[str, Any]:
    await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
    reply: dict[str, Any] = json.loads(await socket.recv())
    return reply


async def test_an_episode() -> None:
    Talk.closed = 0
    async with serve(Talk) as url, talking(url) as socket:
        assert socket.subprotocol is None
        assert await ask(
            socket, {"type": "reset", "data": {"seed": 42, "episode_id": "ep-7", "level": 2}}
        ) == {
            "type": "observation",
            "data": {
                "observation": {"metadata": {}, "echo": "level 2 seed 42"},
                "reward": None,
                "done": False,
            },
        }
        assert await ask(socket, {"type": "step", "data": {"say": "hello"}}) == {
            "type": "observation",
            "data": {
                "observation": {"metadata": {}, "echo": "hello"},
                "reward": 2.0,
                "done": False,
            },
        }
        assert await ask(socket, {"type": "state"}) == {
            "type": "state",
            "data": {"episode_id": "ep-7", "step_count": 1, "total": 0.5},
        }
        await socket.send('{"type":"close"}')
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1000
        assert Talk.closed == 1


async def test_metadata_stands_where_upstream_has_it() -> None:
    async with serve(Talk) as url, talking(url) as socket:
        await ask(socket, {"type": "reset"})
        extra = {"metadata": {"m": 1}, "done": True}
        reply = await ask(socket, {"type": "step", "data": {"say": "x", "extra": extra}})
        assert reply["data"] == {
            "observation": {"metadata": {"m": 1}, "echo": "x"},
            "reward": 2.0,
            "done": True,
            "metadata": {"m": 1},
        }
        await ask(socket, {"type": "reset"})
        told = await ask(socket, {"type": "step", "data": {"info": True}})
        assert told["data"]["metadata"] == told["data"]["observation"]["metadata"] == {"why": 1}
        assert told["data"]["reward"] is None


class NamedAlike(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Observations with keys that only have the names of a reward and an end."""

    isolation = "inline"

    def reset(self) -> Any:
        return StepResult({"done": [], "reward": {"gold": 1}})

    def step(self, action: dict[str, Any]) -> Any:
        return StepResult(action["seen"], action.get("reward"), action.get("ends", False))


@pytest.mark.parametrize(
    ("seen", "reward", "kept"),
    [
        ({"done": ["a"], "reward": {"gold": 2}}, 1.0, {"done": ["a"], "reward": {"gold": 2}}),
        ({"done": "in a minute", "reward": "NaN"}, 1.0, {"done": "in a minute", "reward": "NaN"}),
        ({"done": 7, "reward": 5}, 1.0, {"done": 7, "reward": 5}),
        ({"done": True, "reward": None}, 1.0, {"done": True}),
        ({"done": False, "reward": 1}, 1.0, {}),
        ({"done": None, "reward": None}, None, {}),
        ({"done": 0, "reward": 0.1}, 0.10000000149011612, {}),
    ],
)
async def test_keys_that_are_not_what_stands_beside_the_observation_stay(
    seen: dict[str, Any], reward: float | None, kept: dict[str, Any]
) -> None:
    async with serve(NamedAlike) as url:
        async with talking(url) as client:
            begun = await ask(client, {"type": "reset"})
            body = await ask(client, {"type": "step", "data": {"seen": seen, "reward": reward}})
        assert begun["data"]["observation"] == {"metadata": {}, "done": [], "reward": {"gold": 1}}
        assert body["data"]["observation"] == {"metadata": {}, **kept}
        assert body["data"]["reward"] == reward
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            await http.post("/reset")
            got = await http.post("/step", json={"action": {"seen": seen, "reward": reward}})
        assert got.json()["observation"] == kept


async def test_values_that_are_no_objects() -> None:
    async with serve(Typed, int, list[int], str) as url, talking(url) as socket:
        await ask(socket, {"type": "reset"})
        state = await ask(socket, {"type": "state"})
        assert state["data"]["state"] == "fine"
        refused = await ask(socket, {"type": "step", "data": 3})
        assert refused["data"]["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("bad", "INVALID_JSON"),
        ('{"type":"step","data":' + "[" * 10_000, "INVALID_JSON"),
        ({"type": "dance"}, "UNKNOWN_TYPE"),
        ({}, "UNKNOWN_TYPE"),
        ({"type": [1]}, "UNKNOWN_TYPE"),
        ({"type": "step"}, "VALIDATION_ERROR"),
        ({"type": "step", "data": [1]}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"say": "x"}, "id": 3}, "VALIDATION_ERROR"),
        ({"type": "state", "data": {}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": None}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"seed": -1}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"level": "high"}}, "VALIDATION_ERROR"),
        ("[1]", "SESSION_ERROR"),
        (b"{}", "SESSION_ERROR"),
    ],
)
async def test_a_bad_message_costs_an_error_and_not_the_episode(message: Any, code: str) -> None:
    async with serve(Talk) as url, talking(url) as socket:
        await ask(socket, {"type": "reset"})
        reply = await ask(socket, message)
        assert reply["type"] == "error"
        assert reply["data"]["code"] == code
        assert reply["data"]["message"]
        if code == "VALIDATION_ERROR":
            [item] = reply["data"]["errors"]
            assert set(item) == {"type", "loc", "msg"}
        stepped = await ask(socket, {"type": "step", "data": {"say": "on"}})
        assert stepped["data"]["observation"]["echo"] == "on"


async def test_what_the_environment_raises() -> None:
    async with serve(Talk) as url, talking(url) as socket:
        await ask(socket, {"type": "reset"})
        reply = await ask(socket, {"type": "step", "data": {"boom": "boom in step"}})
        assert reply == {
            "type": "error",
            "data": {"message": "boom in step", "code": "EXECUTION_ERROR"},
        }
        assert (await ask(socket, {"type": "step", "data": {"say": "x"}}))["type"] == "observation"


class Counts(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """A count of its steps since it was made."""

    isolation: ClassVar[Literal["inline", "thread", "process"]] = "inline"

    def __init__(self) -> None:
        self.steps = 0

    def reset(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def step(self, action: dict[str, Any]) -> Any:
        self.steps += 1
        return StepResult({"steps": self.steps}, 1.0, terminated="end" in action)

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}


class CountsInThread(Counts):
    isolation = "thread"


class CountsInProcess(Counts):
    isolation = "process"


class CountsInTask(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    def __init__(self) -> None:
        self.steps = 0

    async def reset(self) -> dict[str, Any]:
        return {"steps": self.steps}

    async def step(self, action: dict[str, Any]) -> Any:
        self.steps += 1
        return StepResult({"steps": self.steps}, 1.0, terminated="end" in action)

    async def state(self) -> dict[str, Any]:
        return {"steps": self.steps}


@pytest.mark.parametrize("env", [Counts, CountsInThread, CountsInProcess, CountsInTask])
async def test_steps_outside_an_episode_are_the_environments_to_judge(env: Any) -> None:
    async with serve(env) as url, talking(url) as socket:

        async def step(**action: Any) -> tuple[int, bool]:
            data = (await ask(socket, {"type": "step", "data": action}))["data"]
            return data["observation"]["steps"], data["done"]

        assert await step() == (1, False)
        assert await step(end=True) == (2, True)
        assert await step(end=True) == (3, True)
        assert await step() == (4, False)
        assert (await ask(socket, {"type": "reset"}))["data"]["observation"]["steps"] == 4
        assert await step() == (5, False)
        assert (await ask(socket, {"type": "state"}))["data"]["steps"] == 5


async def test_a_native_client_cannot_ask_for_steps_outside_an_episode() -> None:
    async with serve(Counts) as url:
        address = url.replace("http", "ws") + "/ws"
        native: Any = ["openenv.v1.json"]
        async with connect(address, subprotocols=native, proxy=None) as socket:
            await socket.send(
                json.dumps(
                    [
                        [0, 1, None],
                        [1, 1, "a" * 32, "b" * 32, False, 0, None, None, None, None, True],
                        [3, 1, 1, 0, {}, None, 0],
                    ]
                )
            )
            failed: list[Any] = []
            while not failed:
                failed = [frame for frame in json.loads(await socket.recv()) if frame[0] == 40]
    assert failed[0][3] == "episode_not_started"


async def test_capacity_is_refused_unprompted() -> None:
    async with serve(Talk, options=EngineOptions(max_sessions=1)) as url, talking(url) as first:
        await ask(first, {"type": "reset"})
        async with talking(url) as second:
            reply = json.loads(await second.recv())
            assert reply["data"]["code"] == "CAPACITY_REACHED"
            assert reply["data"]["active_sessions"] == reply["data"]["max_sessions"] == 1
            assert reply["data"]["message"].startswith("Server at capacity: 1/1 sessions active.")
            with pytest.raises(ConnectionClosed) as caught:
                await second.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1000


async def test_an_environment_that_cannot_be_built() -> None:
    async with serve(Broken) as url, talking(url) as socket:
        reply = json.loads(await socket.recv())
        assert reply["data"]["code"] == "FACTORY_ERROR"
        assert reply["data"]["factory_name"] == "Broken"
        assert "no display" in reply["data"]["message"]
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_undeclared_options_are_dropped_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "openenv_async.server"):
        async with serve(Talk) as url, talking(url) as socket, talking(url) as other:
            message = {"type": "reset", "data": {"volume": 11, "level": 5}}
            for one in (socket, socket, other):
                reply = await ask(one, message)
                assert reply["data"]["observation"]["echo"].startswith("level 5")
    [record] = caplog.records
    assert "'volume'" in record.getMessage()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serve(Talk) as url, talking(url) as socket:
        await socket.send('{"type":"reset"}')
        for n in range(20):
            await socket.send(json.dumps({"type": "step", "data": {"say": n}}))
        await socket.recv()
        for n in range(20):
            assert json.loads(await socket.recv())["data"]["observation"]["echo"] == n


async def test_a_flood_is_answered_in_order_within_bounds() -> None:
    options = EngineOptions(limits=Limits(max_message_size=2000))
    async with serve(Talk, options=options) as url, talking(url) as socket:
        await ask(socket, {"type": "reset"})
        text = "x" * 1000

        async def flood() -> None:
            for _ in range(30):
                await socket.send(json.dumps({"type": "step", "data": {"say": text}}))

        sending = asyncio.ensure_future(flood())
        for _ in range(30):
            assert json.loads(await socket.recv())["data"]["observation"]["echo"] == text
        await sending


async def test_a_disconnect_stops_the_running_step() -> None:
    Gated.entered, Gated.ended = asyncio.Event(), asyncio.Event()
    app = create_app(Gated)
    async with serve(app) as url:
        async with talking(url) as socket:
            await ask(socket, {"type": "reset"})
            await socket.send('{"type":"step","data":{}}')
            await Gated.entered.wait()
        async with asyncio.timeout(10):
            await Gated.ended.wait()
    assert not app.state.openenv.engine.sessions


async def test_the_server_says_that_it_stops() -> None:
    async with serve(Talk) as url:
        socket = await connect(url.replace("http", "ws") + "/ws", proxy=None)
        await ask(socket, {"type": "reset"})
    messages = [json.loads(message) async for message in socket]
    assert [message["data"]["code"] for message in messages] == ["SESSION_ERROR"]
    await socket.close()


class WithoutTransport:
    """An application behind a server that has no transport to offer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.get("extensions", {}).pop("openenv.transport", None)
        await self.app(scope, receive, send)


@pytest.mark.parametrize("direct", [True, False], ids=["transport", "asgi"])
async def test_a_burst_beyond_what_may_wait_is_answered_in_order(direct: bool) -> None:
    limits = Limits(max_message_size=4096, max_unsent_size=8192)

    app = create_app(Talk, options=EngineOptions(limits=limits))
    if not direct:
        app.add_middleware(WithoutTransport)
    async with serve(app) as url, talking(url) as socket:
        await socket.send(json.dumps({"type": "reset"}))
        await socket.recv()
        for number in range(200):
            await socket.send(json.dumps({"type": "step", "data": {"say": number}}))

        replies = [json.loads(await socket.recv()) for _ in range(200)]

    assert [reply["data"]["observation"]["echo"] for reply in replies] == [*range(200)]
