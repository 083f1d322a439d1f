"""Options that several commands share: durations, constructor arguments, tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pytest

from openenv_async.cli.options import (
    SECONDS,
    agent_token_option,
    complete_target,
    examples,
    import_from_here,
    is_url,
    param_option,
    timeout_options,
    token_option,
)
from openenv_async.types import MAX_SECONDS


def read(*decorators: Any) -> Any:
    """A command that gives back the values of its options."""

    def values(**given: Any) -> Any:
        return given

    command: Any = values
    for decorate in decorators:
        command = decorate(command)
    made = click.command()(command)
    return lambda *arguments: made.main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("none", 0.0), ("1.5", 1.5), (f"{MAX_SECONDS:g}", MAX_SECONDS)],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert SECONDS.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf", "", f"{2 * MAX_SECONDS:g}"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a number of seconds from 0 to"):
        SECONDS.convert(text, None, None)


def test_constructor_arguments_are_json_or_text() -> None:
    command = read(param_option)
    assert command()["params"] == {}
    given = command(
        "--param", "n=5", "--param", "s=a=b", "--param", 'd={"k": [1]}', "--param", "e="
    )
    assert given["params"] == {"n": 5, "s": "a=b", "d": {"k": [1]}, "e": ""}
    for wrong in ("n", "a b=1", "=1", "1n=2"):
        with pytest.raises(click.BadParameter, match="is not KEY=VALUE"):
            command("--param", wrong)


def test_a_token_is_read_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = read(token_option)
    monkeypatch.delenv("OPENENV_TOKEN", raising=False)
    assert command()["token"] is None
    monkeypatch.setenv("OPENENV_TOKEN", "of-the-environment")
    assert command()["token"] == "of-the-environment"
    (path := tmp_path / "token").write_text("of-the-file\n")
    assert command("--token-file", str(path))["token"] == "of-the-file"
    path.write_text("two\nlines\n")
    with pytest.raises(click.BadParameter):
        command("--token-file", str(path))


def test_the_token_of_agents_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = read(agent_token_option)
    monkeypatch.setenv("OPENENV_TOKEN", "of-the-trainer")
    monkeypatch.delenv("OPENENV_AGENT_TOKEN", raising=False)
    assert command()["agent_token"] is None
    monkeypatch.setenv("OPENENV_AGENT_TOKEN", "of-the-environment")
    assert command()["agent_token"] == "of-the-environment"
    (path := tmp_path / "token").write_text("of-the-file\n")
    assert command("--agent-token-file", str(path))["agent_token"] == "of-the-file"
    monkeypatch.setenv("OPENENV_AGENT_TOKEN", "two words")
    with pytest.raises(click.BadParameter, match="OPENENV_AGENT_TOKEN"):
        command()


def test_each_timeout_of_a_server_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    command = read(timeout_options)
    given = command("--step-timeout", "7")
    assert given["step_timeout"] == 7.0
    assert given["reset_timeout"] is None
    assert "connect_timeout" not in given
    monkeypatch.setenv("OPENENV_TIMEOUT_STEP", "8")
    assert command()["step_timeout"] == 8.0
    assert command("--step-timeout", "0")["step_timeout"] == 0.0


def test_examples_are_kept_line_by_line() -> None:
    assert examples("list", "ps") == "\b\nExamples:\n  openenv-async list\n  openenv-async ps"


def test_urls_are_told_by_their_scheme() -> None:
    assert all(map(is_url, ("http://a", "https://a", "ws://a", "wss://a")))
    assert not any(map(is_url, ("echo", "a:1", "./http://", "docker://a")))


def test_modules_of_this_folder_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    import_from_here()
    import_from_here()
    assert sys.path == [str(tmp_path), "/elsewhere"]
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    import_from_here()
    assert sys.path == ["", "/elsewhere"]


def test_names_and_folders_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"echo": None, "eliza": None, "grid": None}
    monkeypatch.setattr("openenv_async.targets.discovery.installed", lambda: installed)
    context: Any = None

    def completed(text: str) -> list[tuple[str, str]]:
        return [(item.value, item.type) for item in complete_target(context, context, text)]

    assert completed("e") == [("echo", "plain"), ("eliza", "plain")]
    assert completed("") == [(name, "plain") for name in installed] + [("", "dir")]
    for path in ("./e", "~/x", ".", "zzz"):
        assert completed(path) == [(path, "dir")]
