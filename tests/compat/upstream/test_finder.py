"""The import names of upstream in a process that asks for them, and in no other."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openenv_async.compat import upstream
from openenv_async.compat.upstream.finder import install_names, remove_names


@pytest.fixture
def names() -> Iterator[None]:
    assert install_names(), "upstream is installed beside the tests"
    yield
    remove_names()


def run(code: str, *, path: Path | None = None) -> str:
    """Return the output of a Python process with a folder on its path."""
    lines = [f"import sys; sys.path.insert(0, {str(path)!r})" if path else "", code]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.usefixtures("names")
def test_the_names_are_ours() -> None:
    module = importlib.import_module("openenv.core.env_server.types")
    assert module.Action is upstream.Action
    assert importlib.import_module("openenv_core.env_server").Environment is upstream.Environment
    assert importlib.import_module("openenv").core.Observation is upstream.Observation
    assert "State" in dir(module)
    assert "State" in module.__all__


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("from openenv.core.env_server.types import Actoin", "'Actoin'.*did you mean 'Action'"),
        ("from openenv.core import Portal", r"openenv\.core has no name 'Portal'.*pip install"),
        ("import openenv.core.portal", "'portal'.*pip install openenv"),
        ("import openenv.portal.gate", r"portal.*pip install openenv"),
    ],
)
def test_an_unknown_name_is_named_with_the_remedy(statement: str, said: str) -> None:
    with pytest.raises(ImportError, match=said):
        exec(statement, {})


@pytest.mark.usefixtures("names")
def test_a_missing_attribute_is_one() -> None:
    module = importlib.import_module("openenv.core")
    assert not hasattr(module, "portal")
    assert not hasattr(module, "__wrapped__")


def test_the_names_can_be_taken_out_again() -> None:
    assert install_names()
    assert install_names()
    importlib.import_module("openenv.core")
    remove_names()
    remove_names()
    assert "openenv.core" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("openenv.core")


INSTALL = "from openenv_async.compat.upstream.finder import install_names; "


def test_an_installed_upstream_is_left_alone_unless_asked(tmp_path: Path) -> None:
    package = tmp_path / "openenv"
    package.mkdir()
    package.joinpath("__init__.py").write_text("whose = 'theirs'\n")
    code = INSTALL + "print(install_names()); import openenv; print(openenv.whose)"
    assert run(code, path=tmp_path).split() == ["False", "theirs"]
    code = INSTALL + "print(install_names(shadow=True)); import openenv; print(openenv.core.State)"
    assert run(code, path=tmp_path).startswith("True\n<class 'openenv_async.compat")
    code = "import openenv; " + INSTALL + "print(install_names()); install_names(shadow=True)"
    with pytest.raises(AssertionError, match="RuntimeError: openenv was imported already"):
        run(code, path=tmp_path)


def test_a_folder_of_that_name_is_not_upstream(tmp_path: Path) -> None:
    tmp_path.joinpath("openenv").mkdir()
    code = INSTALL + "print(install_names()); from openenv.core import State; print(State.__name__)"
    assert run(code, path=tmp_path).split() == ["True", "State"]


def test_the_process_of_an_environment_stays_small() -> None:
    """Upstream's own import takes 160 MB."""
    code = INSTALL + (
        "install_names();"
        "from openenv.core.env_server import Action, Environment, Observation, State, create_app;"
        "import fastapi, uvicorn;"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read off /proc")
    assert int(run(code)) < 60_000
