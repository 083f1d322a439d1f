"""Run the tests of a room on a copy of the tree with one mutation."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ROOMS", "Copy", "Verdict", "room_of"]

ROOMS: Final = ("engine", "client", "pool", "protocol", "rollouts", "gateway")
_HANGS: Final = 40
"""Seconds after which one test counts as hanging."""
_HUNG: Final = re.compile(r'File ".*/(tests/[^"]+)", line \d+ in (test_\w+)')
_KILLER: Final = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """The end of one mutation.

    Attributes:
        killed: whether the tests noticed.
        by: the test that failed first, or why there is none.
        seconds: until then.
    """

    killed: bool
    by: str
    seconds: float


def _tracked(root: Path) -> list[str]:
    """The files of the checkout that git knows, or would if they were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
    return [name for name in output.decode().split("\0") if name]


def room_of(file: str) -> str:
    """The package of a module: ``openenv_async/ROOM/…``."""
    return Path(file).parts[1]


class Copy:
    """A copy of the tree, in which one mutation at a time is tried; the checkout stays untouched.

    Args:
        root: of the tree.
        folder: where the copy lies.
        limit: seconds for the tests of one room.
        names: of the files; by default those that git knows.
    """

    def __init__(
        self, root: Path, folder: Path, limit: float, names: Iterable[str] | None = None
    ) -> None:
        self.root = root
        self.folder = folder
        self._limit = limit
        folder.mkdir(parents=True)
        for name in _tracked(root) if names is None else names:
            source, target = root / name, folder / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def check(self, room: str) -> None:
        """Run the tests of a room without a mutation, for as long as they take.

        Raises:
            RuntimeError: one fails, so that it would seem to notice whatever is tried.
        """
        limit, self._limit = self._limit, 3600.0
        try:
            verdict = self._run(self._tests(f"openenv_async/{room}/", ()))
        finally:
            self._limit = limit
        if verdict.killed:
            raise RuntimeError(f"{verdict.by} fails without any mutation")

    def try_out(
        self, file: str, mutate: Callable[[bytes], bytes], first: Iterable[str] = ()
    ) -> Verdict:
        """Run the tests of the file's room on its mutation.

        Args:
            file: path from the root.
            mutate: makes the mutated source.
            first: test files that are run first, by their path from the root.
        """
        path = self.folder / file
        source = path.read_bytes()
        try:
            self._write(path, mutate(source))
            return self._run(self._tests(file, first))
        finally:
            self._write(path, source)

    def _write(self, path: Path, source: bytes) -> None:
        """Write a module; compiled ones are told from each other by whole seconds only."""
        path.write_bytes(source)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def _tests(self, file: str, first: Iterable[str]) -> list[str]:
        """The test files of a room, those that are about the module first."""
        room = room_of(file)
        files = [
            str(path.relative_to(self.folder))
            for path in sorted((self.folder / "tests" / room).rglob("test_*.py"))
        ]
        stem = Path(file).stem
        leading = [*first, *(name for name in files if Path(name).stem == f"test_{stem}")]
        leading += [name for name in files if stem in Path(name).stem]
        leading += [name for name in files if Path(name).stem == "test_races"]
        return list(dict.fromkeys([*leading, *files]))

    def _run(self, tests: list[str]) -> Verdict:
        start = time.monotonic()
        command = [
            *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no"),
            *("-p", "no:cacheprovider"),
            *("-m", "not docker and not heavy and not browser"),
            *("-o", f"faulthandler_timeout={_HANGS}"),
            *tests,
        ]
        env = {**os.environ, "PYTHONPATH": str(self.folder), "HYPOTHESIS_STORAGE_DIRECTORY": "off"}
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=self._limit)
        except subprocess.TimeoutExpired:
            return Verdict(False, f"no test failed in {self._limit:g} s", self._limit)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.monotonic() - start
        if process.returncode == 0:
            return Verdict(False, "all tests passed", seconds)
        failed = _KILLER.search(output)
        if failed is not None:
            return Verdict(True, failed[1], seconds)
        if "Timeout (" in output:
            hung = _HUNG.search(output)
            return Verdict(True, f"{hung[1]}::{hung[2]}" if hung else "a test hung", seconds)
        return Verdict(True, f"pytest ended with {process.returncode}", seconds)
