"""The kind of a target that is written as text, without importing or starting anything."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from openenv_async.errors import InvalidOption, TargetNotFound
from openenv_async.targets import discovery, naming
from openenv_async.targets.naming import NamedTarget, read_name

LOUD = "raise SystemExit('it was imported')\n"
SOURCE = (
    LOUD
    + """
import os.path, json as text
from x import y as z, plain

class Mine: ...
def make(): ...
async def later(): ...
made = there = 1
for each in (): ...
class MyEnvironment:
    def reset(self): ...
    def step(self, action): ...
"""
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules and folders, where one environment is installed."""
    monkeypatch.chdir(tmp_path)
    points = {"both": EntryPoint("both", "a:B", discovery.GROUP)}
    for module in (discovery, naming):
        monkeypatch.setattr(module, "installed", lambda: points)
    for folder in ("both", "an_env", "deep/env", "empty"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "empty":
            (tmp_path / folder / "openenv.yaml").write_text("name: x")
    (tmp_path / "quiet_module.py").write_text(SOURCE)
    (tmp_path / "starred.py").write_text(LOUD + "from x import *\n")
    (tmp_path / "dynamic.py").write_text(LOUD + "def __getattr__(name): ...\n")
    (tmp_path / "wrong.py").write_text("def (:\n")
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "inner.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "named"),
    [
        ("http://a.example/env", "url", None),
        ("wss://a.example:8000", "url", None),
        ("docker://a/b:1", "image", "a/b:1"),
        ("docker://plain", "image", "plain"),
        ("both", "installed", None),
        ("BOTH-env", "installed", None),
        ("./both", "folder", None),
        ("an_env", "folder", "./an_env"),
        ("deep/env", "folder", None),
        ("owner/space", "space", None),
        ("a/b:1", "image", None),
        ("host:5000/a/b", "image", None),
        ("a/b/c", "image", None),
        ("my-image:latest", "image", None),
        ("CartPole-v1", "id", None),
        ("quiet_module:Mine", "path", None),
        ("quiet_module:Mine.inner", "path", None),
        ("quiet_module:make", "path", None),
        ("quiet_module:later", "path", None),
        ("quiet_module:there", "path", None),
        ("quiet_module:each", "path", None),
        ("quiet_module:z", "path", None),
        ("quiet_module:text", "path", None),
        ("quiet_module:os", "path", None),
        ("starred:Anything", "path", None),
        ("dynamic:Anything", "path", None),
        ("wrong:Anything", "path", None),
        ("space.inner:Mine", "path", None),
        ("json:JSONDecoder", "path", None),
    ],
)
def test_what_a_text_names(text: str, kind: str, named: str | None) -> None:
    assert read_name(text) == NamedTarget(kind, named or text)  # type: ignore[arg-type]  # a kind
    assert "quiet_module" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write a name, such as 'echo'"),
        (" ", "write a name, such as 'echo'"),
        ("ftp://a.example", "ftp"),
        ("docker://UPPER", r"not an image's name: write docker://NAME:TAG"),
        ("docker://", r"not an image's name"),
        ("bouth", "both"),
        ("./nothing", "there is no folder './nothing'"),
        ("./empty", r"has no openenv\.yaml"),
        ("quiet_module:y", "'quiet_module' has no 'y'"),
        ("quiet_module:Min", "did you mean Mine"),
        ("quiet_module:Xyzzy", "has no 'Xyzzy': name MyEnvironment"),
        ("no_such_module:Mine", "no module 'no_such_module' on the path"),
        ("nosuch:Mine", r"nor is it installed \(both\); an image is written docker://nosuch:Mine"),
        ("space.none:Mine", "no module 'space.none'"),
        ("127.0.0.1:8000", "http"),
        ("CartPole-v99", "CartPole"),
        ("quiet_module:", "not an import path: write module:Class"),
        ("1a:B?", "not an import path: write module:Class"),
    ],
)
def test_what_names_nothing_is_told_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(TargetNotFound, match=message):
        read_name(text)


def test_a_url_that_is_none() -> None:
    with pytest.raises(InvalidOption, match="is not a valid server address"):
        read_name("http://")


def test_another_working_directory_has_modules_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first_place", "second_place"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text("class Mine: ...\n", "utf-8")
        monkeypatch.chdir(folder)
        assert read_name(f"{name}:Mine").kind == "path"
    with pytest.raises(TargetNotFound, match="first_place"):
        read_name("first_place:Mine")
