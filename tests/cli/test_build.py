"""``openenv-async build``: the image it makes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from openenv_async.cli import main
from openenv_async.cli.build import build_arg_option, said
from tests.building.test_build import tag as tag  # a fixture
from tests.building.test_build import tiny
from tests.providers.engines import docker
from tests.providers.fixtures import engine as engine  # a fixture


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.usefixtures("engine")
def test_the_command_builds(tmp_path: Path, tag: str) -> None:
    tiny(tmp_path, "RUN echo said")
    command = [sys.executable, "-m", "openenv_async.cli", "build", str(tmp_path), "--tag", tag]
    done = subprocess.run(
        [*command, "--json", "--no-check"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["image"], said["id"]) == (tag, docker("inspect", "--format", "{{.Id}}", tag))
    assert "Step 1/3" in done.stderr
    tiny(tmp_path, "RUN false")
    done = subprocess.run([*command, "-q"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tag} was not built: failed in step 3 of 3 (RUN false)")
    assert done.stderr.count("\n") == 1


def test_wrong_values_are_refused() -> None:
    for arguments in (["--build-arg", "x"], ["--push"], ["--tag", "plain", "--push"]):
        result = CliRunner().invoke(main, ["build", ".", *arguments])
        assert result.exit_code == 2, result.output


def test_arguments_of_the_dockerfile_are_read() -> None:
    @click.command()
    @build_arg_option
    def command(build_args: dict[str, str]) -> dict[str, str]:
        return build_args

    def run(given: list[str]) -> object:
        return command.main(given, standalone_mode=False)

    assert run([]) == {}
    assert run(["--build-arg", "BASE=a=b", "--build-arg", "N="]) == {"BASE": "a=b", "N": ""}
    for wrong in ("BASE", "a b=1", "=1"):
        with pytest.raises(click.BadParameter, match="not KEY=VALUE"):
            run(["--build-arg", wrong])


def test_output_goes_to_standard_error_or_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    said(quiet=True)("not shown")
    said(quiet=False)("shown")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "shown\n")
