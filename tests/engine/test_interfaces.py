"""Every executor and every sink has what the interfaces say, and asks for no more of a call."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from openenv_async import engine
from openenv_async.engine import interfaces
from openenv_async.engine.connection import ServerConnection
from openenv_async.engine.executors.inline import InlineExecutor
from openenv_async.engine.executors.processes import ProcessExecutor
from openenv_async.engine.executors.tasks import TaskExecutor
from openenv_async.engine.executors.threads import MainThreadExecutor, ThreadExecutor
from openenv_async.engine.interfaces import Call, Executor, ReplySink
from openenv_async.engine.session import Session
from openenv_async.engine.statistics import StepTimer
from openenv_async.server.http_sessions import HttpReplySink

EXECUTORS: list[Any] = [
    InlineExecutor,
    TaskExecutor,
    ThreadExecutor,
    MainThreadExecutor,
    ProcessExecutor,
    StepTimer,
]
SINKS: list[Any] = [ServerConnection, HttpReplySink]


def methods(protocol: type) -> dict[str, list[str]]:
    """The methods of a protocol, with the names of their parameters."""
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in vars(protocol).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


@pytest.mark.parametrize("kind", EXECUTORS)
def test_an_executor_has_the_methods_of_executors(kind: Any) -> None:
    for name, parameters in methods(Executor).items():
        method = getattr(kind, name)
        assert list(inspect.signature(method).parameters) == parameters, name
        assert inspect.iscoroutinefunction(method) == (name == "aclose")
    assert isinstance(kind.direct, bool)


@pytest.mark.parametrize("kind", SINKS)
def test_a_sink_has_the_methods_of_sinks(kind: Any) -> None:
    for name, parameters in methods(ReplySink).items():
        assert list(inspect.signature(getattr(kind, name)).parameters) == parameters, name


def test_a_session_is_a_call() -> None:
    for name, parameters in methods(Call).items():
        assert list(inspect.signature(getattr(Session, name)).parameters) == parameters, name
    assert set(Call.__annotations__) <= set(Session.__slots__)


def test_only_steps_straight_from_the_loop_are_direct() -> None:
    assert [kind for kind in EXECUTORS if kind.direct] == [InlineExecutor]
    assert not InlineExecutor.timed  # a loop that is in a call cannot watch it


ROOM = Path(interfaces.__file__).parent


@pytest.mark.parametrize("path", sorted((ROOM / "executors").glob("*.py")), ids=lambda p: p.name)
def test_no_executor_imports_sessions_or_their_engine(path: Path) -> None:
    """Only the main function of a worker does, which has an engine of its own."""
    imported = {
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    owners = {f"openenv_async.engine.{name}" for name in ("session", "engine", "connection")}
    if path.name == "worker.py":
        owners.remove("openenv_async.engine.engine")
        owners.remove("openenv_async.engine.connection")
    assert not imported & owners


@pytest.mark.parametrize(
    ("old", "new"), [("NativeConnection", ServerConnection), ("Port", ReplySink)]
)
def test_the_old_names_still_work_and_warn(old: str, new: Any) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new.__name__}"):
        assert getattr(engine, old) is new
