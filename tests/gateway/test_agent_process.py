"""Programs that are run for agents: what they are given, what is kept of them, how they end."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from openenv_async.deadlines import wait_uncancelled
from openenv_async.event_loop import new_event_loop
from openenv_async.gateway import agent_process
from openenv_async.gateway.agent_process import KeptOutput, ProgramEnd, run_program
from tests.helpers import until

ENVIRON = {"PATH": os.environ["PATH"]}


async def run(code: str, folder: Path, **options: object) -> ProgramEnd:
    command = [sys.executable, "-c", code]
    return await run_program(command, environ=ENVIRON, folder=folder, **options)  # type: ignore[arg-type]  # by name


async def test_it_reads_its_input_and_its_output_is_kept(tmp_path: Path) -> None:
    code = (
        "import os, sys; print(sys.stdin.read(), os.getcwd()); sys.stderr.write('oh'); sys.exit(4)"
    )
    end = await run(code, tmp_path, stdin=b"hello")
    assert (end.code, end.output.text()) == (4, f"hello {tmp_path}\noh")


async def test_one_that_reads_nothing_of_a_long_input_ends_as_well(tmp_path: Path) -> None:
    end = await run("print('no thanks')", tmp_path, stdin=b"x" * 2**21)
    assert (end.code, end.output.text()) == (0, "no thanks\n")


async def test_one_that_a_signal_ends_says_which(tmp_path: Path) -> None:
    end = await run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert end.code == -signal.SIGKILL


async def test_an_heir_of_its_output_does_not_keep_it_running(tmp_path: Path) -> None:
    code = (
        "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True); print('me')"
    )
    async with asyncio.timeout(30):
        end = await run(code, tmp_path)
    assert (end.code, end.output.text()) == (0, "me\n")


async def test_a_cancelled_one_may_clean_up_and_is_killed_if_it_does_not(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path('told').touch())\n"
        "pathlib.Path('ready').touch()\n"
        "while True: time.sleep(600)\n"
    )
    running = asyncio.create_task(run(code, tmp_path))
    await until((tmp_path / "ready").exists, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (tmp_path / "told").exists()


@pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, new_event_loop])
def test_one_that_has_ended_before_it_is_told_anything(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(task: asyncio.Task[Any]) -> None:
        await wait_uncancelled(task)
        if isinstance(task.result(), tuple):
            pipe = task.result()[0].get_pipe_transport(0)
            await until(pipe.is_closing, 30)

    monkeypatch.setattr(agent_process, "wait_uncancelled", late)
    with asyncio.Runner(loop_factory=loop) as runner:
        end = runner.run(run("print('done')", tmp_path, stdin=b"hello"))
    assert (end.code, end.output.text()) == (0, "done\n")


async def test_one_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await run_program(["no-such-program"], environ=ENVIRON, folder=tmp_path)


def test_the_first_and_the_last_of_an_output_are_kept() -> None:
    file = io.BytesIO()
    output = KeptOutput(file, most=20, head=4, tail=6)
    for part in (b"abc", b"def", b"ghi", b"jkl", b"mno", b"pqr", b"stu", b"vwx"):
        output.add(part)
    assert output.text() == "abcd\n[14 bytes are left out]\nstuvwx"
    assert (output.size, output.last(3), output.last(100)) == (24, "vwx", "abcdstuvwx")
    assert file.getvalue() == b"abcdefghijklmnopqrst"
    short = KeptOutput(head=4, tail=6)
    short.add("schön".encode())
    assert (short.text(), short.last(2)) == ("schön", "ön")


@pytest.fixture
def full() -> Iterator[BinaryIO]:
    with Path("/dev/full").open("wb") as file:
        yield file


async def test_a_file_that_takes_no_more_does_not_stop_a_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, full: BinaryIO
) -> None:
    output = KeptOutput(full)
    code = "for part in range(4): print(str(part) * 20_000, flush=True)"
    end = await run(code, tmp_path, output=output)
    assert (end.code, end.output.size) == (0, 4 * 20_001)
    output.close()
    assert full.closed
    assert "No space left" in caplog.text
    assert len(caplog.records) == 1


def test_a_file_that_loses_what_it_buffered_is_told(
    caplog: pytest.LogCaptureFixture, full: BinaryIO
) -> None:
    output = KeptOutput(full)
    output.add(b"little")
    output.close()
    output.close()
    assert "not whole" in caplog.text
