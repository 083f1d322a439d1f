"""The command line as a whole: help, wrong values, errors of the library and bugs."""

from __future__ import annotations

import resource

import pytest

from openenv_async.errors import EnvironmentDied
from tests.cli.commands import (
    COUNTING,
    invoke,
    one_line,
    run,
)


def test_help_is_quick() -> None:
    """In seconds of CPU: on an idle machine that is how long one waits."""
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert result.returncode == 0
    assert "rollout" in result.stdout
    assert best < 0.4


@pytest.mark.parametrize("command", ["serve", "rollout", "demo"])
def test_every_command_has_examples(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"  openenv-async {command}" in result.output.partition("Examples:")[2]


def test_the_version() -> None:
    assert invoke("--version").output.startswith("openenv-async, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xyzzy"], "No such command 'xyzzy'"),
        (["serve"], "Missing argument 'TARGET'"),
        (["serve", "echo", "--port", "high"], "--port"),
        (["serve", "echo", "--max-sessions", "0"], "--max-sessions"),
        (["serve", "echo", "--step-timeout", "-1"], "is not a number of seconds"),
        (["serve", "echo", "--step-timeout", "soon"], "is not a number of seconds"),
        (["serve", "echo", "--param", "size"], "'size' is not KEY=VALUE"),
        (["serve", "echo", "--param", "a b=1"], "not KEY=VALUE"),
        (["serve", "json:loads"], "TARGET"),
        (["rollout", "echo", "--episodes", "0"], "--episodes"),
        (["rollout", "echo", "--out", "file.txt"], "neither in .jsonl nor .parquet"),
        (["rollout", "echo", "--policy", "clever"], "write random or module:callable"),
        (["rollout", "http://127.0.0.1:1", "--param", "a=1"], "has its arguments already"),
        (["rollout", "no-such-thing"], "there is no environment 'no-such-thing'"),
    ],
)
def test_a_wrong_value_is_one_line_and_2(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    line = one_line(result.stderr)
    assert message in line
    assert "--help" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "no-such-thing"], "there is no environment 'no-such-thing'"),
        (["serve", "./nowhere"], "no folder"),
        (["serve", COUNTING, "--param", "color=1"], "color"),
        (
            ["serve", COUNTING, "--host", "192.0.2.1", "--insecure"],
            "cannot listen on 192.0.2.1:8000",
        ),
        (["rollout", "http://127.0.0.1:1"], "cannot read http://127.0.0.1:1/schema"),
    ],
)
def test_an_error_of_the_library_is_one_line_and_1(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert message in one_line(result.stderr)


def test_the_log_of_what_failed_follows_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    log = "\n".join([*(f"line {n}" for n in range(40)), "\x1b[2J https://user:secret@host/"])

    def failing(*_: object, **__: object) -> None:
        raise EnvironmentDied("its process is gone", log_tail=log)

    monkeypatch.setattr("openenv_async.targets.discovery.find_target", failing)
    result = invoke("serve", "echo")
    assert result.exit_code == 1
    first, second, *lines = result.stderr.splitlines()
    assert first == "error: its process is gone"
    assert second == "its log ends with:"
    assert lines[:-1] == [f"  line {n}" for n in range(21, 40)]
    assert "\x1b" not in lines[-1]
    assert "secret" not in lines[-1]


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("openenv_async.targets.discovery.find_target", broken)
    assert isinstance(invoke("serve", "echo").exception, ZeroDivisionError)


def test_without_a_command_the_help_is_shown() -> None:
    result = run()
    assert result.returncode == 2
    assert result.stderr == run("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "ehco"], 2, "did you mean echo?"),
        (["info", "http://127.0.0.1:1"], 1, "http://127.0.0.1:1 does not answer"),
        (["info", "http://127.0.0.1:1", "--param", "a=1"], 2, "has its arguments already"),
        (["info", "json:loads"], 2, "TARGET"),
        (["play", "ehco"], 2, "did you mean echo?"),
        (["play", "http://127.0.0.1:1"], 1, "cannot read http://127.0.0.1:1/schema"),
        (["play", "http://127.0.0.1:1", "--param", "a=1"], 2, "has its arguments already"),
        (["validate", "ehco"], 2, "did you mean echo?"),
        (["validate", "./nowhere"], 2, "no folder"),
        (["validate", "http://127.0.0.1:1"], 1, "http://127.0.0.1:1 does not answer"),
        (["validate", "echo", "--check", "luck"], 2, "there is no check 'luck'"),
        (["validate", "echo", "--sessions", "1"], 2, "--sessions"),
        (["validate", "http://127.0.0.1:1", "--param", "a=1"], 2, "has its arguments already"),
        (["completion", "dos"], 2, "'dos'"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], code: int, message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    "command", ["init", "validate", "list", "info", "play", "doctor", "completion"]
)
def test_help_has_examples_and_exit_codes(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"  openenv-async {command}" in result.output.partition("Examples:")[2]
    assert "Exit codes: 0" in result.output
