"""Types as a user's program sees them: mypy and pyright read two files outside the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
MYPY: Final = [sys.executable, "-m", "mypy", "--strict", "--cache-dir"]
PYRIGHT: Final = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with the files and no settings of this repository."""
    shutil.copy(HERE / "user_file.py", tmp_path)
    shutil.copy(HERE / "wrong_file.txt", tmp_path / "wrong_file.py")
    return tmp_path


def checker(name: str, file: str) -> list[str]:
    """The command of a type checker, without the file.

    Two mypy processes must not write one cache, so that each file has its own.
    """
    if name == "mypy":
        return [*MYPY, str(ROOT / ".mypy_cache" / Path(file).stem)]
    probe = subprocess.run(
        [sys.executable, "-m", "pyright", "--version"], capture_output=True, timeout=120
    )
    if probe.returncode != 0:
        reason = "pyright is not installed, or could not fetch what it runs on"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return PYRIGHT


def reported(name: str, folder: Path, file: str) -> tuple[str, list[int]]:
    """What a type checker says about a file, and the lines with errors."""
    done = subprocess.run(
        [*checker(name, file), file], cwd=folder, capture_output=True, text=True, timeout=240
    )
    lines = re.findall(rf"{re.escape(file)}:(\d+)(?::\d+)?(?: -)?:? error", done.stdout)
    return done.stdout + done.stderr, sorted(set(map(int, lines)))


@pytest.mark.parametrize("name", ["mypy", "pyright"])
def test_a_users_program_has_its_types(name: str, folder: Path) -> None:
    said, lines = reported(name, folder, "user_file.py")
    assert lines == [], said
    assert "Success: no issues" in said or "0 errors, 0 warnings" in said, said


@pytest.mark.parametrize("name", ["mypy", "pyright"])
def test_a_users_mistakes_are_reported(name: str, folder: Path) -> None:
    text = (folder / "wrong_file.py").read_text("utf-8").splitlines()
    wrong = [number for number, line in enumerate(text, 1) if line.endswith("# wrong")]
    said, lines = reported(name, folder, "wrong_file.py")
    assert len(wrong) > 10
    assert lines == wrong, said
