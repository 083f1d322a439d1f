"""A wrapped command by itself, in a shell of this machine, and its output in every cut."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.providers.docker.commands import (
    CommandOutput,
    CommandResult,
    kill_arguments,
    wrapped,
)

WORD = "a1b2c3"


def run(command: str, folder: Path, limit: int = 1000) -> CommandResult:
    done = subprocess.run(
        wrapped(command, WORD, str(folder)), capture_output=True, timeout=30, check=False
    )
    assert done.stderr == b""
    output = CommandOutput(WORD, limit)
    output.feed(done.stdout)
    assert output.ended
    assert output.group is not None
    return output.result()


@pytest.mark.parametrize(
    ("command", "output", "code"),
    [
        ("echo hello", "hello\n", 0),
        ("echo out; echo err >&2; exit 3", "out\nerr\n", 3),
        ("false", "", 1),
        ("printf 'no newline'", "no newline", 0),
        ("echo 'it''s' \"$HOME-less\" > /dev/null; echo \"a'b\\\"c\"", "a'b\"c\n", 0),
        ("cat <<'END'\none\ntwo\nEND", "one\ntwo\n", 0),
        ("read line || echo nothing to read", "nothing to read\n", 0),
        ("exec echo replaced", "replaced\n", 0),
        ("trap 'echo mine' EXIT", "mine\n", 0),
        ("echo '$1' $#", "$1 1\n", 0),
        ("", "", 0),
    ],
)
def test_a_command_does_what_it_does_in_a_shell(
    tmp_path: Path, command: str, output: str, code: int
) -> None:
    result = run(command, tmp_path)
    if "$#" in command:  # the command's own words are not promised
        assert result.output.startswith("$1 ")
    else:
        assert result.output == output
    assert (result.exit_code, result.timed_out, result.cut) == (code, False, 0)


def test_a_word_that_is_no_syntax_is_told_by_the_shell(tmp_path: Path) -> None:
    result = run("if then", tmp_path)
    assert "syntax error" in result.output
    assert result.exit_code not in (0, None)


def test_the_folder_that_a_command_ended_in_is_told(tmp_path: Path) -> None:
    inner = tmp_path / "with space"
    inner.mkdir()
    assert run("cd 'with space'; exit 4", tmp_path).folder == str(inner)
    assert run("true", tmp_path / "gone").folder == "/"
    assert run("exec true", tmp_path).folder is None


def test_the_middle_of_long_output_is_left_out(tmp_path: Path) -> None:
    result = run("for i in $(seq 1000 9999); do echo $i; done", tmp_path, limit=100)
    assert result.output.startswith("1000\n1001\n")
    assert result.output.endswith("9998\n9999\n")
    assert result.cut == 5 * 9000 - 100
    assert f"… {result.cut} bytes cut …" in result.output
    assert len(result.output) < 200


@given(
    st.lists(st.binary(max_size=20), max_size=5),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
)
def test_output_is_read_the_same_however_it_is_cut(pieces: list[bytes], sizes: list[int]) -> None:
    said = (b"\0" + WORD.encode()[:3]).join(pieces)
    mark = b"\0" + WORD.encode()
    stream = mark + b"p42\0" + said + mark + b"d/some where\0" + mark + b"e7\0ignored"
    output = CommandOutput(WORD, 10_000)
    at = turn = 0
    while at < len(stream):
        step = sizes[turn % len(sizes)]
        output.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert output.group == 42
    assert output.ended
    expected = CommandResult(said.decode("utf-8", "replace"), 7, "/some where", False, 0)
    assert output.result() == expected


def test_what_ran_out_of_time_has_no_exit_code() -> None:
    output = CommandOutput(WORD, 100)
    output.feed(b"half of it \0" + WORD.encode()[:2])
    assert not output.ended
    result = output.result(timed_out=True)
    assert result.output == "half of it \0a1"
    assert (result.exit_code, result.folder, result.timed_out) == (None, None, True)


def test_a_mark_that_never_ends_is_text() -> None:
    output = CommandOutput(WORD, 20_000)
    output.feed(b"\0" + WORD.encode() + b"d" + b"x" * 6000)
    output.feed(b"y")
    assert output.result().output.endswith("xy")


def test_a_process_group_is_named_to_kill() -> None:
    assert kill_arguments(42)[-1] == "42"
