"""``openenv-async certify``: lines, files, statements of others, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from openenv_async.cli import main

GOOD = "tests.checks.certify.broken:Good"
FEW = ("--episodes", "8", "--seconds", "1")
ORACLE = ("--line", "the_oracle_solves_it")


def certified(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["certify", *arguments, *FEW])
    return done.exit_code, done.output


def test_it_prints_lines_and_a_verdict_and_writes_files(tmp_path: Path) -> None:
    out, page = tmp_path / "made.json", tmp_path / "made.html"
    lines = (*ORACLE, "--line", "the_oracle_solves_it")
    code, printed = certified(GOOD, *lines, "--out", str(out), "--html", str(page))
    assert code == 0, printed
    assert printed.splitlines()[0] == "pass       the_oracle_solves_it"
    assert "passed: 1 passed, 0 failed, 0 not shown; source " in printed
    assert json.loads(out.read_text())["verdict"] == "passed"
    assert page.read_text().startswith("<!doctype html>")


def test_what_fails_says_what_to_do_and_exits_with_1() -> None:
    code, printed = certified("tests.checks.certify.broken:RefusesTheRightAnswer", *ORACLE)
    assert code == 1
    first, reason, remedy, last = printed.splitlines()
    assert first == "FAIL       the_oracle_solves_it"
    assert reason.strip().startswith("the oracle is paid 0")
    assert remedy.strip().startswith("do: play one task by the oracle")
    assert last.startswith("failed: 0 passed, 1 failed")


def test_what_is_not_shown_is_not_passed_and_json_says_so() -> None:
    declared = "tests.checks.certify.broken:NOT_STATED"
    code, printed = certified(GOOD, *ORACLE, "--declaration", declared, "--json")
    assert code == 1
    read = json.loads(printed)
    assert read["verdict"] == "not shown"
    assert read["lines"][0]["reason"] == "the environment states no oracle"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((GOOD, "--line", "all_is_well"), "there is no line 'all_is_well'"),
        ((GOOD, "--declaration", "tests.checks.certify.broken:oracle"), "not a Certification"),
        ((GOOD, "--declaration", "no_such_module:NAME"), "--declaration"),
        (("./no_such_folder",), "TARGET"),
    ],
)
def test_wrong_values_are_told_in_one_line(arguments: tuple[str, ...], told: str) -> None:
    code, printed = certified(*arguments)
    assert code == 2, printed
    assert told in printed
