"""What the server's side of the sandbox holds is given back, whenever it is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import AsyncIterator

import pytest
from coding_env.sandbox import Limits, Sandbox, zygotes

from openenv_async.errors import EnvironmentDied


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with Sandbox(functions={"big": big}) as made:
        await made.start()
        yield made


async def big() -> str:
    """More than a socket takes at once."""
    return "x" * (8 << 20)


def descriptors() -> set[tuple[str, str]]:
    """What this process has open, number and target: an earlier test's may still be closing."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def zygote_of(box: Sandbox) -> zygotes.Zygote:
    assert box._zygote is not None
    return box._zygote


async def test_an_answer_in_the_turn_in_which_its_time_is_up_is_not_lost(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    zygote = zygote_of(box)
    before = descriptors()
    monkeypatch.setattr(zygotes, "_ANSWER_TIMEOUT", 0.2)
    asked = asyncio.create_task(zygote.spawn(box.folder, Limits(), 0, ()))
    await asyncio.sleep(0)
    time_is_up = time.monotonic() + 0.2
    select.select([zygote._socket], [], [], 60)  # the loop stands still until it has come,
    while time.monotonic() <= time_is_up:  # and the deadline is over as well
        pass
    with pytest.raises(EnvironmentDied, match="does not answer"):
        await asked
    assert descriptors() <= before
    monkeypatch.undo()
    assert (await box.execute("print(1)")).stdout == "1\n"


async def test_a_spawn_for_which_there_are_no_descriptors_keeps_none(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, pipe2 = descriptors(), os.pipe2
    made: list[tuple[int, int]] = []

    def scarce(flags: int) -> tuple[int, int]:
        if made:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(pipe2(flags))
        return made[0]

    monkeypatch.setattr(os, "pipe2", scarce)
    with pytest.raises(OSError, match="Too many"):
        await zygote_of(box).spawn(box.folder, Limits(), 0, ())
    assert len(made) == 1
    assert descriptors() <= before


async def test_a_close_that_is_cut_off_does_not_wait_for_a_zygote_that_hangs() -> None:
    box = Sandbox()
    await box.start()
    zygote = zygote_of(box)
    zygote._process.send_signal(signal.SIGSTOP)
    closing = asyncio.create_task(zygote.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert zygote._process.returncode == -signal.SIGKILL
    box._zygote = None
    with pytest.raises(EnvironmentDied):
        await box.execute("1")
    await box.aclose()


ASKS = """
import gc, json, os, time
worker = next(o for o in gc.get_objects() if type(o).__name__ == 'Worker')
text = json.dumps({'id': worker._id, 'call': 'big', 'args': []}).encode()
os.write(3, len(text).to_bytes(4, 'big') + text)
time.sleep(1000)
"""


async def test_code_whose_time_is_up_in_the_middle_of_an_answer_does_not_spoil_the_next(
    box: Sandbox,
) -> None:
    late = await box.execute(ASKS, timeout=0.5)
    assert (late.exit_code, late.error_type, late.restarted) == (-1, "Timeout", True)
    assert (await box.execute("print(1)")).stdout == "1\n"


async def test_a_harness_that_breaks_is_no_clean_exit(box: Sandbox) -> None:
    await box.execute("import json")
    broken = await box.execute("json.dumps = None")
    assert broken.restarted
    assert (broken.exit_code, broken.error_type) == (1, "InterpreterExited")
    assert (await box.execute("print(1)")).stdout == "1\n"
