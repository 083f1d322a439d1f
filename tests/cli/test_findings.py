"""Results of checks on the terminal, and the option for some of them alone."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from openenv_async.checks.registry import Result
from openenv_async.cli.findings import Findings, names_option, quiet_option

PASSED = Result("sums_are_right", "server", "passed", "3 of 3")
FAILED = Result("ends_meet", "server", "failed", "one is loose", "tie it")


@click.command()
@names_option("line", lambda: {PASSED.name: 1, FAILED.name: 2})
@quiet_option
def command(names: Any, quiet: bool) -> None:
    click.echo(f"{names}")
    findings = Findings("not shown", quiet)
    for result in (PASSED, FAILED):
        findings.show(result)


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (
            [],
            0,
            [
                "None",
                "pass       sums_are_right",
                "           3 of 3",
                "FAIL       ends_meet",
                "           one is loose",
                "           do: tie it",
            ],
        ),
        (
            ["--quiet", "--line", "ends_meet"],
            0,
            [
                "('ends_meet',)",
                "FAIL       ends_meet",
                "           one is loose",
                "           do: tie it",
            ],
        ),
    ],
)
def test_results_are_shown_line_by_line(arguments: list[str], code: int, lines: list[str]) -> None:
    done = CliRunner().invoke(command, arguments)
    assert (done.exit_code, done.output.splitlines()) == (code, lines)


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    done = CliRunner().invoke(command, ["--line", "all_is_well"])
    assert done.exit_code == 2
    assert "there is no line 'all_is_well'; there are sums_are_right, ends_meet" in done.output
