"""``play``: an environment by hand, typed into a pipe."""

from __future__ import annotations

import random
import signal
import subprocess
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async.cli.forms import ask, kind_of
from tests.cli.test_cli import PROGRAM, ROOT, children
from tests.helpers import default_interrupt

GOOD = "tests.checks.validation.broken:Good"
NESTED = {
    "type": "object",
    "properties": {
        "tool": {"enum": ["add", "submit"]},
        "flag": {"type": "boolean", "default": False},
        "item": {"$ref": "#/$defs/Item"},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    },
    "required": ["tool", "item"],
    "additionalProperties": False,
    "$defs": {"Item": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}


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


def test_a_form_asks_until_it_fits() -> None:
    answers = iter(["mul", "add", "yes", "true", "seven", '{"n": 7}', '["a"]', ""])
    said: list[str] = []
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        return next(answers)

    assert ask(NESTED, read, said.append) == {
        "tool": "add",
        "flag": True,
        "item": {"n": 7},
        "tags": ["a"],
    }
    assert prompts[0] == 'tool ("add" | "submit"): '
    assert "tags (array of string, empty for []): " in prompts
    assert len(said) == 3


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 3}, "integer 0 to 3"),
        ({"type": "number", "minimum": 0}, "number from 0"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"x-ndarray": {"dtype": "<f4", "shape": [2, 3]}}, "array <f4 2×3"),
        ({"const": 4}, "4"),
        ({}, "anything"),
    ],
)
def test_a_kind_in_a_few_words(schema: dict[str, Any], kind: str) -> None:
    assert kind_of(schema, schema) == kind
