"""``play``: an environment by hand, typed into a pipe."""

from __future__ import annotations

import random
import signal
import subprocess
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from tests.cli.commands import PROGRAM, ROOT, children
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
