"""Arrays in shared memory: right for as long as they are held, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import mmap
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openenv_async import EnvClient, Environment, Limits, Timeouts
from openenv_async.client.shared import SharedCodec
from openenv_async.client.sync import SyncEnvClient
from tests.behaviours.environments import gather, served
from tests.helpers import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")

SIZE = 50_000


@dataclass
class Film:
    """A picture: uint8 [50000]."""

    pixels: np.ndarray
    count: int


class Camera(Environment[int, Film, dict[str, Any]]):
    """A camera that films the action, always into the same array."""

    isolation = "inline"

    def __init__(self) -> None:
        self._pixels = np.zeros(SIZE, np.uint8)
        self._count = 0

    def reset(self) -> Film:
        self._count = 0
        return Film(self._pixels, 0)

    def step(self, action: int) -> Film:
        self._pixels[:] = action
        self._count += 1
        return Film(self._pixels, self._count)


class ThreadCamera(Camera):
    isolation = "thread"  # type: ignore[assignment]  # another one on purpose
    thread_safe = True


class ProcessCamera(Camera):
    isolation = "process"  # type: ignore[assignment]  # another one on purpose


def camera(url: str, **options: Any) -> EnvClient[int, Film, dict[str, Any]]:
    options.setdefault("timeouts", Timeouts(close=2.0))
    return EnvClient[int, Film, dict[str, Any]](url, **options)


def codec_of(client: Any) -> Any:
    return client.connection._codec


@pytest.mark.parametrize("env", [Camera, ThreadCamera, ProcessCamera])
async def test_sixteen_sessions_see_their_own_pictures(env: Any) -> None:
    async with served(env) as (url, engine):
        made = [camera(url) for _ in range(16)]
        await gather(client.reset() for client in made)

        async def play(client: Any, n: int) -> None:
            last: Any = None
            for step in range(30):
                value = (16 * step + n) % 256
                film = (await client.step(value)).observation
                assert (film.pixels == value).all()
                assert film.count == step + 1
                if last is not None:
                    assert (last[1] == last[0]).all()  # the one before is held, and is as it was
                last = value, film.pixels

        await gather(play(client, n) for n, client in enumerate(made))
        assert isinstance(codec_of(made[0]), SharedCodec)
        assert engine.stats.shared_payloads == 16 * 31
        assert engine.stats.bytes_out < 16 * 31 * 1000  # the socket carries the order
        await gather(client.close() for client in made)


async def test_a_reader_that_keeps_everything_gets_the_rest_by_the_socket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with served(Camera, limits=Limits(max_shared_size=1 << 20)) as (url, engine):
        client = camera(url)
        await client.reset()
        kept = [(await client.step(value)).observation for value in range(60)]
        assert [int(film.pixels[7]) for film in kept] == list(range(60))
        assert all((film.pixels == value).all() for value, film in enumerate(kept))
        assert 15 <= engine.stats.shared_payloads <= 20
        assert engine.stats.shared_full >= 40
        assert caplog.text.count("Limits.max_shared_size") == 1
        kept.clear()
        full = engine.stats.shared_full
        for value in range(100):  # and once it lets go, none does
            assert ((await client.step(value)).observation.pixels == value).all()
        assert engine.stats.shared_full == full
        await client.close()


async def test_pictures_outlive_their_server_and_their_client() -> None:
    async with served(Camera) as (url, _):
        client = camera(url)
        await client.reset()
        films = [(await client.step(value)).observation for value in range(3)]
        await client.close()
    assert all((film.pixels == value).all() for value, film in enumerate(films))
    with pytest.raises(ValueError, match="read-only"):
        films[0].pixels[0] = 1


@pytest.mark.parametrize("either", [{"limits": Limits(max_shared_size=0)}, {"local": False}])
async def test_a_client_may_do_without(either: dict[str, Any]) -> None:
    async with served(Camera) as (url, engine):
        client = camera(url, **either)
        await client.reset()
        assert ((await client.step(9)).observation.pixels == 9).all()
        assert not isinstance(codec_of(client), SharedCodec)
        assert not engine.stats.shared_payloads
        await client.close()


@pytest.mark.parametrize("end", ["server", "client"])
async def test_an_end_that_may_not_falls_back_with_one_line(
    end: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    if end == "server":
        monkeypatch.setattr(os, "memfd_create", refused)
    else:
        real = mmap.mmap

        class Refusing(real):  # type: ignore[misc,valid-type]  # a C class
            def __new__(cls, *arguments: Any, **options: Any) -> Any:
                return refused() if "access" in options else real(*arguments, **options)

        monkeypatch.setattr(mmap, "mmap", Refusing)
    caplog.set_level(logging.INFO, "openenv_async.memory")
    async with served(Camera) as (url, engine):
        client = camera(url)
        await client.reset()
        for value in range(5):
            assert ((await client.step(value)).observation.pixels == value).all()
        assert not engine.stats.shared_payloads
        [record] = [r for r in caplog.records if r.name == "openenv_async.memory"]
        assert "payloads go by the socket" in record.getMessage()
        await client.close()


async def test_an_episode_goes_on_over_tcp_and_back() -> None:
    async with served(Camera) as (url, engine):
        client = camera(url)
        await client.reset()
        first = (await client.step(1)).observation
        assert isinstance(codec_of(client), SharedCodec)
        connection: Any = client.connection
        for value in (2, 3, 4):
            before = connection.reconnects
            waiting = asyncio.create_task(client.step(value))
            await asyncio.sleep(0)
            connection._transport._transport.abort()
            film = (await waiting).observation
            assert connection.reconnects == before + 1
            assert (film.pixels == value).all()
            assert film.count == value  # each ran once
        assert (first.pixels == 1).all()  # of a segment that nobody else has any more
        assert isinstance(codec_of(client), SharedCodec)
        assert engine.stats.resumed == 3
        await client.close()


def test_a_client_for_threads_has_views_too() -> None:
    async def serve_for(ready: Any, ending: Any) -> None:
        async with served(Camera) as (url, _):
            ready(url)
            await asyncio.get_running_loop().run_in_executor(None, ending)

    import threading
    from queue import SimpleQueue

    urls: SimpleQueue[str] = SimpleQueue()
    over = threading.Event()
    server = threading.Thread(target=lambda: asyncio.run(serve_for(urls.put, over.wait)))
    server.start()
    try:
        client: SyncEnvClient[int, Film, dict[str, Any]] = camera(urls.get(timeout=20)).sync()
        with client:
            client.reset()
            films = [client.step(value).observation for value in range(8)]
        assert all((film.pixels == value).all() for value, film in enumerate(films))
    finally:
        over.set()
        server.join()


SERVER = """
import asyncio, sys
from openenv_async import serve
from tests.behaviours.test_shared_memory import Camera

