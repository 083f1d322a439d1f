"""A guard ends what its process started, and removes its folder, however the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import openenv_async.guard as guards
from openenv_async.guard import GUARD_VARIABLE, Guard, own_guard, remove_folder

# A program that a client of an environment started, in a session of its own, that ignores SIGTERM.
PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
print(os.getpid(), flush=True)
time.sleep(120)
"""
OWNER = f"""
import os, subprocess, sys
from openenv_async.guard import GUARD_VARIABLE, own_guard
guard = own_guard()
mark = guard.new_mark()
inside = guard.folder / "a" / "b"
inside.mkdir(parents=True)
program = subprocess.Popen(
    [sys.executable, "-c", {PROGRAM!r}],
    env={{GUARD_VARIABLE: mark}}, stdout=subprocess.PIPE, start_new_session=True, text=True,
)
pids = [program.stdout.readline().strip() for _ in range(2)]
print(guard.folder, guard._process.pid, *pids, flush=True)
end = sys.stdin.readline().strip()
if end == "return":
    program.returncode = 0  # its end is the guard's business
elif end == "exit":
    os._exit(0)
else:
    os.kill(os.getpid(), 9)
"""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.fixture
def guard() -> Iterator[Guard]:
    made = Guard()
    yield made
    made._close()
    assert not made.folder.exists()


@pytest.mark.parametrize("end", ["return", "exit", "kill"])
def test_nothing_is_left_however_a_process_ends(end: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    told = owner.stdout.readline().split()
    folder, pids = Path(told[0]), [int(each) for each in told[1:]]
    assert folder.is_dir()
    assert all(map(alive, pids))
    owner.communicate(f"{end}\n", timeout=30)
    waited = time.monotonic() + 20
    while end != "return" and (folder.exists() or any(map(alive, pids))):
        assert time.monotonic() < waited, [pid for pid in pids if alive(pid)]
        time.sleep(0.01)
    assert not folder.exists()
    assert not any(map(alive, pids[1:]))


def test_a_mark_ends_what_bears_it_alone(guard: Guard) -> None:
    first, second = guard.new_mark(), guard.new_mark()
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"],
            env={GUARD_VARIABLE: mark},
            stdout=subprocess.PIPE,
        )
        for mark in (first, second, f"{first}0")
    ]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    assert guard.end(first) == 1
    assert programs[0].wait(10) == -signal.SIGKILL
    assert [program.poll() for program in programs[1:]] == [None, None]
    for program in programs[1:]:
        program.kill()
    for program in programs:
        program.communicate()


def test_a_guard_that_was_killed_is_replaced(guard: Guard) -> None:
    def process() -> subprocess.Popen[bytes]:
        guard.new_mark()
        assert guard._process is not None
        return guard._process

    first = process()
    assert process() is first
    first.kill()
    first.wait(10)
    assert process() is not first


def test_the_end_of_a_fork_is_not_that_of_its_parent(guard: Guard) -> None:
    guard.new_mark()
    guard._owner += 1
    guard._close()
    assert guard.folder.is_dir()
    guard._owner -= 1


def test_a_process_has_one_guard() -> None:
    assert own_guard() is own_guard()
    assert own_guard().folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_with_protected_parts_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    folder = tmp_path / "folder"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "file").write_text("x")
    (folder / "deep" / "link").symlink_to(outside, target_is_directory=True)
    for each in (folder / "deep" / "deeper", folder / "deep"):
        os.chmod(each, 0o500)
    remove_folder(folder)
    assert not folder.exists()
    assert outside.stat().st_mode & 0o777 == 0o500
    remove_folder(folder)


def test_a_program_that_is_being_started_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process has no variables for a moment while its program is exchanged."""
    for name in ("11", "12", "13"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "environ").touch()
        (tmp_path / name / "cmdline").touch()
    for name in ("11", "12"):  # 13 has ended, or is a thread of the kernel
        (tmp_path / name / "exe").symlink_to(sys.executable)
    (tmp_path / "12" / "cmdline").write_bytes(b"sleep\0")
    waited: list[float] = []

    def started(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            (tmp_path / "11" / "environ").write_bytes(b"MARK=1\0")

    monkeypatch.setattr(guards, "_PROC", tmp_path)
    monkeypatch.setattr(time, "sleep", started)
    assert guards._found(b"MARK=1".__eq__) == {11}
    assert len(waited) == 3
