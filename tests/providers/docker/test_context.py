"""Which files make the build context."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.providers.docker.context import Ignored, context_files, context_tar


def files(folder: Path, *paths: str) -> None:
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path)


@pytest.mark.parametrize(
    ("lines", "taken", "left"),
    [
        (["*.log"], ["a.log"], ["a.txt", "b/a.log"]),
        (["**/*.log"], ["a.log", "b/a.log", "b/c/a.log"], ["a.log.txt"]),
        (["build"], ["build", "build/x", "build/y/z"], ["rebuild", "a/build"]),
        (["/build/"], ["build/x"], ["a/build"]),
        (["**/__pycache__"], ["__pycache__/x.pyc", "a/b/__pycache__/x"], ["pycache"]),
        (["a?c"], ["abc"], ["ac", "a/c"]),
        (["[ab]x"], ["ax", "bx"], ["cx"]),
        (["a/*"], ["a/b", "a/b/c"], ["a", "b"]),
        (["a/**/z"], ["a/z", "a/b/c/z"], ["z"]),
        (["*", "!keep", "!in/keep"], ["x", "in/x"], ["keep", "keep/x", "in/keep"]),
        (["*.md", "!README.md"], ["a.md"], ["README.md"]),
        (["!a", "a"], ["a"], []),
        (["# a", "", "  b  "], ["b"], ["a", "# a"]),
        (["./c/../d"], ["d"], ["c"]),
        (["a.b"], ["a.b"], ["axb"]),
    ],
)
def test_patterns_are_dockers(lines: list[str], taken: list[str], left: list[str]) -> None:
    ignored = Ignored(lines)
    assert [path for path in taken if path not in ignored] == []
    assert [path for path in left if path in ignored] == []


@given(
    st.lists(st.text(alphabet="ab*?/[]!#.\\", max_size=8), max_size=4), st.text("ab/.", max_size=8)
)
def test_no_pattern_is_too_odd(lines: list[str], path: str) -> None:
    assert (path in Ignored(lines)) in (True, False)


def test_the_archive_has_what_is_not_ignored(tmp_path: Path) -> None:
    files(tmp_path, "server/Dockerfile", "a.py", "data/big.bin", "data/keep.txt", ".git/config")
    (tmp_path / ".dockerignore").write_text("data\n!data/keep.txt\n.git\nserver\n")
    (tmp_path / "link").symlink_to("a.py")
    with (
        context_tar(tmp_path, "server/Dockerfile", {"pip.conf": b"[global]"}) as made,
        tarfile.open(fileobj=made) as archive,
    ):
        names = archive.getnames()
        entry = archive.getmember("a.py")
        pip = archive.extractfile("pip.conf")
        assert pip is not None
        assert pip.read() == b"[global]"
        assert archive.getmember("link").linkname == "a.py"
    assert sorted(names) == [
        *(".dockerignore", "a.py", "data/keep.txt", "link", "pip.conf", "server/Dockerfile")
    ]
    assert (entry.uid, entry.mtime, entry.mode) == (0, 0, 0o644)


def test_equal_folders_make_equal_archives(tmp_path: Path) -> None:
    archives = []
    for name in ("one", "two"):
        files(tmp_path / name, "Dockerfile", "b.py", "a/c.py")
        with context_tar(tmp_path / name, "Dockerfile") as made:
            archives.append(made.read())
    assert archives[0] == archives[1]


def test_ignored_folders_are_not_walked(tmp_path: Path) -> None:
    files(tmp_path, "a.py", "venv/lib/x.py")
    (tmp_path / ".dockerignore").write_text("venv\n")
    (tmp_path / "venv" / "lib").chmod(0o000)
    try:
        assert sorted(context_files(tmp_path)) == [".dockerignore", "a.py"]
    finally:
        (tmp_path / "venv" / "lib").chmod(0o755)
