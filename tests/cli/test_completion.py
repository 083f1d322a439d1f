"""``openenv-async completion``: names and options that a shell completes."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from openenv_async.cli import main
from openenv_async.targets import discovery
from tests.cli.commands import (
    PROGRAM,
    ROOT,
    invoke,
)

pytest.importorskip("echo_env")


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
