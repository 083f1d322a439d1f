"""Containers in which commands are run, on a real Engine."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
import tarfile
from typing import Any

import pytest

from openenv_async.errors import ProviderError, WorkerStartFailed
from openenv_async.providers.docker.calls import EngineError, NoSuchImage
from openenv_async.providers.docker.commands import CommandOutput
from openenv_async.providers.docker.sandbox import (
    Sandbox,
    Sandboxes,
    SandboxOptions,
    shared_sandboxes,
)
from tests.providers.engines import BASE, docker, docker_tests, none_left, ours

pytestmark = docker_tests

SMALL = SandboxOptions(memory="128m", cpus=1.0, pids=64)


async def started(owner: Sandboxes, options: SandboxOptions = SMALL) -> Sandbox:
    return await owner.start(BASE, options, timeout=60.0)


def archive(**files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


async def test_commands_files_and_folders() -> None:
    async with shared_sandboxes() as owner:
        box = await started(owner, SandboxOptions(memory="128m", env={"COLOUR": "blue"}))
        said = await box.run(
            "cd /tmp; echo $COLOUR $SHAPE; id -u", timeout=30, env={"SHAPE": "a b"}
        )
        assert (said.output, said.exit_code, said.folder) == ("blue a b\n10001\n", 0, "/tmp")
        root = await box.run("id -u; pwd", timeout=30, user="root", folder="/var")
        assert root.output == "0\n/var\n"
        await box.put(archive(note=b"hello"), "/tmp")
        assert await box.read_file("/tmp/note", 100) == b"hello"
        assert await box.read_file("/tmp/none", 100) is None
        with pytest.raises(ProviderError, match="5 bytes, more than 4"):
            await box.read_file("/tmp/note", 4)
        await box.run("ln -s /etc/group /tmp/link; head -c 300000 /dev/zero > /tmp/huge", timeout=9)
        for path in ("/home", "/tmp/link"):
            with pytest.raises(ProviderError, match="not a regular file"):
                await box.read_file(path, 100_000)
        with pytest.raises(EngineError, match="/tmp/huge is larger"):
            await box.read_file("/tmp/huge", 100)
        await box.remove()
        with pytest.raises(EngineError):
            await box.run("true", timeout=30)
    assert ours() == []


async def test_a_command_in_the_background_goes_on_and_holds_nobody() -> None:
    async with shared_sandboxes() as owner:
        box = await started(owner)
        said = await box.run("sleep 100 & echo $!", timeout=30)
        assert said.exit_code == 0
        alive = await box.run(f"kill -0 {said.output.strip()} && echo alive", timeout=30)
        assert alive.output == "alive\n"


async def test_a_command_out_of_time_is_killed_and_others_are_not() -> None:
    async with shared_sandboxes() as owner:
        box = await started(owner)
        other = (await box.run("sleep 100 & echo $!", timeout=30)).output.strip()
        late = await box.run("echo before; (sleep 77; echo after) & sleep 77", timeout=1.0)
        assert (late.output, late.exit_code, late.timed_out) == ("before\n", None, True)
        left = await box.run(
            "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done", timeout=30
        )
        assert "sleep 77" not in left.output
        assert (await box.run(f"kill -0 {other}", timeout=30)).exit_code == 0


async def test_a_cancelled_command_is_killed() -> None:
    async with shared_sandboxes() as owner:
        box = await started(owner)
        running = asyncio.create_task(box.run("touch /tmp/begun; sleep 55", timeout=60))
        await box.run("until test -e /tmp/begun; do sleep 0.05; done", timeout=30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        gone = "while grep -qas 'sleep.[5]5' /proc/[0-9]*/cmdline; do sleep 0.05; done; echo gone"
        assert (await box.run(gone, timeout=30)).output == "gone\n"


async def test_the_kill_of_a_command_out_of_time_is_not_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killing, go_on = asyncio.Event(), asyncio.Event()
    kill = Sandbox._kill

    async def later(self: Sandbox, output: CommandOutput) -> None:
        killing.set()
        await go_on.wait()
        await kill(self, output)

    monkeypatch.setattr(Sandbox, "_kill", later)
    async with shared_sandboxes() as owner:
        box = await started(owner)
        running = asyncio.create_task(box.run("echo begun; sleep 44", timeout=1.0))
        await asyncio.wait_for(killing.wait(), 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        go_on.set()
        gone = "while grep -qas 'sleep.[4]4' /proc/[0-9]*/cmdline; do sleep 0.05; done; echo gone"
        assert (await box.run(gone, timeout=20)).output == "gone\n"


@pytest.mark.parametrize("limit", [{"memory": 0}, {"cpus": 0}, {"pids": 0}, {"lifetime": 0}])
def test_limits_that_are_none_are_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"positive|not a valid size"):
        SandboxOptions(**limit)


async def test_no_container_is_begun_while_the_engine_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with shared_sandboxes() as owner:
        await asyncio.gather(*owner._tasks)  # the sweep: a call that succeeds ends the pause
        breaker = owner.engine.breaker
        breaker._until = asyncio.get_running_loop().time() + 60
        with monkeypatch.context() as patch:
            patch.delattr(owner.engine.__class__, "create")  # it is not asked
            with pytest.raises(WorkerStartFailed, match=r"within 0\.1 s"):
                await owner.start(BASE, SMALL, timeout=0.1)
        assert not owner._live
        breaker.succeeded()
        await started(owner)


async def test_a_flood_of_output_is_bounded() -> None:
    async with shared_sandboxes() as owner:
        box = await started(owner)
        said = await box.run("head -c 20000000 /dev/zero | tr '\\0' x", timeout=60, max_output=1000)
        assert said.cut == 20_000_000 - 1000
        assert said.exit_code == 0
        assert len(said.output) < 1100


async def test_limits_and_network() -> None:
    options = SandboxOptions(memory="64m", cpus=0.5, pids=32, network=False)
    async with shared_sandboxes() as owner:
        box = await started(owner, options)
        shown = docker(
            "inspect",
            "--format",
            "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}"
            " {{.HostConfig.NetworkMode}}",
            box.name,
        )
        assert shown == f"{64 * 2**20} 500000000 32 none"
        assert "eth0" not in (await box.run("cat /proc/net/dev", timeout=30)).output


async def test_a_start_that_fails_leaves_nothing() -> None:
    async with shared_sandboxes() as owner:
        with pytest.raises(NoSuchImage):
            await owner.start("openenv-async-missing:none", SMALL, timeout=30.0)
        with pytest.raises(WorkerStartFailed, match=r"within 1e-06 s"):
            await owner.start(BASE, SMALL, timeout=1e-6)
        starting = asyncio.create_task(started(owner))
        await asyncio.sleep(0)
        assert owner._live
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await none_left()


async def test_the_last_who_leaves_removes_all() -> None:
    async with shared_sandboxes() as one:
        async with shared_sandboxes() as two:
            assert one is two
            box = await started(two)
        assert ours() == [box.name]
    assert ours() == []
    async with shared_sandboxes() as three:
        assert three is not one


async def test_work_is_done_once_and_again_after_it_failed() -> None:
    done: list[str] = []
    go_on = asyncio.Event()

    async def work(fails: bool = False) -> int:
        await go_on.wait()
        done.append("x")
        if fails:
            raise ValueError("no")
        return len(done)

    async with shared_sandboxes() as owner:
        first, *others = [asyncio.create_task(owner.once("a", work)) for _ in range(4)]
        await asyncio.sleep(0)
        first.cancel()  # the work goes on for the others
        go_on.set()
        assert await asyncio.gather(*others) == [1, 1, 1]
        assert await owner.once("a", work) == 1
        with pytest.raises(ValueError, match="no"):
            await owner.once("b", lambda: work(fails=True))
        assert await owner.once("b", work) == 3


KILLED = """
import asyncio, sys
from openenv_async.providers.docker.owner import this_owner
from openenv_async.providers.docker.sandbox import SandboxOptions, shared_sandboxes

async def main():
    async with shared_sandboxes() as owner:
        box = await owner.start(sys.argv[1], SandboxOptions(memory="64m"), timeout=60.0)
        print(this_owner().run, box.name, flush=True)
        await box.run("sleep 600", timeout=600)

asyncio.run(main())
"""


async def test_a_killed_owner_leaves_nothing() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, BASE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    run, name = (await process.stdout.readline()).decode().split()
    assert ours(run) == [name]
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await none_left(run, 20.0)
