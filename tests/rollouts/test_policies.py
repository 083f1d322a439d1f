"""Policies: how they are called, random ones, and those named on the command line."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openenv_async import EnvClient, StepResult, rollout, serve
from openenv_async.errors import ConnectFailed, TargetNotFound
from openenv_async.rollouts import RandomPolicy, Turn, collect_all, fetch_schema, load_policy
from openenv_async.rollouts.policies import bind, is_pending
from tests.rollouts.environments import Counting, Move, Seen

TURN = Turn(0, 3, None, StepResult(1))


class CountingEnv(EnvClient[Move, Seen, dict[str, Any]]):
    pass


class Stateful:
    """One policy per episode."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    def for_episode(self, index: int) -> Any:
        self.begun.append(index)
        return lambda observation, turn: (index, turn.t)


class Callable2:
    def __call__(self, observation: int, turn: Turn) -> int:
        return observation + turn.t


@pytest.mark.parametrize(
    ("policy", "action"),
    [
        (lambda observation: observation, 7),
        (lambda observation, turn: turn.t, 3),
        (lambda *arguments: len(arguments), 2),
        (lambda observation, temperature=0.5: temperature, 0.5),
        (lambda observation, turn=None: turn is TURN, True),
        (functools.partial(lambda a, observation: a + observation, 1), 8),
        (Callable2(), 10),
        (Stateful(), (5, 3)),
        (int, 7),
    ],
)
def test_what_a_policy_takes_is_what_it_gets(policy: Any, action: Any) -> None:
    assert bind(policy, 5)(7, TURN) == action


async def test_what_is_awaited() -> None:
    async def policy() -> int:
        return 1

    pending = policy()
    assert is_pending(pending)
    assert await pending == 1
    assert not any(is_pending(action) for action in (1, None, {"a": 1}, np.zeros(3), Move()))


async def test_random_actions_fit_and_are_typed() -> None:
    async with serve(Counting) as url, CountingEnv(url) as env:
        policy = await RandomPolicy.for_client(env, seed=1)
        assert isinstance(policy(None), Move)
        outcome = await rollout(env, policy, max_steps=5)
        assert outcome.trajectory is not None
        assert all(isinstance(t.action, Move) for t in outcome.trajectory.transitions)


async def test_random_episodes_do_not_depend_on_their_company() -> None:
    async with serve(Counting) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 3)
        runs = [
            await collect_all(
                url, policy, episodes=8, concurrency=concurrency, seeds=0, max_steps=6
            )
            for concurrency in (1, 8)
        ]
    actions = [[[t.action for t in o.trajectory.transitions] for o in run] for run in runs]  # type: ignore[union-attr]  # recorded
    assert actions[0] == actions[1]
    assert len({str(episode) for episode in actions[0]}) > 1


def test_an_untyped_policy_gives_what_the_schema_says() -> None:
    policy = RandomPolicy({"type": "integer", "minimum": 2, "maximum": 2})
    assert policy(None) == 2
    assert RandomPolicy({"const": {"a": 1}}, action_type=dict[str, Any])(None) == {"a": 1}


async def test_a_schema_that_cannot_be_had() -> None:
    async with serve(Counting) as url:
        assert "action" in await fetch_schema(url.replace("http", "ws") + "/ws")
        with pytest.raises(TargetNotFound, match="no such path: /nowhere"):
            await fetch_schema(url + "/nowhere")
    with pytest.raises(ConnectFailed, match="cannot read"):
        await fetch_schema(url)


MODULE = """
def policy(observation):
    return 1

class Policy:
    def __call__(self, observation):
        return 2
    def method(self):
        return 3

value = 3
"""


def test_policies_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_policies.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_policy("some_policies:policy")(None) == 1
    assert load_policy("some_policies:Policy")(None) == 2
    assert load_policy("some_policies:Policy.method")(None) == 3
    for text, message in {
        "nonsense": "write random or module:callable",
        "some_policies:": "write random or module:callable",
        "no_such_module_here:policy": "no module",
        "some_policies.sub:policy": "no module",
        "some_policies:nothing": "has no 'nothing'",
        "some_policies:value": "not callable",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_policy(text)
    with pytest.raises(ValueError, match="needs 'not_installed_anywhere'"):
        load_policy("needs_more:policy")
