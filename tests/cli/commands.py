"""The command line as users meet it: processes of it, and click's runner in this one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
from click.testing import CliRunner, Result

from openenv_async.cli import main
from tests.helpers import default_interrupt

__all__ = [
    "COUNTING",
    "HANGING",
    "PROGRAM",
    "ROOT",
    "children",
    "invoke",
    "one_line",
    "run",
    "run_beside",
    "started",
]

PROGRAM = (sys.executable, "-m", "openenv_async.cli")
COUNTING = "tests.rollouts.environments:Counting"
HANGING = "tests.rollouts.environments:Hanging"
ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, **options
    )


def invoke(*arguments: str, **variables: str) -> Result:
    """Run a command in this process."""
    return CliRunner(env={"COLUMNS": "200", **variables}).invoke(main, arguments)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the program that is gone afterwards."""
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=default_interrupt,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return list(psutil.Process(process.pid).children(recursive=True))


def one_line(text: str) -> str:
    [line] = text.splitlines()
    assert line.startswith("error: ")
    return line


async def run_beside(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the program while this loop serves."""
    return await asyncio.to_thread(
        subprocess.run,
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
