"""Policies: how they are called, random ones, and those named on the command line."""

from __future__ import annotations

import functools
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from openenv_async import EnvClient, Environment, StepResult, rollout, serve
from openenv_async.errors import ConnectFailed, InvalidAction, InvalidObservation, TargetNotFound
from openenv_async.rollouts import (
    RandomPolicy,
    ResponderPolicy,
    Turn,
    collect_all,
    fetch_schema,
    load_policy,
)
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


# -- conversations -----------------------------------------------------------------------------


class Echoing:
    """A responder that numbers its replies; notes what it was asked."""

    def __init__(self) -> None:
        self.heard: list[list[tuple[str, str]]] = []
        self.options: list[dict[str, Any]] = []

    async def respond(self, messages: list[dict[str, str]], **options: Any) -> Any:
        self.heard.append([(each["role"], each["content"]) for each in messages])
        self.options.append(options)
        return types.SimpleNamespace(text=f"r{len(self.heard)}")


def turn(t: int) -> Turn:
    return Turn(0, t, None, StepResult(1))


@pytest.mark.parametrize(("max_turns", "kept"), [(None, 7), (1, 1), (2, 3), (3, 5), (4, 7)])
async def test_a_conversation_keeps_its_latest_turns(max_turns: int | None, kept: int) -> None:
    responder = Echoing()
    policy = ResponderPolicy(responder, str.upper, system="Play.", max_turns=max_turns)
    decide = policy.for_episode(0)
    assert [await decide(f"o{t}", turn(t)) for t in range(4)] == ["R1", "R2", "R3", "R4"]
    whole = [
        *(("user", "o0"), ("assistant", "r1"), ("user", "o1"), ("assistant", "r2")),
        *(("user", "o2"), ("assistant", "r3"), ("user", "o3")),
    ]
    assert responder.heard[-1] == [("system", "Play."), *whole[-kept:]]
    assert responder.heard[0] == [("system", "Play."), ("user", "o0")]


async def test_every_episode_has_a_conversation_and_seeds_of_its_own() -> None:
    responder = Echoing()
    options: dict[str, Any] = {"max_tokens": 5, "temperature": 0.5, "stop": ["."]}
    policy = ResponderPolicy(responder, str, seed=3, **options)
    first, second = policy.for_episode(0), policy.for_episode(1)
    for decide, t in ((first, 0), (first, 1), (second, 0)):
        await decide("seen", turn(t))
    assert await policy("alone", Turn(0, 0, None, StepResult(1))) == "r4"
    assert [len(messages) for messages in responder.heard] == [1, 3, 1, 1]
    seeds = [each.pop("seed") for each in responder.options]
    assert len(set(seeds[:3])) == 3
    assert seeds[3] == seeds[0]  # of the same episode and step
    assert all(0 <= seed < 1 << 31 for seed in seeds)
    assert responder.options == [options] * 4
    await ResponderPolicy(responder, str)("alone", turn(0))
    unset = {"seed": None, "max_tokens": None, "temperature": None, "stop": None}
    assert responder.options[-1] == unset
    assert responder.heard[-1] == [("user", "alone")]


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ("seen", "seen"),
        ({"board": "x.o"}, "x.o"),
        ({"board": 3}, '{"board": 3}'),
        ({"a": "x", "b": "y"}, '{"a": "x", "b": "y"}'),
        ({}, "{}"),
        (["x"], '["x"]'),
        (7, "7"),
        (Seen(1, 2), '{"total": 1, "seed": 2}'),
    ],
)
async def test_an_observation_is_told_as_text(observation: Any, text: str) -> None:
    responder = Echoing()
    await ResponderPolicy(responder, str)(observation, turn(0))
    assert responder.heard == [[("user", text)]]
    await ResponderPolicy(responder, str, to_text=lambda seen: "mine")(observation, turn(0))
    assert responder.heard[-1] == [("user", "mine")]


