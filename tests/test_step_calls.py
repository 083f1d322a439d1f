"""A step costs few calls of the package's own functions, and passes through few files.

Counts are exact where times are not: each call that is added to the way of a step is seen here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Self

import pytest

from openenv_async import GenericEnvClient, serve
from openenv_async.targets.served import connect
from openenv_async.testing import BenchAsyncEnvironment, BenchEnvironment, BenchThreadEnvironment
from tests.step_calls import ACTION, PACKAGE, Calls

MOST = 36
MOST_OF_SERVER = 17


@pytest.fixture(scope="module", params=[(), ("attr",)], ids=["bare", "with attrs"])
def counts(request: pytest.FixtureRequest) -> dict[str, Calls]:
    command = [sys.executable, "-m", "tests.step_calls", *request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    counts: dict[str, Calls] = json.loads(done.stdout)
    return counts


@pytest.mark.parametrize(
    ("way", "most"), [("in process", MOST), ("over a socket", MOST), ("server", MOST_OF_SERVER)]
)
def test_a_step_costs_few_calls(counts: dict[str, Calls], way: str, most: int) -> None:
    calls = counts[way]
    assert sum(calls.values()) <= most, json.dumps(calls, indent=2)
    assert calls["engine/steps.py"] >= 1  # it was measured at all


def test_the_counts_are_of_the_ways_they_are_named_after(counts: dict[str, Calls]) -> None:
    assert {name.split("/")[0] for name in counts["in process"]} >= {"client", "engine", "targets"}
    assert {name.split("/")[0] for name in counts["over a socket"]} >= {"client", "server"}
    assert "client" not in {name.split("/")[0] for name in counts["server"]}


class FilesEntered:
    """The files of the engine that are entered while ``watching``, in any thread started here."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self.watching = False
        self._engine = os.path.join(PACKAGE, "engine") + os.sep

    def __enter__(self) -> Self:
        threading.setprofile(self._entered)
        sys.setprofile(self._entered)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _entered(self, frame: FrameType, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if self.watching and event == "call" and path.startswith(self._engine):
            self.found[path.removeprefix(self._engine)] = None

    async def during(self, step: Callable[[], Awaitable[Any]]) -> list[str]:
        self.watching = True
        await step()
        self.watching = False
        return list(self.found)


ENVIRONMENTS: list[tuple[Any, set[str]]] = [
    (BenchEnvironment, {"connection.py", "steps.py"}),
    (BenchAsyncEnvironment, {"connection.py", "session.py", "executors/tasks.py", "runner.py"}),
    (BenchThreadEnvironment, {"connection.py", "session.py", "executors/threads.py", "runner.py"}),
]


@pytest.mark.parametrize(("env", "rooms"), ENVIRONMENTS)
@pytest.mark.parametrize("over_socket", [True, False], ids=["socket", "in process"])
async def test_a_request_walks_through_three_files_of_the_engine(
    env: Any, rooms: set[str], over_socket: bool
) -> None:
    """From ``ServerConnection.handle`` on: session, executor where there is one, and runner.

    ``steps`` is the session's part of what is called from the loop, and hands the rest on.
    """
    with FilesEntered() as entered:
        if over_socket:
            async with serve(env) as url, GenericEnvClient(url) as client:
                await client.reset()
                await client.step(ACTION)
                files = await entered.during(lambda: client.step(ACTION))
        else:
            async with connect(env, client=GenericEnvClient) as client:
                await client.reset()
                await client.step(ACTION)
                files = await entered.during(lambda: client.step(ACTION))
    assert files[0] == "connection.py"
    passed = {"deadlines.py"}  # the due time of a call that may be late is a function on times
    if "session.py" in rooms:
        passed |= {"steps.py"}
    assert set(files) - passed == rooms
    assert len(rooms - {"connection.py"}) <= 3
