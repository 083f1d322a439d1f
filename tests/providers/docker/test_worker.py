"""Containers as workers and as a client's own: life, death, and what callers are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from typing import Any

import pytest

from openenv_async import EnvClient, GenericEnvClient, HTTPEnvClient, SyncEnvClient
from openenv_async.client.launch import launch, wait_ready
from openenv_async.errors import DeadlineExceeded, OpenEnvError, WorkerDied, WorkerStartFailed
from openenv_async.pool import EnvPool
from openenv_async.providers.docker import DockerProvider, DockerWorker
from openenv_async.providers.docker.worker import exit_of
from tests.providers.engines import (
    BASE,
    ECHO,
    SLEEP,
    Proxy,
    docker,
    docker_tests,
    labels_of,
    none_left,
    ours,
    provider,
)

pytestmark = docker_tests

SMALL: dict[str, Any] = {"memory": "256m", "cpus": 1.0}
EAT_MEMORY = (
    "import sys, time; print('hungry', flush=True); time.sleep(1.0); x = bytearray(2**30);"
    " x[::4096] = b'x' * len(x[::4096])"
)


async def test_start_step_stop() -> None:
    async with provider() as containers:
        worker = await launch(containers)
        assert isinstance(worker, DockerWorker)
        assert worker.published_url.startswith("http://127.0.0.1:")
        assert worker.name in ours()
        async with GenericEnvClient(worker.url, token=worker.token) as env:
            await env.reset()
            assert (await env.step({"message": "hi"})).observation["echo"] == "Echo: hi"
        assert "echo" in await worker.log_tail()
        await worker.aclose()
        await worker.aclose()
        assert ours() == []
        assert not worker.exited.done()


@pytest.mark.parametrize("direct", [True, False])
async def test_the_way_into_a_container(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its own address, or by a port of this machine; by a proxy never."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with provider(direct=direct) as containers:
        worker = await launch(containers)
        assert isinstance(worker, DockerWorker)
        address = await asyncio.to_thread(
            docker, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", worker.name
        )
        expected = f"http://{address.strip()}:8000" if direct else worker.published_url
        assert worker.url == expected
        for url in {worker.url, worker.published_url}:
            async with GenericEnvClient(url, token=worker.token) as env:
                await env.reset()
            async with HTTPEnvClient[Any, Any, Any](url, token=worker.token) as env:
                await env.reset()


async def test_killed_between_steps_and_the_client_knows_at_once() -> None:
    env = await GenericEnvClient.from_docker_image(ECHO, **SMALL)
    try:
        await env.reset()
        name = ours()[0]
        stepping = asyncio.ensure_future(env.step({"message": "x"}))
        await stepping
        await asyncio.to_thread(docker, "kill", name)
        at = time.monotonic()
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            await env.step({"message": "y"})
        assert time.monotonic() - at < 10
        error = caught.value
        assert (error.exit_code, error.oom) == (137, False)
        assert "echo 1.0.0" in (error.log_tail or "")
        assert error.container_id
        with pytest.raises(WorkerDied):
            await env.reset()
    finally:
        await env.close()
    assert ours() == []


async def dies(worker: DockerWorker) -> Any:
    return await asyncio.wait_for(asyncio.shield(worker.exited), 30)


async def test_killed_for_its_memory() -> None:
    async with provider(
        BASE, command=["python", "-c", EAT_MEMORY], memory="64m", user="10001"
    ) as containers:
        ended = await dies(await containers.start())
        assert ended.oom is True
        assert ended.exit_code == 137
        assert "memory (limit 64m)" in ended.reason
        assert ended.log_tail == "hungry"


async def test_its_lines_are_taken_while_it_runs() -> None:
    code = "import time\nfor n in range(3): print('line', n, flush=True)\ntime.sleep(60)"
    taken: list[str] = []
    done = asyncio.Event()

    def take(line: str) -> None:
        taken.append(line)
        if line == "line 2":
            done.set()

    async with provider(BASE, command=["python", "-c", code]) as containers:
        worker = await containers.start()
        async with worker.following(take):
            await asyncio.wait_for(done.wait(), 30)
    assert taken == ["line 0", "line 1", "line 2"]


async def test_it_ends_by_itself_with_words() -> None:
    # One stream: the Engine does not keep the order of two.
    words = "import sys; print('one', file=sys.stderr); sys.exit('the last words')"
    async with provider(BASE, command=["python", "-c", words]) as containers:
        with pytest.raises(WorkerStartFailed) as caught:
            await launch(containers, timeout=60)
        assert caught.value.exit_code == 1
        assert "the last words" in (caught.value.log_tail or "")
        assert caught.value.message.endswith("its log ends with: one | the last words")
    await none_left()


async def test_a_child_killed_for_its_memory_is_not_why_the_container_ended() -> None:
    code = (
        f"import subprocess, sys; print(subprocess.call([sys.executable, '-c', {EAT_MEMORY!r}]));"
        "sys.exit('no licence')"
    )
    async with provider(
        BASE, command=["python", "-uc", code], memory="64m", user="10001"
    ) as containers:
        ended = await dies(await containers.start())
        assert (ended.exit_code, ended.oom) == (1, False)
        assert ended.reason.startswith("its container exited with code 1; a process in it")
        assert ended.log_tail is not None  # of two streams, whose order the Engine does not keep
        assert sorted(ended.log_tail.splitlines()) == ["-9", "hungry", "no licence"]


async def test_the_cause_of_a_start_that_failed_stands_in_the_message_everywhere() -> None:
    """A server whose environment cannot be imported, by the client and by the pool."""
    bad = ["openenv-async", "serve", "no_such_module:Environment", "--host", "0.0.0.0"]
    async with provider(BASE, command=bad) as containers:
        with pytest.raises(WorkerStartFailed, match=r"its log ends with: .*no_such_module"):
            await launch(containers, timeout=60)
    with pytest.raises(OpenEnvError, match=r"its log ends with: .*no_such_module"):
        async with EnvPool(provider(BASE, command=bad), max_workers=1):
            pass
    await none_left()


async def test_what_a_server_had_started_ends_with_it() -> None:
    """Also processes in a session of their own, when the server is killed."""
    code = (
        "import os, subprocess, time; p = subprocess.Popen(['sleep', '600'], start_new_session=1);"
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    async with provider(BASE, command=["python", "-uc", code]) as containers:
        worker = await containers.start()
        while not (pid := await worker.log_tail()):  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.05)
        listed = await asyncio.to_thread(docker, "top", worker.name, "-eo", "pid,args")
        sleeping = [line.split()[0] for line in listed.splitlines() if "sleep 600" in line]
        assert len(sleeping) == 1
        with contextlib.suppress(subprocess.CalledProcessError):  # it may die with the container
            kill = f"import os; os.kill({pid}, 9)"
            await asyncio.to_thread(docker, "exec", worker.name, "python", "-c", kill)
        assert (await dies(worker)).exit_code == 137
        async with asyncio.timeout(10):
            while await asyncio.to_thread(os.path.exists, f"/proc/{sleeping[0]}"):  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.02)


async def test_removed_by_somebody_else() -> None:
    async with provider(BASE, command=SLEEP) as containers:
        worker = await containers.start()
        await asyncio.to_thread(docker, "rm", "-f", worker.name)
        ended = await dies(worker)
        assert ended.exit_code in (None, 137)


async def test_death_is_noticed_without_events() -> None:
    """The event stream says nothing: the look that comes every second finds it."""
    async with Proxy().running() as proxy:
        proxy.choose = lambda method, path: "empty" if path == "/events" else "pass"
        async with provider(BASE, command=SLEEP, engine=proxy.url) as containers:
            worker = await containers.start()
            await asyncio.to_thread(docker, "kill", worker.name)
            ended = await dies(worker)
            assert ended.exit_code == 137


async def test_an_event_that_is_not_true_changes_nothing() -> None:
    async with provider(BASE, command=SLEEP) as containers:
        worker = await containers.start()
        assert worker.container_id is not None
        await containers._confirm(worker.container_id)
        assert not worker.exited.done()


async def test_paused() -> None:
    async with provider() as containers:
        worker = await launch(containers)
        async with GenericEnvClient(worker.url, token=worker.token) as env:
            await env.reset()
            await asyncio.to_thread(docker, "pause", worker.name)
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(env.step({"message": "x"}, timeout=0.2), 60)
            assert not worker.exited.done()
            assert "echo" in await worker.log_tail()
            await asyncio.to_thread(docker, "unpause", worker.name)
            assert (await env.step({"message": "y"})).observation["echo"] == "Echo: y"
            await asyncio.to_thread(docker, "pause", worker.name)
            await worker.aclose()  # a frozen process takes no signal: it goes all the same
            assert ours() == []


async def test_one_that_never_answers() -> None:
    command = ["sh", "-c", "echo I will not answer; exec sleep 600"]
    async with provider(BASE, command=command) as containers:
        worker = await containers.start()
        with pytest.raises(DeadlineExceeded, match="did not answer within") as caught:
            await wait_ready(worker, timeout=3.0)
        assert caught.value.log_tail == "I will not answer"
        assert caught.value.container_id == worker.container_id
        with pytest.raises(DeadlineExceeded):
            await launch(containers, timeout=2.0)
        assert ours() == [worker.name]


# -- a client's own -----------------------------------------------------------------------


async def test_a_client_with_its_container() -> None:
    async with GenericEnvClient.from_docker_image(ECHO, **SMALL) as env:
        assert len(ours()) == 1
        await env.reset()
    assert ours() == []


def test_without_a_loop() -> None:
    env = HTTPEnvClient[Any, Any, Any].from_docker_image(ECHO, **SMALL)
    try:
        assert env.reset().observation["echo"] == "Ready"
        assert env.step({"message": "x"}).observation["echo"] == "Echo: x"
    finally:
        env.close()
    with EnvClient[Any, Any, Any].from_docker_image(ECHO, **SMALL).sync() as blocking:
        assert blocking.reset().observation["echo"] == "Ready"
    assert ours() == []


def test_the_blocking_client_has_it_too() -> None:
    with SyncEnvClient[Any, Any, Any].from_docker_image(ECHO, 8000, **SMALL) as env:
        assert env.reset().observation["echo"] == "Ready"
    assert ours() == []


def test_a_subclass_may_say_it_as_the_guide_does() -> None:
    class MyEnv(HTTPEnvClient[Any, Any, Any]):
        @classmethod
        def from_docker_image(cls, image: str, port: int = 8000, **options: Any) -> MyEnv:
            return cls._from_docker(image, port, **SMALL, **options)

    env = MyEnv.from_docker_image(ECHO)
    assert type(env) is MyEnv
    assert env.reset().observation["echo"] == "Ready"
    env.close()


async def test_http_tells_of_the_death_as_well() -> None:
    env = await HTTPEnvClient[Any, Any, Any].from_docker_image(ECHO, **SMALL)
    try:
        await env.reset()
        await asyncio.to_thread(docker, "kill", ours()[0])
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await env.step({"message": "x"})
    finally:
        await env.close()


async def test_a_client_that_cannot_start_leaves_nothing() -> None:
    for make in (GenericEnvClient, HTTPEnvClient[Any, Any, Any]):
        client: Any = make.from_docker_image(BASE, command=["false"], start_timeout=30)
        with pytest.raises(OpenEnvError) as caught:
            await client
        assert caught.value.exit_code == 1
        await none_left(seconds=0.0)
        with pytest.raises(WorkerStartFailed):  # it may be tried again
            await client.reset()
        await client.close()
    await none_left(seconds=0.0)


def test_an_option_of_neither() -> None:
    with pytest.raises(TypeError, match="no option 'colour'"):
        EnvClient[Any, Any, Any].from_docker_image(ECHO, colour="red")


async def test_a_client_of_another_loop_closes_its_container() -> None:
    env = GenericEnvClient.from_docker_image(ECHO, **SMALL)
    await asyncio.to_thread(asyncio.run, env.open())
    assert len(ours()) == 1
    await env.reset()
    await env.close()
    await none_left(seconds=0.0)


async def test_labels() -> None:
    async with provider(BASE, command=SLEEP, labels={"team": "x"}) as containers:
        labels = labels_of((await containers.start()).name)
        assert labels["team"] == "x"
        assert {"openenv_async.run", "openenv_async.host", "openenv_async.owner.pid"} <= set(labels)
        assert {"openenv_async.owner.started", "openenv_async.expires"} <= set(labels)


def test_it_is_loaded_when_used_only() -> None:
    import subprocess
    import sys

    code = (
        "import sys, openenv_async; from openenv_async import EnvClient, EnvPool;"
        "assert 'aiodocker' not in sys.modules; assert 'openenv_async.providers.docker' not in"
        " sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert DockerProvider("x").reaper_pid is None


def test_how_an_end_reads() -> None:
    assert exit_of({"ExitCode": 3}, None, "1g").reason == "its container exited with code 3"
    assert "SIGKILL" in exit_of({"ExitCode": 137}, None, "1g").reason
    ended = exit_of({"ExitCode": 137, "OOMKilled": True}, "last", "1g")
    assert "memory (limit 1g)" in ended.reason
    assert ended.oom
    assert ended.log_tail == "last"


@pytest.mark.parametrize("code", [0, 1, 3, 143, 139, None])
def test_memory_is_no_cause_where_only_a_child_was_killed_for_it(code: int | None) -> None:
    alone = exit_of({"ExitCode": code}, None, "1g")
    ended = exit_of({"ExitCode": code, "OOMKilled": True}, None, "1g")
    assert ended.oom is False
    assert ended.reason.startswith(alone.reason)
    assert "a process in it had been killed for its use of memory (limit 1g)" in ended.reason
