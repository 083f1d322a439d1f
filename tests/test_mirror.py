"""Tests mirror the package by name."""

from __future__ import annotations

from pathlib import Path

from tests.mirror import LONGEST_WITHOUT, modules_without, test_file


def test_every_module_has_a_test_file_of_its_name() -> None:
    found = [str(module) for module, _ in modules_without()]
    assert found == [], "`python -m tests.mirror` says where they belong"


def test_a_module_and_its_test_file() -> None:
    assert test_file(Path("openenv_async/pool/sync.py")) == Path("tests/pool/test_sync.py")
    assert test_file(Path("openenv_async/errors.py")) == Path("tests/test_errors.py")


def test_what_has_none_is_found(tmp_path: Path) -> None:
    package, tests = tmp_path / "openenv_async" / "pool", tmp_path / "tests" / "pool"
    package.mkdir(parents=True)
    tests.mkdir(parents=True)
    long = "x = 1\n" * (LONGEST_WITHOUT + 1)
    for name in ("tested.py", "untested.py", "__init__.py"):
        (package / name).write_text(long)
    (package / "short.py").write_text("x = 1\n" * LONGEST_WITHOUT)
    (tests / "test_tested.py").write_text("")
    found = list(modules_without(tmp_path))
    assert found == [(Path("openenv_async/pool/untested.py"), LONGEST_WITHOUT + 1)]
