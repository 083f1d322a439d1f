"""One Timeouts object; every field from Python, environment and command line."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import threading
import time
from typing import Any

import pytest
from click.testing import CliRunner

from openenv_async import (
    EngineOptions,
    Environment,
    GenericEnvClient,
    HTTPEnvClient,
    Timeouts,
    connect,
    serve,
)
from openenv_async.errors import ConnectFailed, DeadlineExceeded, SessionClosed, SessionLost
from openenv_async.providers.local_server import LocalServer
from openenv_async.testing import ConformanceEnvironment

FIELDS = [field.name for field in dataclasses.fields(Timeouts)]


class Slow(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Hangs wherever it is told to, until it is stopped."""

    session_options = frozenset({"hang"})

    def __init__(self, hang: str = "") -> None:
        self.hang = hang

    async def _maybe(self, what: str) -> None:
        if self.hang == what:
            await asyncio.Event().wait()

    async def reset(self) -> dict[str, Any]:
        await self._maybe("reset")
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        await self._maybe("step")
        return {}

    async def state(self) -> dict[str, Any]:
        await self._maybe("state")
        return {}


# -- one object ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_from_python(name: str) -> None:
    assert getattr(Timeouts(**{name: 1.5}), name) == 1.5
    assert getattr(Timeouts().replace(**{name: None}), name) is None
    for wrong in (0, -1.0, True, "5", float("nan")):
        with pytest.raises(ValueError, match=name):
            Timeouts(**{name: wrong})  # type: ignore[arg-type]  # some are wrong types


def test_an_unknown_field() -> None:
    with pytest.raises(TypeError, match="stpe"):
        Timeouts().replace(stpe=1.0)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_from_the_environment(name: str) -> None:
    variable = f"OPENENV_TIMEOUT_{name.upper()}"
    assert getattr(Timeouts.from_environ({variable: "2.5"}), name) == 2.5
    assert getattr(Timeouts.from_environ({variable: "none"}), name) is None
    assert Timeouts.from_environ({"OTHER": "1"}) == Timeouts()
    with pytest.raises(ValueError, match=variable):
        Timeouts.from_environ({variable: "soon"})


def test_every_field_that_a_server_has_is_an_option() -> None:
    from openenv_async.cli import main

    shown = CliRunner().invoke(main, ["serve", "--help"]).output
    for name in FIELDS:
        if name != "connect":
            assert f"--{name}-timeout" in shown


# -- it is carried and it holds -----------------------------------------------------------


@pytest.mark.parametrize("field", ["reset", "step", "state"])
@pytest.mark.parametrize("client", [GenericEnvClient, HTTPEnvClient])
async def test_the_clients_timeout_is_the_servers_deadline(field: str, client: Any) -> None:
    options = EngineOptions(timeouts=Timeouts(**{field: None}))
    timeouts = Timeouts(**{field: 0.1})
    async with (
        serve(Slow, options=options) as url,
        client(url, options={"hang": field}, timeouts=timeouts) as env,
    ):
        calls = {"reset": env.reset, "step": lambda: env.step({}), "state": env.state}
        if field != "reset":
            await env.reset()
        begun = time.perf_counter()
        with pytest.raises(DeadlineExceeded, match=f"Timeouts.{field}") as caught:
            await calls[field]()
        assert time.perf_counter() - begun < 3
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.detail["field"], caught.value.detail["value"]) == (field, 0.1)


@pytest.mark.parametrize("field", ["reset", "step", "state"])
async def test_one_call_may_have_its_own(field: str) -> None:
    async with connect(Slow, options=EngineOptions()) as env:
        await env.reset()
        calls: dict[str, Any] = {
            "reset": env.reset,
            "step": lambda timeout: env.step({}, timeout=timeout),
            "state": env.state,
        }
        await calls[field](timeout=5.0)
    async with serve(Slow) as url, GenericEnvClient(url, options={"hang": field}) as client:
        if field != "reset":
            await client.reset()
        calls = {
            "reset": client.reset,
            "step": lambda timeout: client.step({}, timeout=timeout),
            "state": client.state,
        }
        with pytest.raises(DeadlineExceeded) as caught:
            await calls[field](timeout=0.05)
        assert caught.value.detail["value"] == 0.05


