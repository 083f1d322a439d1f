"""No orphans: whatever becomes of an owner, its containers go, and nobody else's do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openenv_async import EngineOptions
from openenv_async.client.launch import launch
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.owner import HOST, PID, RUN, STARTED, this_owner
from openenv_async.providers.docker.sweep import kept_containers, sweep
from openenv_async.server import HTTPEnvServer
from openenv_async.server.owner_lease import OwnerLease
from tests.behaviours.environments import Commanded
from tests.helpers import until
from tests.providers.engines import (
    BASE,
    SLEEP,
    docker,
    docker_tests,
    none_left,
    ours,
    owner_process,
    provider,
)
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests

# Starts containers, says what it has, and does nothing more; `lead` blocks its event loop.
OWNER = """
import asyncio, json, sys, time
from openenv_async.client.launch import launch
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.owner import this_owner

async def main():
    image, count, what, lease = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    options = {"command": ["sleep", "600"]} if what == "sleep" else {}
    provider = DockerProvider(image, memory="128m", pids=64, owner_lease=lease, **options)
    async with provider:
        begin = provider.start if what == "sleep" else lambda: launch(provider)
        workers = await asyncio.gather(*(begin() for _ in range(count)))
        names = [worker.name for worker in workers]
        about = {"run": this_owner().run, "reaper": provider.reaper_pid, "names": names}
        print(json.dumps(about), flush=True)
        if what == "stuck":
            time.sleep(600)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def is_alive(pid: object) -> bool:
    return Path(f"/proc/{pid}").exists()


async def told(process: asyncio.subprocess.Process) -> dict[str, object]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 120)
    about: dict[str, object] = json.loads(line)
    return about


async def test_kill_9_with_16_containers() -> None:
    """Some are paused, which no server inside could mend; another run's are not touched."""
    async with (
        provider(BASE, command=SLEEP) as others,
        owner_process(OWNER, (BASE, "16", "sleep", "600")) as owner,
    ):
        kept = await others.start()
        about = await told(owner)
        run, names = str(about["run"]), list(about["names"])  # type: ignore[call-overload]
        assert len(await asyncio.to_thread(ours, run)) == 16
        await asyncio.to_thread(docker, "pause", *names[:2])
        os.kill(owner.pid, signal.SIGKILL)
        await none_left(run, seconds=60.0)
        assert ours() == [kept.name]
        await until(lambda: not is_alive(about["reaper"]), seconds=60)


async def test_nobody_left_to_remove_it() -> None:
    """Owner and reaper killed together: the server ends because nobody renews its lease.

    Without our labels, so that nobody's sweep is quicker.
    """
    settings = ("-e", "OPENENV_TOKEN=t", "-e", "OPENENV_OWNER_LEASE=2", "--init")
    name = await asyncio.to_thread(docker, "run", "-d", *settings, "echo-env:latest")
    try:
        assert await asyncio.to_thread(docker, "wait", name) == "0"
        logged = await asyncio.to_thread(
            subprocess.run, ["docker", "logs", name], capture_output=True, timeout=60
        )
        assert b"nobody renewed the owner's lease" in logged.stderr
    finally:
        await asyncio.to_thread(docker, "rm", "-f", name)


async def test_a_stuck_owner_is_an_owner() -> None:
    """The reaper renews for it: its containers live on, many times the length of their lease."""
    async with owner_process(OWNER, ("echo-env:latest", "1", "stuck", "5")) as owner:
        about = await told(owner)
        renewed = ("logs", str(about["names"][0]))  # type: ignore[index]
        container = str(about["names"][0])  # type: ignore[index]
        seen = ("exec", container, "cat", "/proc/uptime")
        begun = float((await asyncio.to_thread(docker, *seen)).split()[0])
        # Several leases long: a look takes a while by itself.
        async with asyncio.timeout(120):
            while float((await asyncio.to_thread(docker, *seen)).split()[0]) < begun + 9:
                pass
        assert "nobody renewed" not in await asyncio.to_thread(docker, *renewed)
        owner.kill()
        await none_left(str(about["run"]), seconds=60.0)


async def test_a_reaper_that_is_killed_is_replaced() -> None:
    async with provider(BASE, command=SLEEP) as containers:
        await containers.start()
        first = containers.reaper_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: containers.reaper_pid not in (None, first), seconds=30)
    assert containers.reaper_pid is None


