"""Ctrl-C and SIGTERM: the summary, the file's place, what has ended is written; twice: at once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async.rollouts import read_trajectories
from tests.cli.commands import started
from tests.cli.interrupted import ENDING
from tests.cli.terminals import terminal

WORLDS = "tests.cli.interrupted"
ROLLOUT = (
    "rollout", "tests.rollouts.environments:Counting", "--policy", f"{WORLDS}:policy",
    "--episodes", "100", "--concurrency", "3", "--seed", "0",
)  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_has_ended_is_written_and_told(
    tmp_path: Path, suffix: str, number: signal.Signals
) -> None:
    out = tmp_path / f"a.{suffix}"
    with started(*ROLLOUT, "--out", str(out)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "all others wait\n"
        process.send_signal(number)
        told, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted after {ENDING} of 100 episodes, which are in {out}" in said
    assert "Traceback" not in said
    for part in ("episodes", "return", "completed", "file"):
        assert part in told
    assert out.name in "".join(told.split()).replace("│", "")
    assert {t.index for t in read_trajectories(out)} == set(range(ENDING))


def test_without_a_file_nothing_is_kept_and_that_is_said() -> None:
    with started(*ROLLOUT, "--json") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all others wait\n"
        process.send_signal(signal.SIGINT)
        told, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert '"interrupted": true' in told
    assert "without --out nothing of them is kept" in said


def test_ctrl_c_on_a_terminal_ends_the_bar_and_shows_the_summary(tmp_path: Path) -> None:
    with terminal(*ROLLOUT, "--out", str(tmp_path / "a.jsonl"), COLUMNS="200") as shown:
        shown.read_until("all others wait")
        shown.type(b"\x03")
        sent = shown.read_all()
    assert shown.process.returncode == 130
    assert f"interrupted after {ENDING} of 100 episodes" in sent
    assert "Traceback" not in sent
    assert sent.rfind("\x1b[?25h") > sent.rfind("\x1b[?25l") >= 0  # the cursor is shown again


def test_twice_on_a_terminal_gives_the_cursor_back() -> None:
    with terminal("rollout", f"{WORLDS}:ClosesLate", *ROLLOUT[2:], COLUMNS="200") as shown:
        shown.read_until("all others wait")
        shown.type(b"\x03")
        shown.read_until("interrupted after")
        servers = psutil.Process(shown.process.pid).children(recursive=True)
        shown.type(b"\x03")
        sent = shown.read_all()
    assert shown.process.returncode == 130
    assert "\x1b[?25h" in sent.partition("interrupted after")[2]
    for server in servers:
        server.kill()


def test_twice_ends_it_at_once() -> None:
    """Closing what was begun lasts, after the first; the second does not wait."""
    arguments = ("rollout", f"{WORLDS}:ClosesLate", *ROLLOUT[2:])
    with started(*arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "all others wait\n"
        servers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        while "interrupted after" not in line:
            line = process.stderr.readline()
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert time.monotonic() - begun < 5
        assert "interrupted again" in process.stderr.read()
    for server in servers:  # which see that nobody wants them any more
        server.kill()
