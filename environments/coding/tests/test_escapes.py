"""Nothing that is run gets out. The same tests run in a default container: see test_container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import coding_env
import pytest
from coding_env.attempts import ATTEMPTS, successes
from coding_env.sandbox import Limits, Sandbox
from coding_env.sandbox.zygotes import readable

from openenv_async.errors import EnvironmentDied

MIB = 1 << 20


@contextlib.asynccontextmanager
async def sandbox(**limits: Any) -> AsyncIterator[Sandbox]:
    async with Sandbox(Limits(**limits)) as made:
        await made.start()
        yield made


def exists(path: str) -> bool:
    return os.path.lexists(path)


async def alive(box: Sandbox) -> bool:
    return (await box.execute("print('alive')")).stdout == "alive\n"


def traits(path: Path) -> tuple[int, int, int, int]:
    found = os.stat(path)
    return found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns


_others: set[int] = set()


@pytest.fixture(autouse=True)
def only_ours() -> None:
    """What other tests left running in this process is not counted."""
    _others.clear()
    _others.update(children(os.getpid()))


def children(pid: int) -> list[int]:
    """The processes that this process started, and theirs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            child = int(entry.parent.name)
            if int(fields[1]) == pid and fields[0] != "Z" and child not in _others:
                found.append(child)
    return found + [under for child in found for under in children(child)]


@pytest.mark.parametrize("group", [*ATTEMPTS, "raw"])
async def test_every_attempt_is_stopped(group: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("a secret")
    outside.chmod(0o640)
    before = traits(outside)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with sandbox() as box, sandbox() as other:
            facts = {
                "outside": outside,
                "server": os.getpid(),
                "sibling": other.pid,
                "siblings": other.folder,
                "port": listener.getsockname()[1],
                "package": os.path.dirname(coding_env.__file__),
            }
            assert await successes(box, group, facts) == []
            assert await alive(box)
            assert await alive(other)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert os.listdir(tmp_path) == ["outside.txt"]
    assert traits(outside) == before
    assert outside.read_text() == "a secret"


async def test_modes_and_times_of_other_files_stay(tmp_path: Path) -> None:
    """What copying files needs is accepted, and does nothing."""
    outside = tmp_path / "outside.txt"
    outside.write_text("x")
    before = traits(outside)
    async with sandbox() as box:
        code = f"import os; os.chmod('{outside}', 0o777); os.utime('{outside}', (1, 1))"
        assert (await box.execute(code)).exit_code == 0
        copying = (
            "import shutil; open('a', 'w').write('b'); shutil.copy2('a', 'c'); open('c').read()"
        )
        assert (await box.execute(copying)).exit_code == 0
    assert traits(outside) == before


async def test_fork_bombs_make_no_process() -> None:
    code = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    async with sandbox() as box:
        bomb = asyncio.create_task(box.execute(code, timeout=1.0))
        seen = 0
        while not bomb.done():
            await asyncio.sleep(0.05)
            seen = max(seen, len(children(os.getpid())))
        assert (await bomb).error_type == "Timeout"
        assert seen == 2  # the zygote and the worker
        assert await alive(box)


async def test_threads_may_be_allowed_and_still_no_process() -> None:
    async with sandbox(threads=True) as box:
        code = (
            "import threading, os\n"
            "t = threading.Thread(target=lambda: print('in a thread')); t.start(); t.join()\n"
            "os.fork()"
        )
        result = await box.execute(code)
        assert (result.stdout, result.error_type) == ("in a thread\n", "PermissionError")


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(1 << 40)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = []\nwhile True: x.append(object())",
        "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 24))",
        "x = 'a'\nwhile True: x += x",
    ],
)
async def test_memory_is_limited(code: str) -> None:
    async with sandbox(memory_size=48 * MIB) as box:
        result = await box.execute(code, timeout=60.0)
        assert result.error_type in ("MemoryError", "OSError"), result
        await box.execute("x = None")
        assert await alive(box)


