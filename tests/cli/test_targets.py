"""TARGET of every command: each kind of text is taken, and what is wrong is one line and code 2."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from openenv_async import serve
from openenv_async.building.scaffold import scaffold
from openenv_async.cli import main
from openenv_async.cli.targets import resolved, target_argument
from openenv_async.errors import TargetNotFound
from tests.checks.validation.broken import Good

pytest.importorskip("echo_env")
GOOD = "tests.checks.validation.broken:Good"
COMMANDS: dict[str, tuple[str, ...]] = {
    "bench": ("--sessions", "2", "--seconds", "0.1", "--warmup", "0", "--json"),
    "play": (),
    "info": ("--json",),
    "validate": ("--check", "rewards_are_numbers", "--json"),
    "conformance": ("--check", "a_whole_episode_runs", "--json"),
    "rollout": ("--episodes", "2", "--max-steps", "2", "--json"),
    "replay": ("--json",),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "good.jsonl"
    arguments = ["rollout", GOOD, "--episodes", "2", "--seed", "0", "--out", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("made")
    scaffold("mine_env", into=into)
    return into / "mine_env"


def invoke(command: str, recorded: Path, *targets: str) -> Result:
    first = (str(recorded),) if command == "replay" else ()
    arguments = [command, *first, *targets, *COMMANDS[command]]
    return CliRunner().invoke(main, arguments, input=":random 1\n:quit\n")


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_class_a_url_and_several(command: str, recorded: Path) -> None:
    async with serve(Good) as url, serve(Good) as other:
        for targets in ((GOOD,), (url,), (url, other), (f"{url}, {other}",), (f"{url}/",)):
            done = await asyncio.to_thread(invoke, command, recorded, *targets)
            assert done.exit_code == 0, (targets, done.output, done.exception)
            assert done.stdout


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "replay"])
@pytest.mark.parametrize("kind", ["name", "folder", "id"])
def test_a_name_a_folder_and_an_id(command: str, kind: str, recorded: Path, folder: Path) -> None:
    if kind == "id":
        pytest.importorskip("gymnasium_env")
    target = {"name": "echo", "folder": str(folder), "id": "CartPole-v1"}[kind]
    done = invoke(command, recorded, target)
    assert done.exit_code == 0, (done.output, done.exception)


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("ehco",), "did you mean echo?"),
    (("./nothing",), "there is no folder './nothing'"),
    (("localhost:8000",), "write http://localhost:8000"),
    (("htp://127.0.0.1:1",), "write http://127.0.0.1:1"),
    (("http://",), "is not a valid server address"),
    (("no_module_here:Class",), "there is no module 'no_module_here'"),
    ((GOOD + "s",), "did you mean Good"),
    (("http://127.0.0.1:1", "echo"), "several targets are URLs"),
    (("http://127.0.0.1:1,echo",), "several targets are URLs"),
    (("docker://",), "docker://NAME:TAG"),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("targets", "message"), WRONG, ids=lambda case: str(case)[:30])
def test_a_wrong_target_is_one_line_and_2(
    command: str, targets: tuple[str, ...], message: str, recorded: Path
) -> None:
    done = invoke(command, recorded, *targets)
    assert done.exit_code == 2, (done.output, done.exception)
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "TARGET" in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("target", ["http://127.0.0.1:1", "docker://image:1", "owner/space"])
def test_what_runs_takes_no_params(command: str, target: str, recorded: Path) -> None:
    done = invoke(command, recorded, target, "--param", "a=1")
    assert done.exit_code == 2, (done.output, done.exception)
    assert "--param" in done.stderr
    assert "takes no params" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
async def test_the_token_of_the_environment_is_for_servers_that_run(
    command: str, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENENV_TOKEN", "secret")
    async with serve(Good, token="secret") as url:
        for target in (url, GOOD):
            done = await asyncio.to_thread(invoke, command, recorded, target)
            assert done.exit_code == 0, (done.output, done.exception)


async def test_each_of_several_servers_is_checked(recorded: Path) -> None:
    async with serve(Good) as url, serve(Good) as other:
        done = await asyncio.to_thread(invoke, "conformance", recorded, url, other)
        found = {result["door"] for result in json.loads(done.stdout)}
        assert {f"http of {url}", f"http of {other}"} <= found
        done = await asyncio.to_thread(invoke, "validate", recorded, url, other)
        names = [result["name"] for result in json.loads(done.stdout)]
    assert names == ["the_server_starts", "rewards_are_numbers"] * 2


@pytest.fixture
def read() -> Any:
    """A command that gives back what its TARGET was read as."""

    @click.command()
    @target_argument(required=False)
    def command(target: Any) -> Any:
        return target

    return lambda *arguments: command.main(list(arguments), standalone_mode=False)


def test_several_targets_are_a_list(read: Any) -> None:
    assert read() is None
    assert read("echo") == "echo"
    assert read("a,b") == "a,b"
    assert read("http://a:1") == "http://a:1"
    assert read("http://a:1, ws://b:2,") == ["http://a:1", "ws://b:2"]
    assert read("http://a:1", "https://b:2,ws://c:3") == ["http://a:1", "https://b:2", "ws://c:3"]
    with pytest.raises(click.BadParameter, match="'echo' is not one"):
        read("http://a:1", "echo")


def test_a_target_without_one_is_missing_or_the_default() -> None:
    @click.command()
    @target_argument()
    def needs(target: Any) -> Any:
        return target

    @click.command()
    @target_argument(default=".")
    def has(target: Any) -> Any:
        return target

    with pytest.raises(click.MissingParameter):
        needs.main([], standalone_mode=False)
    assert has.main([], standalone_mode=False) == "."


def test_a_token_belongs_to_urls_alone() -> None:
    assert resolved("http://a:1", None, "secret", "test").token == "secret"
    assert resolved(["http://a:1", "http://b:1"], {}, "secret", "test").token == "secret"
    assert resolved("echo", {"a": 1}, "secret", "test").token is None
    with pytest.raises(click.BadParameter) as caught:
        resolved("ehco", None, None, "test")
    assert isinstance(caught.value.__cause__, TargetNotFound)


def test_this_folder_is_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = resolved(".", {}, None, "test")
    assert found.kind == "named"
    assert Path(found.given).resolve() == folder