def test_a_conversation_has_at_least_one_turn() -> None:
    with pytest.raises(ValueError, match="max_turns must be at least 1, got 0"):
        ResponderPolicy(Echoing(), str, max_turns=0)


def test_random_policies_repeat_with_their_seed_and_differ_without() -> None:
    schema = {"type": "integer", "minimum": 0, "maximum": 1 << 40}

    def drawn(policy: RandomPolicy) -> list[Any]:
        return [policy(None) for _ in range(3)] + [policy.for_episode(i)(None) for i in range(3)]

    assert RandomPolicy(schema, 0).seed == 0
    assert drawn(RandomPolicy(schema, 0)) == drawn(RandomPolicy(schema, 0))
    assert len(set(drawn(RandomPolicy(schema, 0)) + drawn(RandomPolicy(schema, 1)))) == 12
    seeds = {RandomPolicy(schema).seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < 1 << 31 for seed in seeds)


class Corridor(Environment[int, dict[str, int], Any]):
    """Cells 10 to 13; a step to the left of the first is refused, and so is one that is masked."""

    isolation = "inline"
    listed: ClassVar[bool] = False

    def reset(self) -> dict[str, int]:
        self.place = 0
        return {"place": 0}

    def legal_actions(self) -> Any:
        legal = [1] if self.place == 0 else [-1, 1]
        return legal if self.listed else np.array([side in legal for side in (-1, 0, 1)])

    def step(self, action: int) -> StepResult[dict[str, int]]:
        if action not in ([1] if self.place == 0 else [-1, 1]):
            raise InvalidAction(f"{action} leads nowhere")
        self.place += action
        return StepResult({"place": self.place}, 0.0, self.place == 3)

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        return {"action": {"type": "integer", "minimum": -1, "maximum": 1}}


class Listed(Corridor):
    listed = True


@pytest.mark.parametrize("env", [Corridor, Listed])
async def test_random_policies_take_legal_actions_only_and_the_mask_is_recorded(env: Any) -> None:
    async with serve(env) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        outcomes = await collect_all(url, policy, episodes=20, max_steps=50, seeds=0)
    assert {outcome.status for outcome in outcomes} <= {"completed", "truncated"}
    sides = set()
    for outcome in outcomes:
        assert outcome.mistakes == 0
        assert outcome.trajectory is not None
        for step in outcome.trajectory.transitions:
            sides.add(step.action)
            first = step.observation["place"] == 0
            assert step.action_mask.tolist() == ([0, 0, 1] if first else [1, 0, 1])
            assert step.action_mask.dtype == np.int8
    assert sides == {-1, 1}


async def test_a_policy_of_ones_own_has_its_mask_recorded_too() -> None:
    def last_legal(observation: Any, turn: Turn) -> int:
        return int(np.flatnonzero(turn.result.info["action_mask"])[-1]) - 1

    outcome = await rollout(Corridor, last_legal)
    assert outcome.trajectory is not None
    masks = [step.action_mask.tolist() for step in outcome.trajectory.transitions]
    assert masks == [[0, 0, 1], [1, 0, 1], [1, 0, 1]]


async def test_a_mask_that_does_not_fit_the_schema_is_not_drawn_from() -> None:
    wrong = type("Wrong", (Corridor,), {"legal_actions": lambda self: np.ones(5, bool)})
    async with serve(wrong) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        with pytest.raises(InvalidObservation, match="5 entries for 3 actions"):
            await collect_all(url, policy, episodes=1)


def test_a_class_that_takes_arguments_is_no_policy_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "class Needy:\n    def __init__(self, size): ...\n    def __call__(self, seen): ...\n"
    (tmp_path / "needy_policies.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="Needy takes arguments, name an instance"):
        load_policy("needy_policies:Needy")
    for text in ("needy_policies", ":Needy", "needy_policies:", ""):
        with pytest.raises(ValueError, match="write random or module:callable"):
            load_policy(text)
    with pytest.raises(ValueError, match="a str is not callable"):
        load_policy("needy_policies:__name__")