async def test_recursion_ends_in_an_exception_or_a_crash_of_its_own() -> None:
    async with sandbox(memory_size=48 * MIB) as box:
        deep = await box.execute("def f(): f()\nf()")
        assert deep.error_type == "RecursionError"
        deeper = await box.execute("import sys; sys.setrecursionlimit(10**5)\nf()", timeout=60.0)
        assert deeper.exit_code != 0
        assert await alive(box)


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1000)",
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        "import sys\nwhile True: sys.stderr.write('x' * 1000)",
        "import ctypes\nlibc = ctypes.CDLL(None)\nwhile True: libc.puts(b'x' * 1000)",
    ],
)
async def test_output_without_end_is_cut(code: str) -> None:
    async with sandbox(max_output_size=1000, max_flood_size=MIB) as box:
        result = await box.execute(code, timeout=60.0)
        assert result.error_type == "OutputLimitExceeded"
        text = result.stdout + result.stderr
        assert "more bytes]" in text
        assert len(text) < 3000
        assert await alive(box)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "import time; time.sleep(1000)",
        "import os; os.read(os.pipe()[0], 1)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "sum(range(10**12))",
    ],
)
async def test_time_is_limited(code: str) -> None:
    async with sandbox() as box:
        result = await box.execute(code, timeout=0.3)
        assert (result.exit_code, result.error_type) == (-1, "Timeout")
        assert await alive(box)


async def test_cpu_time_is_limited_apart() -> None:
    async with sandbox(cpu_timeout=0.2) as box:
        assert (await box.execute("import time; time.sleep(0.5)", timeout=60.0)).exit_code == 0
        result = await box.execute("while True: pass", timeout=60.0)
        assert result.error_type == "CPULimitExceeded"
        assert await alive(box)


@pytest.mark.parametrize(
    "code",
    [
        "for i in range(100): open(f'f{i}', 'wb').write(b'x' * (1 << 20))",
        "i = 0\nwhile True:\n  open(f'f{i}', 'w').close(); i += 1",
        "import os\nwhile True: os.mkdir('d'); os.chdir('d')",
    ],
)
async def test_the_disk_is_limited_and_emptied(code: str) -> None:
    async with sandbox(max_disk_size=4 * MIB, max_files=50) as box:
        folder = box.folder
        result = await box.execute(code, timeout=60.0)
        assert result.error_type == "DiskLimitExceeded"
        assert not exists(folder)
        assert os.listdir(box.folder) == []
        assert await alive(box)
        folder = box.folder
    assert not exists(folder)


async def test_one_file_is_limited() -> None:
    async with sandbox(max_file_size=MIB) as box:
        result = await box.execute("open('f', 'wb').write(b'x' * (2 << 20))")
        assert result.error_type == "OSError"
        assert await alive(box)


async def test_descriptors_are_limited() -> None:
    async with sandbox() as box:
        result = await box.execute("import os\nx = []\nwhile True: x.append(os.dup(0))")
        assert (result.error_type, "Too many open files" in result.stderr) == ("OSError", True)
        assert await alive(box)


FORGERIES = {
    "nonsense": "os.write(3, b'nonsense' * 1000)",
    "no length": "os.write(3, b'\\xff' * 8)",
    "a reply of its own": "say({'id': 'x', 'exit_code': 0})",
    "an unknown function": "say({'id': own_id(), 'call': 'exec', 'args': ['1']})",
    "wrong types": "say({'id': own_id(), 'exit_code': 'zero'})",
    "deep": "os.write(3, len(d := b'[' * 10**6).to_bytes(4, 'big') + d)",
    "deep arguments": "d = json.dumps({'id': own_id(), 'call': 'f'})[:-1].encode();"
    " d += b', \"args\": ' + b'[' * 10**5 + b']' * 10**5 + b'}';"
    " os.write(3, len(d).to_bytes(4, 'big') + d)",
    "too long": "os.write(3, (1 << 31).to_bytes(4, 'big'))",
    "closed": "os.close(3)",
    "replaced": "os.dup2(os.open('/dev/null', 2), 3)",
}
FORGING = """
import gc, json, os, time
def say(message):
    data = json.dumps(message).encode()
    os.write(3, len(data).to_bytes(4, 'big') + data)
def own_id():
    return next(o for o in gc.get_objects() if type(o).__name__ == 'Worker')._id
"""


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_message_ends_the_forger_alone(name: str) -> None:
    async with sandbox() as box, sandbox() as other:
        result = await box.execute(f"{FORGING}{FORGERIES[name]}\ntime.sleep(1000)", timeout=2.0)
        assert result.exit_code != 0
        assert result.restarted or result.error_type == "Timeout", result
        assert await alive(box)
        assert await alive(other)


