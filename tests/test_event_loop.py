"""The event loop that servers, workers, blocking clients and commands run on."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from openenv_async.client.loop_thread import LoopThread
from openenv_async.event_loop import (
    is_in_loop,
    loop_factory,
    loop_name,
    new_event_loop,
    run_apart,
    version_of,
)

ROOT = Path(__file__).parent.parent


def without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "uvloop" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_the_loop_can_be_chosen() -> None:
    pytest.importorskip("uvloop")
    assert loop_factory(False) is None
    for wish in (None, True):
        make = loop_factory(wish)
        assert make is not None
        assert make.__module__ == "uvloop"


def test_without_uvloop_it_is_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    without_uvloop(monkeypatch)
    assert loop_factory() is None
    loop = new_event_loop()
    assert loop_name(loop) == "asyncio"
    loop.close()


def test_a_loop_is_named_after_its_library() -> None:
    pytest.importorskip("uvloop")
    loop = new_event_loop()
    assert loop_name(loop) == f"uvloop {importlib.metadata.version('uvloop')}"
    loop.close()
    assert version_of("no-such-distribution") == "no-such-distribution"


def test_blocking_clients_run_on_it() -> None:
    pytest.importorskip("uvloop")
    thread = LoopThread()

    async def name() -> str:
        return loop_name(asyncio.get_running_loop())

    try:
        assert thread.run(name()).startswith("uvloop ")
    finally:
        thread.stop()


def test_uvloop_comes_with_the_package_where_it_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [line] = [each for each in project["dependencies"] if each.startswith("uvloop")]
    assert "sys_platform != 'win32'" in line
    assert "platform_python_implementation == 'CPython'" in line


async def test_a_caller_inside_a_loop_can_wait_for_another_one() -> None:
    async def other() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def failing() -> None:
        raise KeyError("as it is")

    assert run_apart(other()) is not asyncio.get_running_loop()
    with pytest.raises(KeyError, match="as it is"):
        run_apart(failing())


def test_a_running_loop_is_that_of_this_thread() -> None:
    async def within() -> tuple[bool, bool]:
        return is_in_loop(), await asyncio.to_thread(is_in_loop)

    assert not is_in_loop()
    assert asyncio.run(within()) == (True, False)
