"""Old names of modules and public objects still work, and warn with the new one."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from openenv_async.renamed import MODULES, OBJECTS, renamed_arguments, renamed_attributes


def _import_anew(old: str) -> ModuleType:
    """Import a module by its old name, which warns, whatever was imported before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(old.rpartition(".")[0])  # which may have an old name too
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=re.escape(MODULES[old])):
        return importlib.import_module(old)


@pytest.mark.parametrize(("old", "new"), sorted(MODULES.items()))
def test_a_moved_module_is_found_under_its_old_name(old: str, new: str) -> None:
    found = _import_anew(old)
    moved = importlib.import_module(new)
    for name in getattr(moved, "__all__", ()):
        assert getattr(found, name) is getattr(moved, name)


@pytest.mark.parametrize(("old", "new"), sorted(OBJECTS.items()))
def test_an_object_renamed_in_a_module_that_moved_is_found_and_warns(old: str, new: str) -> None:
    module, _, name = old.rpartition(".")
    _import_anew(module)
    with pytest.warns(DeprecationWarning, match=f"{name} is now {new}"):
        found = getattr(sys.modules[module], name)
    home, _, attribute = new.rpartition(".")
    assert found is getattr(importlib.import_module(home), attribute)


STAYED = {
    "openenv_async.cli.forms": ("resolve",),
    "openenv_async.engine.requests": ("HostReply", "HostRequest", "Wire"),
    "openenv_async.integrations.trl.shared": ("SharedSource", "Source"),
    "openenv_async.pool.playing": ("Playing",),
    "openenv_async.pool.sources": ("Sources",),
    "openenv_async.server.http_sessions": ("CallPort", "HttpPort"),
}


@pytest.mark.parametrize("module", sorted(STAYED))
def test_an_object_renamed_in_a_module_that_stays_is_found_and_warns(module: str) -> None:
    for name in STAYED[module]:
        with pytest.warns(DeprecationWarning, match=f"{name} is now"):
            assert getattr(importlib.import_module(module), name) is not None


def test_the_warning_names_the_line_that_imports() -> None:
    code = "import warnings\nwarnings.simplefilter('always')\n\nimport openenv_async.serving\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "<string>:4: DeprecationWarning" in done.stderr
    assert "openenv_async.server.run" in done.stderr


def test_an_old_name_that_never_was_is_no_module() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("openenv_async.never_was")


def test_a_renamed_object_is_found_and_warns() -> None:
    get = renamed_attributes("openenv_async.types", {"Result": "StepResult"})
    from openenv_async.types import StepResult

    with pytest.warns(DeprecationWarning, match="StepResult"):
        assert get("Result") is StepResult
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        get("Nothing")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("openenv_async.outlasting", "outlast", "wait_uncancelled"),
        ("openenv_async.providers.docker.engine", "Engine", "DockerClient"),
    ],
)
def test_what_was_renamed_in_a_module_that_moved_works(module: str, old: str, new: str) -> None:
    sys.modules.pop(module, None)
    with pytest.warns(DeprecationWarning, match=module.replace(".", r"\.")):
        found = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(found, old).__name__ == new


@renamed_arguments(n="episodes", min_k="min_episodes")
def _play(policy: str, episodes: int = 1, *, min_episodes: int | None = None) -> tuple[object, ...]:
    """Play."""
    return policy, episodes, min_episodes


def test_a_renamed_argument_works_and_warns_where_it_is_given() -> None:
    with pytest.warns(DeprecationWarning, match=r"_play\(n=\) is now episodes=") as warned:
        assert _play("p", n=3) == ("p", 3, None)  # type: ignore[call-arg]  # the old name
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="is now") as warned:
        assert _play("p", n=3, min_k=2) == ("p", 3, 2)  # type: ignore[call-arg]  # the old names
    assert len(warned) == 2
    assert _play("p", 4, min_episodes=1) == ("p", 4, 1)
    assert _play.__doc__ == "Play."


def test_an_argument_under_both_names_is_refused() -> None:
    with pytest.raises(TypeError, match="n is now episodes"):
        _play("p", n=3, episodes=3)  # type: ignore[call-arg]  # the old name
    with pytest.raises(TypeError, match="argument 'k'"):
        _play("p", k=3)  # type: ignore[call-arg]  # no name at all


class _Player:
    @renamed_arguments(door="transport")
    def __init__(self, transport: str) -> None:
        self.transport = transport


def test_a_renamed_argument_of_a_constructor_is_told_with_the_class() -> None:
    with pytest.warns(DeprecationWarning, match=r"^_Player\(door=\) is now transport=$"):
        assert _Player(door="http").transport == "http"  # type: ignore[call-arg]  # the old name


def test_the_changelog_lists_every_old_name() -> None:
    changelog = Path(__file__).parent.parent / "CHANGELOG.md"
    rows = {line for line in changelog.read_text("utf-8").splitlines() if line.startswith("| `")}
    short = {
        old.removeprefix("openenv_async."): new.removeprefix("openenv_async.")
        for old, new in {**MODULES, **OBJECTS}.items()
    }
    assert {f"| `{old}` | `{new}` |" for old, new in short.items()} <= rows
