"""The suite catches what is broken, by name; and lets other environments be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from openenv_async import EngineOptions, Environment, serve
from openenv_async.checks.conformance import CHECKS, HTTPTransport, Result, Suite, run
from openenv_async.errors import ConnectFailed, InvalidOption
from openenv_async.testing import check_environment
from tests.checks.conformance.over import FEATURES, SPEC, opened


@dataclass
class Move:
    cell: int
    mark: str = "x"


@dataclass
class Board:
    cells: list[int]
    reward: float | None = None


class Game(Environment[Move, Board, dict[str, Any]]):
    """An ordinary environment."""

    def __init__(self) -> None:
        self.cells = [0] * 9

    def reset(self, *, seed: int | None = None) -> Board:
        self.cells = [0] * 9
        self.cells[(seed or 0) % 9] = 1
        return Board(list(self.cells))

    def step(self, action: Move) -> Board:
        self.cells[action.cell % 9] += 1
        return Board(list(self.cells), 1.0)

    def state(self) -> dict[str, Any]:
        return {"cells": self.cells}


def failed(results: list[Result]) -> dict[str, str]:
    return {result.name: result.reason for result in results if result.status == "failed"}


async def test_an_ordinary_server_passes_the_generic_checks() -> None:
    shown: list[Result] = []
    async with serve(Game, options=EngineOptions(max_sessions=8)) as url:
        results = await run(url, on_result=shown.append)
    assert results == shown
    assert failed(results) == {}
    passed = {(r.subject, r.name) for r in results if r.status == "passed"}
    assert {transport for transport, _ in passed} == {
        "native msgpack",
        "native json",
        "http",
        "upstream",
        "upstream json-rpc",
        "mcp 2025-11-25",
        "mcp 2026-07-28",
    }
    off = {r.reason for r in results if r.subject == "stateless http"}
    assert any("serve --stateless-http" in reason for reason in off)
    assert ("http", "an_invalid_action_is_refused") in passed
    assert ("native msgpack", "a_full_server_says_so") in passed
    assert ("native json", "equal_seeds_give_equal_episodes") in passed
    skipped = {r.name for r in results if r.status == "skipped" and "needs a server" in r.reason}
    assert "no_reward_is_none" in skipped


async def test_nothing_answers() -> None:
    with pytest.raises(ConnectFailed):
        await run("http://127.0.0.1:9")


async def test_check_environment() -> None:
    results = await check_environment(Game)
    assert failed(results) == {}
    assert {r.subject for r in results} == {"in process msgpack", "in process json", "server"}
    actions = [{"cell": 3}]
    assert failed(await check_environment(Game, actions=actions)) == {}


class SeedBlind(Game):
    """Says that it takes a seed and does not look at it."""

    rounds = 0

    def reset(self, *, seed: int | None = None) -> Board:
        type(self).rounds += 1
        return super().reset(seed=type(self).rounds)


class ForgetsReset(Game):
    """Works for one episode only."""

    resets = 0

    def reset(self, *, seed: int | None = None) -> Board:
        self.resets += 1
        if self.resets > 1:
            raise RuntimeError("once is enough")
        return super().reset(seed=seed)


class Breaks(Game):
    """Raises on actions that its own schema allows."""

    def step(self, action: Move) -> Board:
        raise IndexError("no such cell")


@pytest.mark.parametrize(
    ("env", "check"),
    [
        (SeedBlind, "equal_seeds_give_equal_episodes"),
        (ForgetsReset, "a_session_runs_many_episodes"),
        (Breaks, "a_whole_episode_runs"),
    ],
)
async def test_a_broken_environment_is_caught_by_name(env: Any, check: str) -> None:
    found = failed(await check_environment(env))
    assert check in found
    assert found[check]


@pytest.mark.parametrize("transport", FEATURES)
async def test_what_a_transport_cannot_do_is_skipped_with_the_reason(transport: str) -> None:
    async with opened(transport) as way:
        suite = Suite(way, own=True, schema=SPEC.schema)
        for check in CHECKS.values():
            if not check.needs <= way.features:
                result = await suite.run_one(check)
                assert result.status == "skipped"
                assert "this transport has no" in result.reason


def test_every_check_says_what_it_promises_and_what_to_look_at() -> None:
    assert len(CHECKS) > 50
    for check in CHECKS.values():
        assert check.kind == "conformance"
        assert check.promise.endswith(".")
        assert check.remedy


async def test_the_old_keyword_of_transports_still_works() -> None:
    async with serve(Game) as url:
        with pytest.warns(DeprecationWarning, match="transports="):
            results = await run(  # type: ignore[call-arg]  # the old name
                url, doors=[HTTPTransport(url)], names="a_whole_episode_runs"
            )
    assert [(each.subject, each.status) for each in results] == [("http", "passed")]


async def test_the_old_keywords_of_a_server_and_of_a_suite_still_work() -> None:
    async with serve(Game) as url:
        with pytest.warns(DeprecationWarning, match=r"run\(url=\) is now target="):
            results = await run(  # type: ignore[call-arg]  # the old name
                url=url, transports=["http"], names="a_whole_episode_runs"
            )
    assert [(each.subject, each.status) for each in results] == [("http", "passed")]
    with pytest.warns(DeprecationWarning, match=r"Suite\(door=\) is now transport="):
        suite = Suite(door=HTTPTransport(url))  # type: ignore[call-arg]  # the old name
    assert suite.transport.name == "http"


async def test_a_check_that_is_not_there_is_a_typed_error() -> None:
    with pytest.raises(InvalidOption, match="there is no check 'luck'"):
        await run("http://127.0.0.1:9", names=["luck"])