async def test_opening_has_a_deadline() -> None:
    gate = threading.Event()

    class Stuck(Slow):
        isolation = "thread"

        def __init__(self) -> None:
            gate.wait(30)

        def reset(self) -> dict[str, Any]:  # type: ignore[override]  # sync on purpose
            return {}

        def step(self, action: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
            return {}

        def state(self) -> dict[str, Any]:  # type: ignore[override]
            return {}

    try:
        async with serve(Stuck) as url:
            with pytest.raises(DeadlineExceeded) as caught:
                await GenericEnvClient(url, timeouts=Timeouts(open=0.1)).open()
            assert (caught.value.detail["field"], caught.value.detail["value"]) == ("open", 0.1)
    finally:
        gate.set()


async def test_connecting_has_a_deadline() -> None:
    with socket.socket() as listener:  # takes connections and says nothing
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        begun = time.perf_counter()
        with pytest.raises(ConnectFailed, match=r"Timeouts\.connect") as caught:
            await GenericEnvClient(url, timeouts=Timeouts(connect=0.1)).open()
        assert "0.1 s" in str(caught.value)
        assert time.perf_counter() - begun < 3


async def test_the_whole_episode_has_a_deadline() -> None:
    options = EngineOptions(timeouts=Timeouts(episode=0.2))
    async with serve(ConformanceEnvironment, options=options) as url, GenericEnvClient(url) as env:
        for _ in range(2):
            await env.reset()
            await env.step({"command": "echo"})
            with pytest.raises(DeadlineExceeded, match=r"Timeouts\.episode") as caught:
                await env.step({"command": "sleep", "value": 60.0})
            assert caught.value.detail["field"] == "episode"
            assert caught.value.detail["value"] == 0.2


async def test_an_idle_session_is_closed() -> None:
    options = EngineOptions(timeouts=Timeouts(idle=0.1))
    async with serve(ConformanceEnvironment, options=options) as url, GenericEnvClient(url) as env:
        await env.reset()
        await asyncio.sleep(0.5)
        with pytest.raises((SessionClosed, SessionLost), match=r"Timeouts\.idle") as caught:
            await env.step({"command": "echo"})
        assert caught.value.detail["field"] == "idle"


async def test_none_means_no_deadline() -> None:
    options = EngineOptions(timeouts=Timeouts(step=None))
    async with (
        serve(ConformanceEnvironment, options=options) as url,
        GenericEnvClient(url, timeouts=Timeouts(step=None)) as env,
    ):
        await env.reset()
        await env.step({"command": "sleep", "value": 0.3})


@pytest.mark.parametrize("asked", [None, 60.0])
async def test_a_client_cannot_lift_the_servers_deadline(asked: float | None) -> None:
    options = EngineOptions(timeouts=Timeouts(step=0.05))
    async with (
        serve(ConformanceEnvironment, options=options) as url,
        GenericEnvClient(url, timeouts=Timeouts(step=asked)) as env,
    ):
        await env.reset()
        with pytest.raises(DeadlineExceeded, match=r"Timeouts\.step of the server"):
            await env.step({"command": "sleep", "value": 30})


async def test_the_command_line_reaches_the_server() -> None:
    target = "openenv_async.testing:ConformanceEnvironment"
    async with (
        LocalServer(target, arguments=("--step-timeout", "0.1")) as server,
        GenericEnvClient(server.url) as env,
    ):
        assert env.connection is not None
        assert env.connection.server["timeouts"]["step"] == 0.1


async def test_the_environment_variable_reaches_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = dict(os.environ)
    monkeypatch.setenv("OPENENV_TIMEOUT_STEP", "0.25")
    async with (
        LocalServer("openenv_async.testing:ConformanceEnvironment") as server,
        GenericEnvClient(server.url) as env,
    ):
        assert env.connection is not None
        assert env.connection.server["timeouts"]["step"] == 0.25
    monkeypatch.undo()
    assert dict(os.environ) == before
