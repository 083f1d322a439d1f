"""``collect(progress=True)``: a bar in a notebook, lines elsewhere; nothing that costs a run."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import pytest

from openenv_async.rollouts import Summary, collect_all
from openenv_async.rollouts.progress import shown_progress
from tests.rollouts.environments import Counting, one_by_one


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


async def play(**options: Any) -> None:
    await collect_all(Counting, one_by_one, episodes=3, progress=True, **options)


async def test_a_line_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    await play()
    (line,) = told.getvalue().splitlines()
    assert line.startswith("collect: 3 of 3 episodes")
    assert "mean return 3" in line


async def test_a_terminal_has_one_line_that_is_written_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Terminal()
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setenv("COLUMNS", "20")
    await play()
    assert told.getvalue().endswith("\n")
    assert told.getvalue().count("\n") == 1
    last = told.getvalue().split("\x1b[K")[-1]
    assert last == "collect: 3 of 3 epi\n"


@pytest.mark.parametrize("stream", [Broken(), None])
async def test_a_stream_that_is_gone_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    await play()


async def test_a_notebook_has_a_bar_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, bar: str) -> None:
            shown.append(bar)

    def display(bar: str, display_id: bool) -> Handle:
        shown.append(bar)
        return Handle()

    ipython, showing = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell = types.SimpleNamespace(kernel=object())
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]  # a stand-in of the module
    showing.HTML, showing.display = str, display  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", showing)
    await play()
    assert 'value="3" max="3"' in shown[-1]
    del shell.kernel  # IPython in a terminal has no display that could be updated
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    async with shown_progress(Summary(1)):
        pass
    assert "0 of 1 episodes" in told.getvalue()
