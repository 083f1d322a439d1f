"""Commands of the shell: what they can do, what they cannot, and where they are refused.

``test_container.py`` runs this file in a container, as the image's user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import coding_env
import pytest
from coding_env import CodeAction
from coding_env import environment as environment_module
from coding_env.environment import CodingEnvironment
from coding_env.policies import oracle
from coding_env.sandbox import Limits, Sandbox, shell

from openenv_async.errors import InvalidAction, InvalidOption

PACKAGE = os.path.dirname(coding_env.__file__)
IN_ITS_FORM = not shell.not_confined()
"""True in a container, as a user without rights."""


@contextlib.asynccontextmanager
async def sandbox(**limits: Any) -> AsyncIterator[Sandbox]:
    async with Sandbox(Limits(**limits)) as made:
        await made.start()
        yield made


@pytest.fixture
async def environment(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CodingEnvironment]:
    if not IN_ITS_FORM:
        monkeypatch.setattr(environment_module, "not_confined", str)
    made = CodingEnvironment(mode="tasks", split="train", shell=True)
    try:
        yield made
    finally:
        await made.close()


def below(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                found += [int(name), *below(int(name))]
    return found


def supervisors() -> list[int]:
    """The supervisors of commands that this process has started."""
    found = []
    for pid in below(os.getpid()):
        with contextlib.suppress(OSError):
            if b"inside.shell" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110  # other processes raise no event here
            await asyncio.sleep(0.01)


# -- where it is taken -------------------------------------------------------------------------


def test_outside_a_container_and_as_root_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(shell, "_MARKS", ("/no/such/mark",))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidOption, match="a container of the environment alone, and this is"):
        CodingEnvironment(shell=True)
    monkeypatch.setattr(shell, "_MARKS", ("/proc",))
    CodingEnvironment(shell=True)
    monkeypatch.setenv("CODING_SHELL", "1")
    CodingEnvironment()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InvalidOption, match="and this server is root"):
        CodingEnvironment()
    CodingEnvironment(shell=False)
    with pytest.raises(InvalidOption, match="needs interpreter='cpython'"):
        CodingEnvironment(shell=True, interpreter="monty")


async def test_without_the_option_a_command_is_a_mistake() -> None:
    made = CodingEnvironment()
    try:
        await made.reset(seed=1)
        with pytest.raises(InvalidAction, match="takes no shell commands: run its image with"):
            await made.step(CodeAction(shell="true"))
        assert (await made.state()).steps == 0
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (CodeAction("1", shell="true"), "code or a shell command"),
        (CodeAction(shell="true", submit=True), "submits code alone"),
        (CodeAction(shell="  "), "has 1 to 65536 bytes"),
        (CodeAction(shell="é" * 40_000), "this one has 80000"),
        (CodeAction(shell="echo \0"), "without NUL"),
        (CodeAction(shell="echo \ud800"), "without surrogates"),
    ],
)
async def test_what_is_no_command_is_a_mistake(
    environment: CodingEnvironment, action: CodeAction, message: str
) -> None:
    await environment.reset(seed=1)
    with pytest.raises(InvalidAction, match=message):
        await environment.step(action)


# -- what it does ------------------------------------------------------------------------------


async def test_a_task_is_solved_with_commands_between(environment: CodingEnvironment) -> None:
    seen = await environment.reset(seed=3, task="sort-numbers")
    done = await environment.step(
        CodeAction(
            shell="cat > notes.txt; wc -c < notes.txt; exit 7",
            stdin="abc",
            files={"a.py": "print(6 * 7)"},
            read=["notes.txt"],
        )
    )
    assert (done.observation.stdout, done.observation.exit_code) == ("3\n", 7)
    assert done.observation.files == {"notes.txt": "abc"}
    assert (done.reward, done.terminated) == (0.0, False)
    done = await environment.step(CodeAction("x = open('notes.txt').read(); x"))
    assert done.observation.value == "'abc'"
    done = await environment.step(CodeAction(shell="python3 a.py; echo $HOME; pwd"))
    answer, *folders = done.observation.stdout.split()
    assert answer == "42", done.observation
    assert len(set(folders)) == 1
    assert (await environment.step(CodeAction("x"))).observation.value == "'abc'"
    done = await environment.step(oracle(seen))
    assert (done.reward, done.terminated) == (1.0, True)


async def test_programs_of_the_folder_run() -> None:
    async with sandbox() as box:
        made = "printf '#!/bin/sh\\necho $1\\n' > run; chmod +x run; ./run me | tr a-z A-Z"
        done = await box.command(made)
    assert (done.stdout, done.stderr, done.exit_code) == ("ME\n", "", 0)


@pytest.mark.parametrize(
    ("command", "limits", "exit_code", "error"),
    [
        ("sleep 60", {}, -1, "Timeout"),
        ("yes", {"max_flood_size": 1 << 20}, -9, "OutputLimitExceeded"),
        ("while :; do sleep 60 & done", {"max_processes": 20}, -9, "ProcessLimitExceeded"),
        ("head -c 9000000 /dev/zero > a; sleep 60", {"max_disk_size": 1 << 20}, -9, "DiskLimit"),
        ("exec python3 -c 'while 1: pass'", {"cpu_timeout": 0.0}, -9, ""),
        ("exec python3 -c 'bytearray(2 << 30)'", {}, 1, ""),
        ("head -c 9000000 /dev/zero > a", {"max_file_size": 1 << 20}, 1, ""),
        ("kill -15 $$", {}, -15, ""),
    ],
)
async def test_limits(command: str, limits: dict[str, Any], exit_code: int, error: str) -> None:
    async with sandbox(**limits) as box:
        begun = time.monotonic()
        done = await box.command(command, timeout=3.0)
        assert (done.exit_code, done.error_type.startswith(error)) == (exit_code, True), done
        assert len(done.stdout) < 70_000
        assert time.monotonic() - begun < 25
        assert not supervisors()
        assert (await box.execute("1 + 1")).value == "2"


async def test_nothing_outlives_a_command() -> None:
    left = "setsid sleep 61 & (setsid setsid sleep 62 &) ; sh -c 'sleep 63 & sleep 64 &'; echo on"
    async with sandbox() as box:
        before = set(below(os.getpid()))
        done = await box.command(left, timeout=20.0)
        assert (done.stdout, done.exit_code, done.error_type) == ("on\n", 0, "")
        assert set(below(os.getpid())) == before


async def test_a_cancelled_command_is_ended_and_the_interpreter_lives() -> None:
    async with sandbox() as box:
        await box.execute("x = 5")
        before = set(below(os.getpid()))
        task = asyncio.create_task(box.command("touch begun; sleep 60 & sleep 60", timeout=50.0))
        await until(Path(box.folder, "begun").exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set(below(os.getpid())) == before
        assert (await box.execute("x")).value == "5"


async def test_a_command_ends_with_a_server_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from coding_env.sandbox import Limits\n"
        "from coding_env.sandbox.shell import run_command\n"
        "command = 'touch begun; sleep 70'\n"
        "asyncio.run(run_command(command, sys.argv[1], Limits(), 60.0))\n"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path))
    await until((tmp_path / "begun").exists)
    started = below(server.pid)
    assert len(started) >= 2
    server.kill()
    await server.wait()
    await until(lambda: not any(map(_runs, started)))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


# -- what it cannot ----------------------------------------------------------------------------

_PYTHON = "exec python3 -c '{}'"
ATTEMPTS = {
    "read the bundled tasks": "cat {package}/tasks/easy.py",
    "import the bundled tasks": "PYTHONPATH={package}/.. python3 -c 'import coding_env.tasks'",
    "find the bundled tasks": "grep -r sort_numbers {package}",
    "read a file of the server": "cat {outside}",
    "read it by a link": "ln -s {outside} link && cat link",
    "link it hard": "ln {outside} link && cat link",
    "write it": "echo x >> {outside}",
    "cut it": "truncate -s 0 {outside}",
    "remove it": "rm -f {outside}",
    "write beside the folder": "touch ../beside",
    "read the shadow file": "cat /etc/shadow",
    "the server's environment": "cat /proc/{server}/environ",
    "the server's memory": "head -c 1 /proc/{server}/mem",
    "its own memory": "cat /proc/self/maps",
    "list processes": "ls /proc",
    "list the folders of others": "ls ..",
    "list the root": "ls /",
    "read the interpreter's folder by proc": "ls /proc/{worker}/cwd/",
    "end the server": "kill -9 {server}",
    "stop the server": "kill -STOP {server}",
    "end the interpreter": "kill -9 {worker}",
    "end its supervisor": "kill -9 $PPID",
    "end all": "kill -9 -1; false",
    "trace the server": _PYTHON.format(
        "import ctypes; r = ctypes.CDLL(None).ptrace(16, {server}, 0, 0); raise SystemExit(r != 0)"
    ),
    "its limits": _PYTHON.format(
        "import resource as r; r.prlimit({server}, r.RLIMIT_NOFILE, (9, 9))"
    ),
    "raise its own limits": "ulimit -u 100000",
    "a socket": _PYTHON.format("import socket; socket.socket()"),
    "a socket of the server's": _PYTHON.format(
        "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + str(1))"
    ),
    "a namespace": "unshare --user true",
    "a device": "mknod device c 1 3",
    "a pipe with a name": "mkfifo pipe",
    "a file system": "mount -t tmpfs none .",
    "a raw disk": "head -c 1 /dev/sda /dev/vda",
    "shared memory": "touch /dev/shm/kept",
    "a timer of the system": "crontab -l",
    "another user": "su -c true",
}


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_it_does_not_succeed(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "hidden_tests.py"
    outside.write_text("assert answer == 12345")
    async with sandbox() as box:
        command = ATTEMPTS[name].format(
            package=PACKAGE, outside=outside, server=os.getpid(), worker=box.pid
        )
        done = await box.command(command, timeout=20.0)
        assert done.exit_code != 0, done
        assert not done.error_type
        told = done.stdout + done.stderr
        assert "12345" not in told
        assert "sorted(" not in told
        assert (await box.execute("'alive'")).value == "'alive'"
    assert outside.read_text() == "assert answer == 12345"
    assert not (tmp_path.parent / "beside").exists()
