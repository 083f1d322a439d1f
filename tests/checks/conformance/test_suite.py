"""The suite catches what is broken, by name; and lets other environments be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from openenv_async import EngineOptions, Environment, Limits, StepResult, serve
from openenv_async.checks.conformance import (
    CHECKS,
    InProcessTransport,
    Result,
    Suite,
    Transport,
    run,
)
from openenv_async.engine import Engine
from openenv_async.errors import ConnectFailed, EnvironmentRaised
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ConformanceEnvironment, check_environment


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
    }
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


# -- a broken runtime: the conformance environment behind a transport that lies ------------------


class Lying(Transport):
    """A transport that changes what passes through."""

    name = "lying"
    features = InProcessTransport.features

    def __init__(self, engine: Engine, lie: str) -> None:
        self._transport = InProcessTransport(engine)
        self._lie = lie

    @contextlib.asynccontextmanager
    async def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[Any]:
        if self._lie == "ignores the limits":
            limits = None
        async with self._transport.session(options=options, limits=limits) as opened:
            env: Any = opened
            reset, step = env.reset, env.step
            last: list[StepResult[Any]] = []

            async def lying_step(action: Any, **more: Any) -> StepResult[Any]:
                if self._lie == "ignores deadlines":
                    more.pop("timeout", None)
                    if isinstance(action, dict) and action.get("command") == "sleep":
                        action = {**action, "value": 0.0}
                try:
                    result: StepResult[Any] = await step(action, **more)
                except EnvironmentRaised:
                    if self._lie == "swallows errors":
                        return last[-1]
                    raise
                if self._lie == "invents rewards" and result.reward is None:
                    result.reward = 0.0
                if self._lie == "never ends":
                    result.terminated = result.truncated = False
                if self._lie == "calls every end the same":
                    result.terminated, result.truncated = result.done, False
                if self._lie == "shifts replies" and last:
                    last.append(result)
                    return last[-2]
                last.append(result)
                return result

            async def lying_reset(**more: Any) -> StepResult[Any]:
                if self._lie == "drops seeds":
                    more.pop("seed", None)
                if self._lie == "drops options":
                    more = {k: v for k, v in more.items() if k in ("seed", "episode_id", "timeout")}
                result: StepResult[Any] = await reset(**more)
                return result

            env.step, env.reset = lying_step, lying_reset
            yield env


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("invents rewards", "no_reward_is_none"),
        ("never ends", "the_end_is_the_environments"),
        ("calls every end the same", "terminated_is_not_truncated"),
        ("shifts replies", "plain_data_comes_back"),
        ("shifts replies", "other_sessions_are_undisturbed"),
        ("swallows errors", "an_environment_that_raises_in_step"),
        ("drops seeds", "the_seed_reaches_the_environment"),
        ("drops seeds", "the_seed_is_reported"),
        ("drops options", "an_unknown_reset_option_is_refused"),
        ("ignores deadlines", "a_deadline_ends_the_call"),
        ("ignores the limits", "a_reply_over_the_limit_fails_alone"),
    ],
)
async def test_a_broken_runtime_is_caught_by_name(lie: str, check: str) -> None:
    spec = EnvironmentSpec(ConformanceEnvironment)
    engine = Engine(spec)
    result = await Suite(Lying(engine, lie), own=True, schema=spec.schema).run_one(CHECKS[check])
    await engine.aclose()
    assert result.status == "failed"
    assert result.remedy


async def command(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "openenv_async.cli", "conformance", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_command() -> None:
    async with serve(Game) as url:
        code, out, err = await command(url, "--json")
        assert code == 0, err
        results = [Result(each.pop("name"), each.pop("door"), **each) for each in json.loads(out)]
        assert failed(results) == {}
        assert len(results) == 4 * len(CHECKS)
        for option in ("--transport", "--door"):  # the latter is its old name
            code, out, err = await command(url, option, "http", "--verbose")
            assert code == 0, err
            assert "http" in out
            assert "native" not in out
        code, _, err = await command(url, "--transport", "window")
        assert code == 2
        assert "native msgpack" in err
        code, _, _ = await command(url, "--check", "nonsense")
        assert code == 2
    async with serve(Breaks) as url:
        code, out, _ = await command(url, "--check", "a_whole_episode_runs")
        assert code == 1
        assert "no such cell" in " ".join(out.split())
    code, _, err = await command("http://127.0.0.1:9")
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    code, _, _ = await command("not-a-url")
    assert code == 2
