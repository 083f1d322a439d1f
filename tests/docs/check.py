"""Checks a page: runs its blocks and commands, follows its links. Each gives a list of problems."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.docs.pages import ADDRESS, Block, Page, matches, read_page

__all__ = ["dead_links", "failing_blocks", "failing_commands", "serving"]

_RUNNER: Final = Path(__file__).with_name("runner.py")
_TIMEOUT: Final = 180.0
_START_TIMEOUT: Final = 30.0


def runnable(page: Page) -> list[Block]:
    return [
        block
        for block in page.blocks
        if block.language == "python" and not {"not run", "file"} & set(block.marks)
    ]


def write_files(page: Page, folder: Path) -> None:
    for block in page.blocks:
        if name := block.marks.get("file"):
            (folder / name).write_text(block.text + "\n", encoding="utf-8")


@contextlib.contextmanager
def serving(page: Page, folder: Path) -> Iterator[str]:
    """The address of a server of what the page serves; the documented one if it serves nothing."""
    if page.serves is None:
        yield ADDRESS
        return
    command = [sys.executable, "-m", "openenv_async.cli", "serve", *shlex.split(page.serves)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--until-stdin-closes"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT)
        line = process.stdout.readline() if ready else ""
        assert line, f"{page.name}: {shlex.join(command)} did not start"
        yield json.loads(line)["url"]
    finally:
        process.stdin.close()
        try:
            process.wait(_START_TIMEOUT)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def failing_blocks(page: Page, folder: Path, url: str) -> list[str]:
    """Run the page's python blocks."""
    problems = [
        f"{page.name}:{block.line}: a block that is not run must say why"
        for block in page.blocks
        if block.marks.get("not run") == ""
    ]
    blocks = runnable(page)
    if not blocks:
        return problems
    done = subprocess.run(
        [sys.executable, str(_RUNNER), page.name],
        input=json.dumps([[block.line, block.text.replace(ADDRESS, url)] for block in blocks]),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        return [*problems, f"{page.name}: {done.stderr}"]
    for block, printed in zip(blocks, json.loads(done.stdout), strict=True):
        if block.expected is not None and not matches(block.expected, printed):
            problems.append(
                f"{page.name}:{block.line}: says that it prints\n{block.expected}\n"
                f"but prints\n{printed}"
            )
    return problems


def failing_commands(page: Page, folder: Path, url: str) -> list[str]:
    """Run the page's ``console`` blocks: lines after ``$`` are commands, the rest their output."""
    problems = []
    # Commands find the programs that are installed beside this interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for block in page.blocks:
        if block.language != "console" or "not run" in block.marks:
            continue
        for command, expected in _commands(block.text):
            if shlex.split(command)[0] == "curl" and shutil.which("curl") is None:
                continue
            done = subprocess.run(
                ["bash", "-c", command.replace(ADDRESS, url)],
                capture_output=True,
                text=True,
                cwd=folder,
                env={**os.environ, "PATH": path, "COLUMNS": "100"},
                timeout=_TIMEOUT,
                check=False,
            )
            printed = (done.stdout + done.stderr).replace(url, ADDRESS)
            if not matches(expected, printed):
                problems.append(
                    f"{page.name}:{block.line}: {command}\nshould print\n{expected}\n"
                    f"but prints\n{printed}"
                )
    return problems


def _commands(text: str) -> Iterator[tuple[str, str]]:
    command, output = "", []
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            output.append(line)
            continue
        if command:
            yield command, "\n".join(output)
        command, output = line[2:], []
        while command.endswith("\\"):
            command = command[:-1] + next(lines).strip()
    if command:
        yield command, "\n".join(output)


def dead_links(page: Page) -> list[str]:
    """Links to files and headings that do not exist; the web is left alone."""
    problems = []
    for line, link in page.links:
        if "://" in link or link.startswith("mailto:"):
            continue
        where, _, anchor = link.partition("#")
        target = (page.path.parent / where).resolve() if where else page.path
        if not target.exists():
            problems.append(f"{page.name}:{line}: there is no {where}")
        elif anchor and target.suffix == ".md" and anchor not in read_page(target).anchors:
            problems.append(f"{page.name}:{line}: {target.name} has no heading for #{anchor}")
    return problems
