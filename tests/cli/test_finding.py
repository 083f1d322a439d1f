"""``list``, ``info``, ``doctor``, ``completion``: what there is, said on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openenv_async import serve
from openenv_async.cli import main
from openenv_async.cli.doctor import findings
from openenv_async.targets import discovery
from tests.checks.validation.broken import Good
from tests.cli.test_cli import PROGRAM, ROOT

pytest.importorskip("echo_env")
GOOD = "tests.checks.validation.broken:Good"


def invoke(*arguments: str, **variables: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", **variables}).invoke(main, arguments)


# -- list ---------------------------------------------------------------------------------------


def test_list_does_without_a_docker_engine(tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nothing.sock"
    result = invoke("list", DOCKER_HOST=nowhere)
    assert result.exit_code == 0
    assert "echo" in result.output
    assert "no Docker Engine" in result.output
    report = json.loads(invoke("list", "--json", DOCKER_HOST=nowhere).output)
    assert "echo" in [each["name"] for each in report["environments"]]
    assert report["images"] == report["workers"] == []
    assert "no Docker Engine" in report["docker"]


def test_list_with_nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("openenv_async.targets.listing.installed", dict)
    result = invoke("list", DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
    assert "No environment is installed" in result.output


# -- info ---------------------------------------------------------------------------------------


def test_info_of_a_name() -> None:
    result = invoke("info", "echo")
    assert result.exit_code == 0
    for part in ("echo_env.client:EchoEnv", "message", "string", "timestamp", "number", "inline"):
        assert part in result.output


def test_info_of_a_class_as_json() -> None:
    report = json.loads(invoke("info", GOOD, "--json").output)
    assert report["name"] == "Good"
    assert report["environment"] == "tests.checks.validation.broken:Good"
    assert set(report["schema"]) == {"action", "observation", "state", "reset"}


async def test_info_of_a_server() -> None:
    async with serve(Good) as url:
        result = await asyncio.to_thread(invoke, "info", url)
    assert result.exit_code == 0, result.output
    for part in ("Good", "max sessions", "1024", "openenv_async/", "array of integer"):
        assert part in result.output


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


# -- doctor -------------------------------------------------------------------------------------


def test_doctor_tells_one_line_each() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == len(json.loads(invoke("doctor", "--json").output))
    text = result.output
    for name in ("Python", "Docker Engine", "file descriptors", "pids", "disk", "memory", "extra"):
        assert name in text


def test_doctor_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    monkeypatch.setattr("openenv_async.cli.doctor._is_there", lambda name: name != "uvloop")
    monkeypatch.setattr("openenv_async.engine.resources.available_memory", lambda: 1000)
    by_name = {each.name: each for each in findings()}
    assert by_name["Docker Engine"].status == "warn"
    assert "DOCKER_HOST" in by_name["Docker Engine"].remedy
    assert by_name["extra fast"].found == "not installed: uvloop"
    assert "openenv-async[fast]" in by_name["extra fast"].remedy
    assert by_name["memory"].status == "warn"
    assert by_name["Python"].remedy == ""


def test_doctor_fails_when_something_needed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.cli.doctor._is_there", lambda name: name != "msgspec")
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "missing: msgspec" in result.output


@pytest.mark.skipif(os.name != "posix", reason="limits of descriptors")
def test_doctor_sees_a_low_limit_of_descriptors() -> None:
    command = f"ulimit -n 256; exec {' '.join(PROGRAM)} doctor --json"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    [found] = [each for each in json.loads(done.stdout) if each["name"] == "file descriptors"]
    assert found["status"] == "warn"
    assert "256" in found["found"]


# -- completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_OPENENV_ASYNC_COMPLETE" in result.output


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("openenv-async serve ec", "plain,echo"),
        ("openenv-async validate ec", "plain,echo"),
        ("openenv-async va", "plain,validate"),
        ("openenv-async init --temp", "plain,--template"),
        ("openenv-async serve ./", "dir,"),
    ],
)
def test_names_and_options_are_completed(words: str, wanted: str) -> None:
    variables: dict[str, Any] = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_OPENENV_ASYNC_COMPLETE": "bash_complete",
    }
    code = "import sys; sys.argv[0] = 'openenv-async'; from openenv_async.cli import main; main()"
    done = subprocess.run(
        [PROGRAM[0], "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **variables},
        timeout=60,
    )
    assert any(line.startswith(wanted) for line in done.stdout.splitlines()), done


def test_every_target_is_completed() -> None:
    assert discovery.installed()
    context = main.make_context("openenv-async", ["--help"], resilient_parsing=True)
    for name in ("serve", "rollout", "bench", "validate", "info", "play"):
        command = main.get_command(context, name)
        assert command is not None
        [target] = [each for each in command.params if each.name == "target"]
        assert [item.value for item in target.shell_complete(context, "ech")] == ["echo"]
