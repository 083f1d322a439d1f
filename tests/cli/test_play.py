"""``play``: an environment by hand, typed into a pipe."""

from __future__ import annotations

import random
import signal
import subprocess
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from tests.cli.commands import PROGRAM, ROOT, children
from tests.cli.terminals import terminal
from tests.helpers import default_interrupt

GOOD = "tests.checks.validation.broken:Good"


def played(*lines: str, arguments: tuple[str, ...] = (GOOD, "--seed", "3")) -> Any:
    return subprocess.run(
        [*PROGRAM, "play", *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def test_an_episode_by_hand() -> None:
    first = random.Random(3).randint(0, 10**9)
    done = played("4", "far", "-1", ":state", ":json", '{"by": 2}', "nonsense", "", ":quit")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in (
        "episode, seed 3",
        f"[{first}]",
        "by (integer): 4",
        "reward 1",
        "by: is str 'far', not integer",
        "total       3",
        "that is not JSON",
    ):
        assert part in done.stdout


def test_random_actions_to_the_end_and_another_episode() -> None:
    done = played(":random 50", "", ":reset 8", ":help", ":dance")
    assert done.returncode == 0, done.stderr
    for part in ("terminated, return 20", "Enter begins another", "episode, seed 8", ":random [N]"):
        assert part in done.stdout
    assert "there is no command :dance" in done.stdout


def test_legal_actions_are_shown_and_completed() -> None:
    corridor = ("tests.legal_games:Corridor",)
    done = played("1", "-", ":legal", "0", ":random 9", arguments=corridor)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    shown = [line.strip() for line in lines if line.startswith("   legal: ")]
    assert shown[:3] == ["legal: side 1", "legal: side -1, 1", "legal: side 1"]
    assert "side: -1" in lines  # the only one that begins so
    assert "   side 1" in lines  # as :legal says
    assert "refused: 0 leads nowhere from 0" in lines
    assert sum(line.startswith("action {'side': ") for line in lines) >= 4
    assert done.stdout.count("refused") == 1  # random ones are legal


def test_an_action_of_many_is_shown_in_part_and_a_wrong_mask_is_told() -> None:
    done = played(":legal", arguments=("openspiel", "--param", "game_name=go(board_size=9)"))
    assert done.returncode == 0, done.stderr
    assert "23, … (82 in all, :legal shows them)" in done.stdout
    assert ", 79, 80, 81" in done.stdout
    done = played(arguments=("tests.checks.validation.broken:HasMasksOfAnotherLength",))
    assert "legal: the environment gave an action_mask of 7 entries for 3 actions" in done.stdout
    done = played(":legal")
    assert "nothing is told of that" in done.stdout


def test_tab_completes_a_legal_action_on_a_terminal() -> None:
    with terminal("play", "tests.legal_games:Corridor") as shown:
        for keys, result in ((b"1", "legal: side -1, 1"), (b"-\t", "legal: side 1")):
            shown.read_until("side (integer -1 to 1): ")
            shown.sent = ""
            shown.type(keys)
            shown.read_until("1")  # what the terminal made of the keys
            shown.type(b"\n")
            shown.read_until(result)
            assert result in shown.sent
            assert "refused" not in shown.sent
        shown.read_until("side (integer -1 to 1): ")  # typed before it, the end is lost
        shown.type(b"\x04")  # the end of the input
        shown.read_all()
        assert shown.process.returncode == 0


def test_an_environment_that_raises_is_told() -> None:
    done = played("1", arguments=("tests.checks.validation.broken:RaisesInStep",))
    assert done.returncode == 0
    assert "refused: step() of RaisesInStep raised ZeroDivisionError: broken" in done.stdout


@pytest.mark.parametrize("command", ["play", "validate"])
def test_an_interrupt_leaves_nothing_behind(command: str) -> None:
    target = GOOD if command == "play" else "tests.checks.validation.broken:GoesOnAfterItsDeadline"
    with subprocess.Popen(
        [*PROGRAM, command, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=default_interrupt,
    ) as process:
        try:
            assert process.stdout is not None
            wanted = "episode" if command == "play" else "the_server_starts"
            while wanted not in process.stdout.readline():
                assert process.poll() is None
            servers = children(process)
            assert servers
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
            _, alive = psutil.wait_procs(servers, timeout=20)
            assert not alive
        finally:
            process.kill()