async def test_an_owner_that_ends_well_leaves_nothing_at_once() -> None:
    async with owner_process(OWNER, (BASE, "3", "sleep", "600")) as owner:
        about = await told(owner)
        assert owner.stdin is not None
        owner.stdin.write(b"\n")
        await asyncio.wait_for(owner.wait(), 60)
        assert ours(str(about["run"])) == []
        assert not is_alive(about["reaper"])


async def test_ctrl_c_is_the_owner_s_business() -> None:
    """The reaper has a session of its own: what ends the owner's does not end it first."""
    async with provider(BASE, command=SLEEP) as containers:
        await containers.start()
        assert containers.reaper_pid is not None
        assert os.getsid(containers.reaper_pid) == containers.reaper_pid != os.getsid(0)


def cases_left(made: dict[str, str]) -> set[str]:
    return {made[id] for id in set(made) & set(docker("ps", "-aq", "--no-trunc").split())}


async def test_the_sweep_removes_the_dead_s_and_nobody_else_s() -> None:
    owner = this_owner()
    mine = owner.labels(600)
    cases = {
        "alive": mine,
        "dead": {**mine, RUN: f"{owner.run}x", STARTED: "long ago"},
        "pid-gone": {**mine, RUN: f"{owner.run}x", PID: str(2**22 + 3)},
        "elsewhere": {**mine, RUN: f"{owner.run}x", HOST: "another"},
        "expired": {**mine, RUN: f"{owner.run}x", HOST: "another", "openenv_async.expires": "1"},
    }
    made = {}
    try:
        for case, labels in cases.items():
            flags = [
                part for name, value in labels.items() for part in ("--label", f"{name}={value}")
            ]
            made[docker("create", *flags, BASE, "true")] = case
        docker_engine = DockerClient(None, max_calls=4, redact=str)
        try:
            kept = {one.id: one for one in await kept_containers(docker_engine)}
            # Another process of this host may sweep the dead's before we look.
            assert {made[id]: kept[id].owner_state for id in made if id in kept} == {
                made[id]: {"alive": "alive", "elsewhere": "elsewhere", "expired": "elsewhere"}.get(
                    made[id], "gone"
                )
                for id in made
                if id in kept
            }
            await sweep(docker_engine)
            assert cases_left(made) == {"alive", "elsewhere", "expired"}
            await sweep(docker_engine, expired=True)
            assert cases_left(made) == {"alive", "elsewhere"}
        finally:
            await docker_engine.aclose()
    finally:
        for id in set(made) & set(docker("ps", "-aq", "--no-trunc").split()):
            docker("rm", "-f", id)


# -- the lease, without containers --------------------------------------------------------


async def test_a_lease_ends_without_a_sign_and_a_sign_renews_it() -> None:
    server = HTTPEnvServer(Commanded, options=EngineOptions(), token="t")
    expired = asyncio.Event()
    lease = OwnerLease(server, 2.0, expired.set)
    scope = {"headers": [(b"authorization", b"Bearer t")]}
    for _ in range(5):
        server.guard.check(scope)
        await asyncio.sleep(0.6)
        assert not expired.is_set()
    with pytest.raises(PermissionError):
        server.guard.check({"headers": []})
    await asyncio.wait_for(expired.wait(), 30)
    await lease.aclose()
    await server.aclose()


async def test_an_open_connection_holds_the_lease() -> None:
    server = HTTPEnvServer(Commanded, options=EngineOptions())
    expired = asyncio.Event()
    server.engine.stats.connections = 1
    lease = OwnerLease(server, 0.6, expired.set)
    await asyncio.sleep(1.8)
    assert not expired.is_set()
    server.engine.stats.connections = 0
    await asyncio.wait_for(expired.wait(), 30)
    await lease.aclose()
    await server.aclose()


async def test_serve_ends_with_its_lease() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openenv_async.cli", "serve", "echo", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENENV_OWNER_LEASE": "0.5"},
    )
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert re.search(rb"nobody renewed the owner's lease for 0.5 s", errors)


async def test_the_worker_is_not_swept_by_a_provider_of_the_same_run() -> None:
    async with provider() as one, provider() as other:
        first = await launch(one)
        await other.aclose()
        assert first.name in ours()
        assert not first.exited.done()
