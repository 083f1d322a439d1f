"""Running a server in a loop and as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading

import pytest

from openenv_async import GenericEnvClient, serve
from openenv_async.errors import OpenEnvError
from openenv_async.server import create_app
from openenv_async.serving import listen, loop_factory, run_server
from openenv_async.spec import EnvironmentSpec
from tests.rollouts.environments import Counting, Hanging


async def test_a_spec_an_app_and_a_class_can_be_served() -> None:
    for env in (Counting, EnvironmentSpec(Counting), create_app(Counting)):
        async with serve(env) as url, GenericEnvClient(url) as client:
            assert (await client.reset(seed=3)).observation == {"total": 0, "seed": 3}


async def test_a_port_and_a_host_can_be_chosen() -> None:
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    async with serve(Counting, host="localhost", port=port) as url:
        assert url == f"http://localhost:{port}"
        async with GenericEnvClient(url) as client:
            await client.reset()


async def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listen("::1", 0).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with serve(Counting, host="::1") as url, GenericEnvClient(url) as client:
        assert url.startswith("http://[::1]:")
        await client.reset()


async def test_a_taken_port_is_an_error_and_leaves_nothing() -> None:
    async with serve(Counting) as url:
        with pytest.raises(OSError, match="in use"):
            async with serve(Counting, port=int(url.rpartition(":")[2])):
                pass


async def test_stopping_tells_the_clients_and_closes_the_environments() -> None:
    closed = Hanging.closed
    async with serve(Hanging) as url:
        client = await GenericEnvClient(url).open()
        await client.reset(seed=1)
        stuck = asyncio.create_task(client.step({"amount": 1}))
        connection = client.connection
        assert connection is not None
        await asyncio.sleep(0)
    assert connection.going_away is not None
    with pytest.raises(OpenEnvError):
        await stuck
    assert Hanging.closed == closed + 1
    await client.close()


def test_a_server_of_its_own_stops_at_a_signal() -> None:
    urls: list[str] = []

    def listening(url: str) -> None:
        urls.append(url)
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    for uvloop in (False, None):
        run_server(Counting, port=0, on_listening=listening, uvloop=uvloop)
    assert len(urls) == 2


def test_a_server_ends_with_its_standard_input() -> None:
    reading, writing = os.pipe()
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        run_server(
            Counting,
            port=0,
            until_stdin_closes=True,
            on_listening=lambda url: os.close(writing),
        )
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)


def test_the_loop_can_be_chosen() -> None:
    assert loop_factory(False) is None
    pytest.importorskip("uvloop")
    for wish in (None, True):
        make = loop_factory(wish)
        assert make is not None
        assert make.__module__ == "uvloop"
