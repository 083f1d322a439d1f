"""``openenv-async validate``: results as lines and as JSON, and exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from click.testing import CliRunner

from openenv_async.checks.validation import CHECKS
from openenv_async.cli import main
from tests.checks.validation.test_folder import folder as folder  # a fixture
from tests.cli.commands import PROGRAM

GOOD = "tests.checks.validation.broken:Good"
TEXT = "tests.checks.validation.broken:EndsOddly"
CHECK = ("--check", "rewards_are_numbers")


def test_the_command_prints_json_and_exits_with_1(folder: Path) -> None:
    (folder / "README.md").unlink()
    done = subprocess.run(
        [*PROGRAM, "validate", "--json", "--check=files_are_there", "--check=modules_import"],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout) == [
        {
            "name": "files_are_there",
            "result": "fail",
            "reason": "missing: README.md",
            "remedy": CHECKS["files_are_there"].remedy,
        },
        {"name": "modules_import", "result": "pass", "reason": "", "remedy": ""},
    ]


def test_each_result_is_a_line_and_the_last_counts_them() -> None:
    done = CliRunner().invoke(main, ["validate", GOOD, *CHECK, "--check", "files_are_there"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "skip  files_are_there",
        "      only of a folder with an openenv.yaml",
        "pass  the_server_starts",
        "pass  rewards_are_numbers",
        "2 passed, 0 failed, 1 skipped",
    ]


def test_what_failed_says_what_to_do() -> None:
    done = CliRunner().invoke(main, ["validate", TEXT, *CHECK, "--quiet"])
    assert done.exit_code == 1
    first, found, remedy, last = done.output.splitlines()
    assert first == "FAIL  rewards_are_numbers"
    assert found.startswith("      ")
    assert remedy == f"      do: {CHECKS['rewards_are_numbers'].remedy}"
    assert last == "1 passed, 1 failed, 0 skipped"