async def main():
    async with serve(Camera) as url:
        print(url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""

CLIENT = """
import asyncio, sys
from tests.behaviours.test_shared_memory import camera, codec_of

async def main():
    client = camera(sys.argv[1])
    await client.reset()
    films = [(await client.step(value)).observation for value in range(5)]
    print(type(codec_of(client)).__name__, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def started(code: str, *arguments: str) -> tuple[Any, str]:
    """A process, and the first line that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = await process.stdout.readline()
    return process, line.decode().strip()


async def ended(process: Any) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
    process._transport.close()  # else it warns when collected


def shared_by(pid: int) -> int:
    """KiB of shared memory that are resident in a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return int(line.split()[1])
    return 0


async def test_a_killed_client_leaves_nothing() -> None:
    names = set(os.listdir("/dev/shm"))
    server, url = await started(SERVER)
    idle = shared_by(server.pid)
    for _ in range(3):
        client, codec = await started(CLIENT, url)
        assert codec == "SharedCodec"
        assert shared_by(server.pid) > idle
        os.kill(client.pid, signal.SIGKILL)
        await ended(client)
        await until(lambda: _memfds(server.pid) == 0)
        assert shared_by(server.pid) <= idle
    assert set(os.listdir("/dev/shm")) <= names
    await ended(server)


async def test_a_killed_server_leaves_nothing_but_what_the_client_holds() -> None:
    gc.collect()
    before = _memfds(os.getpid())  # tests before this one may hold some
    names = set(os.listdir("/dev/shm"))
    server, url = await started(SERVER)
    client = camera(url, timeouts=Timeouts(connect=1.0, close=1.0))
    await client.reset()
    film = (await client.step(5)).observation
    os.kill(server.pid, signal.SIGKILL)
    await ended(server)
    await noticed(client)
    assert set(os.listdir("/dev/shm")) <= names
    assert (film.pixels == 5).all()
    await client.close()
    del film, client
    gc.collect()
    assert _memfds(os.getpid()) <= before


async def noticed(client: Any) -> None:
    """Return once a client knows that its server is gone."""
    await until(lambda: not client.connection.up)


def _memfds(pid: int) -> int:
    """Segments that a process has open or mapped."""
    found = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        found += "memfd:openenv" in line
    return found
