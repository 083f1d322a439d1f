"""All that environments and models say is shown by every command, never sent to the terminal."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
from rich.table import Table

from openenv_async.cli import output
from tests.cli.commands import PROGRAM, ROOT, run

WORLDS: Final = "tests.cli.steering_worlds"
STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]")
CLI: Final = ROOT / "openenv_async" / "cli"


def test_text_is_plain_and_a_mark_keeps_its_style(capsys: pytest.CaptureFixture[str]) -> None:
    output.echo("a\x1b[2Jb\nc")
    output.echo("x", mark="ok ", nl=False)
    output.echo("[red]\x07", err=True)
    printed = capsys.readouterr()
    assert printed.out == "a\\x1b[2Jb\nc\nok x"
    assert printed.err == "[red]\\x07\n"


def test_a_status_line_is_replaced_and_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    output.status("one\ntwo")
    output.clear_status()
    assert capsys.readouterr().err == "\rone\\ntwo\r"  # click leaves styles to terminals


def test_a_table_has_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[bold]head", title="[red]t\x1bc")
    table.add_row("[/] :smile: \x9b")
    output.console(width=40).print(table)
    output.console(stderr=True, width=40).print("[red]x\x07")
    printed = capsys.readouterr()
    for part in ("[bold]head", "[red]t\\x1bc", "[/] :smile: \\x9b"):
        assert part in printed.out
    assert printed.err == "[red]x\\x07\n"


@pytest.mark.parametrize(
    ("arguments", "typed", "says"),
    [
        (("rollout", f"{WORLDS}:Steering", "--episodes", "4", "--seed", "0"), "", "raised"),
        (("rollout", f"{WORLDS}:Unusable", "--episodes", "2", "--seed", "0"), "", "always"),
        (("rollout", f"{WORLDS}:Unbuildable", "--episodes", "2"), "", "not built"),
        (
            ("rollout", f"{WORLDS}:Steering", "--episodes", "2", "--policy", f"{WORLDS}:policy"),
            "", "the policy says",
        ),
        (("play", f"{WORLDS}:Steering", "--seed", "1"), "13\n1\n:state\n:quit\n", "refused"),
        (("info", f"{WORLDS}:Steering"), "", "Steers"),
        (("validate", f"{WORLDS}:Unusable"), "", "always"),
        (("conformance", f"{WORLDS}:Unusable", "-v"), "", ""),
        (("info", "no\x1b]0;such\x07thing"), "", "no\\x1b]0;such\\x07thing"),
    ],
)  # fmt: skip
def test_every_command_shows_control_characters(
    arguments: tuple[str, ...], typed: str, says: str
) -> None:
    done = subprocess.run(
        [*PROGRAM, *arguments], input=typed.encode(), capture_output=True, cwd=ROOT, timeout=100,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    printed = done.stdout.decode() + done.stderr.decode()
    assert STEERING.findall(printed) == []
    assert says in printed
    if says and "\\x" not in says:
        assert "\\x1b]0;owned\\x07\\x9b31m[red]\\u202e" in printed.replace("│\n│", "")
    assert "Traceback (most recent call last)" not in printed or "raise RuntimeError" in printed


def test_a_replay_shows_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    assert run("rollout", f"{WORLDS}:Steering", "--episodes", "2", "--seed", "0",
               "--out", str(file)).returncode == 0  # fmt: skip
    done = run("replay", str(file), f"{WORLDS}:Changing")
    assert done.returncode == 1
    assert STEERING.findall(done.stdout + done.stderr) == []
    assert "only now \\x1b]0;owned" in done.stdout


def test_a_bug_is_told_without_steering() -> None:
    code = (
        "import openenv_async.cli as cli, openenv_async.targets.resolve as r\n"
        "import openenv_async.cli.targets as t\n"
        "def broken(*_, **__): raise ZeroDivisionError('bug \\x1b[2J')\n"
        "import logging; t.resolved = broken\n"
        "import openenv_async.cli.info as i; i.resolved = broken\n"
        "cli.main(['info', 'echo'])"
    )
    done = subprocess.run([PROGRAM[0], "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: bug \\x1b[2J\n")
    assert STEERING.findall(done.stderr) == []


def test_what_is_logged_without_set_up_is_plain() -> None:
    code = (
        "import logging, sys, openenv_async.cli as cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: logging.getLogger('x').warning('odd %s', '\\x1b[2J')"
    )
    done = subprocess.run([PROGRAM[0], "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "odd \\x1b[2J\n"


def test_no_command_writes_another_way() -> None:
    """``click.echo``, ``print`` and rich's own console send text as it is."""
    found = []
    for path in sorted(CLI.glob("*.py")):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("click.echo", "click.secho", "print", "Console", "rich.print"):
                    found.append(f"{path.name}:{node.lineno}: {name}")
    assert found == []


def test_a_console_writes_where_it_is_told() -> None:
    out = io.StringIO()
    shown = output.console(width=30)
    shown.file = out
    shown.print("\x1b[1m")
    assert out.getvalue() == "\\x1b[1m\n"