async def test_a_second_reply_is_not_the_next_one() -> None:
    """A reply that was left in the socket must not answer the request after it."""
    async with sandbox() as box:
        await box.execute(f"{FORGING}say({{'id': 'x', 'exit_code': 0}})")
        result = await box.execute("print('the real one')")
        assert result.stdout == "the real one\n"


async def test_a_patched_harness_harms_itself_alone() -> None:
    async with sandbox() as box:
        await box.execute(
            "import gc, sys, builtins, json, os\n"
            "worker = next(o for o in gc.get_objects() if type(o).__name__ == 'Worker')\n"
            "type(worker)._guarded = lambda *a: {'exit_code': 0, 'error_type': ''}\n"
            "json.dumps = builtins.exec = os.write = None"
        )
        await box.execute("1/0", timeout=5.0)
        await box.start()
        assert await alive(box)


async def test_one_that_is_killed_from_outside_is_no_fault_of_the_code() -> None:
    async with sandbox() as box:
        running = asyncio.create_task(box.execute("import time; time.sleep(1000)", timeout=60.0))
        await asyncio.sleep(0)
        assert box.pid is not None
        os.kill(box.pid, signal.SIGKILL)
        with pytest.raises(EnvironmentDied, match="killed from outside"):
            await running
        assert not box.usable
        await box.start()
        assert await alive(box)


async def test_the_zygote_s_death_is_told_and_mended() -> None:
    async with sandbox() as box, sandbox() as other:
        [zygote] = [pid for pid in children(os.getpid()) if pid not in (box.pid, other.pid)]
        os.kill(zygote, signal.SIGKILL)
        for each in (box, other):
            with pytest.raises(EnvironmentDied):
                await each.execute("import time; time.sleep(1000)", timeout=60.0)
            await each.start()
        assert await alive(box)
        assert await alive(other)


SERVER = """
import asyncio
from coding_env.sandbox import Sandbox

async def main():
    async with Sandbox() as box:
        await box.start()
        await box.execute("open('x', 'w').write('y')")
        print(box.pid, box.folder, flush=True)
        await box.execute("while True: pass", timeout=300.0)

asyncio.run(main())
"""


async def test_a_server_that_is_killed_leaves_nothing() -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    pid, folder = (await server.stdout.readline()).decode().split()
    worker = os.pidfd_open(int(pid))
    try:
        assert exists(folder)
        server.kill()
        await server.wait()
        await readable(asyncio.get_running_loop(), worker, 60.0)
    finally:
        os.close(worker)
    async with asyncio.timeout(60.0):
        while exists(folder):  # noqa: ASYNC110  # by another process, which tells nobody
            await asyncio.sleep(0.01)


async def test_a_start_that_is_cut_off_leaves_nothing() -> None:
    async with sandbox() as box:
        other = Sandbox()
        for turns in range(12):
            starting = asyncio.create_task(other.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
        await other.start()
        assert await alive(other)
        await other.aclose()
        assert await alive(box)
        async with asyncio.timeout(60.0):
            while len(children(os.getpid())) > 2:  # noqa: ASYNC110  # the zygote tells nobody
                await asyncio.sleep(0.01)


async def test_nothing_is_left() -> None:
    async with sandbox() as box:
        folder = box.folder
        await box.execute("open('x', 'w').write('y')")
        assert len(children(os.getpid())) == 2
    assert children(os.getpid()) == []
    assert not exists(folder)
