"""Upstream's rubrics: trees of rewards, sync and async."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from openenv_async.compat.upstream.rubrics import (
    ExponentialDiscountingTrajectoryRubric,
    Gate,
    LLMJudge,
    Rubric,
    RubricDict,
    RubricList,
    Sequential,
    WeightedSum,
)


class Fixed(Rubric):
    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score
        self.calls = 0

    def forward(self, action: Any, observation: Any) -> Any:
        self.calls += 1
        return self.score


class FixedAsync(Fixed):
    async def forward(self, action: Any, observation: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(0)
        return self.score


class Tree(Rubric):
    def __init__(self) -> None:
        super().__init__()
        self.code = WeightedSum([Fixed(1.0), Fixed(0.5)], [0.5, 0.5])
        self.style = Fixed(0.25)

    def forward(self, action: Any, observation: Any) -> Any:
        return self.code(action, observation)


def test_a_tree_is_found_by_names() -> None:
    tree = Tree()
    assert [name for name, _ in tree.named_rubrics()] == [
        "code",
        "code.rubric_0",
        "code.rubric_1",
        "style",
    ]
    assert list(tree.children()) == [tree.code, tree.style]
    assert dict(tree.named_children()) == {"code": tree.code, "style": tree.style}
    assert list(tree.rubrics())[-1] is tree.style
    assert tree.get_rubric("code.rubric_1") is tree.code.get_rubric("rubric_1")
    with pytest.raises(KeyError, match=r"code\.rubric_9"):
        tree.get_rubric("code.rubric_9")
    assert tree(None, None) == 0.75
    assert (tree.last_score, tree.code.last_score, tree.style.last_score) == (0.75, 0.75, None)


def test_hooks_stand_around_the_score() -> None:
    seen: list[Any] = []
    rubric = Fixed(0.5)
    rubric.register_forward_pre_hook(lambda *args: seen.append(args[1:]))
    rubric.register_forward_hook(lambda *args: seen.append(args[1:]))
    assert rubric("a", "o") == 0.5
    assert seen == [("a", "o"), ("a", "o", 0.5)]


@pytest.mark.parametrize("kind", [Fixed, FixedAsync])
async def test_async_hooks_are_awaited(kind: type[Fixed]) -> None:
    seen: list[str] = []

    async def before(*_: Any) -> None:
        seen.append("before")

    async def after(*_: Any) -> None:
        seen.append("after")

    rubric = kind(0.5)
    rubric.register_forward_hook(after)
    assert await rubric(None, None) == 0.5
    rubric.register_forward_pre_hook(before)
    assert await rubric(None, None) == 0.5
    assert seen == ["after", "before", "after"]
    assert rubric.last_score == 0.5


def test_a_sequence_stops_at_zero() -> None:
    last = Fixed(0.5)
    assert Sequential()(None, None) == 1.0
    assert Sequential(Fixed(1.0), last)(None, None) == 0.5
    stopped = Sequential(Fixed(1.0), Fixed(0.0), last)
    assert stopped(None, None) == 0.0
    assert (last.calls, len(stopped), stopped[2]) == (1, 3, last)


@pytest.mark.parametrize(
    ("rubric", "score"),
    [
        (Sequential(), 1.0),
        (Sequential(Fixed(1.0), Fixed(0.5)), 0.5),
        (Sequential(Fixed(1.0), FixedAsync(0.5), Fixed(0.25)), 0.25),
        (Sequential(FixedAsync(0.0), Fixed(0.25)), 0.0),
        (Gate(FixedAsync(0.5), threshold=0.75), 0.0),
        (Gate(FixedAsync(0.5), threshold=0.5), 0.5),
        (WeightedSum([FixedAsync(1.0), Fixed(0.5), FixedAsync(0.0)], [0.25, 0.5, 0.25]), 0.5),
    ],
)
async def test_containers_of_async_rubrics_are_awaited(rubric: Rubric, score: float) -> None:
    assert await rubric(None, None) == score
    assert rubric.last_score == score


async def test_a_sequence_of_sync_rubrics_is_a_number_in_a_loop_too() -> None:
    score = Sequential(Fixed(0.5))(None, None)
    assert score == 0.5
    assert not inspect.iscoroutine(score)


def test_a_gate_and_a_sum() -> None:
    assert Gate(Fixed(0.5))(None, None) == 0.0
    both = WeightedSum([Fixed(1.0), Fixed(0.5)], [0.5, 0.5])
    assert both.weights == [0.5, 0.5]
    with pytest.raises(ValueError, match="must match"):
        WeightedSum([Fixed(1.0)], [])
    with pytest.raises(ValueError, match="sum to 1"):
        WeightedSum([Fixed(1.0)], [0.5])


async def test_a_sum_that_fails_leaves_nothing_running() -> None:
    class Broken(Fixed):
        def forward(self, action: Any, observation: Any) -> Any:
            raise RuntimeError("broken")

    class BrokenAsync(Fixed):
        async def forward(self, action: Any, observation: Any) -> Any:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        WeightedSum([FixedAsync(1.0), Broken(1.0)], [0.5, 0.5])(None, None)
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="broken"):
        await WeightedSum([FixedAsync(1.0), BrokenAsync(1.0)], [0.5, 0.5])(None, None)
    assert asyncio.all_tasks() == before


def test_lists_and_dicts_are_chosen_from() -> None:
    pong, chess = Fixed(1.0), Fixed(0.5)
    games = RubricDict({"pong": pong})
    games["chess"] = chess
    assert (games["pong"], len(games), "chess" in games, list(games)) == (
        pong,
        2,
        True,
        ["pong", "chess"],
    )
    assert (list(games.keys()), list(games.values()), dict(games.items())) == (
        ["pong", "chess"],
        [pong, chess],
        {"pong": pong, "chess": chess},
    )
    assert games.get_rubric("chess") is games.chess is chess  # type: ignore[attr-defined]  # by name
    games["forward"] = pong
    with pytest.raises(NotImplementedError, match="call one of its rubrics"):
        games(None, None)
    levels = RubricList([pong])
    levels.extend([chess])
    assert (len(levels), levels[1], list(levels)) == (2, chess, [pong, chess])
    with pytest.raises(NotImplementedError, match="call one of its rubrics"):
        levels(None, None)


class Won(ExponentialDiscountingTrajectoryRubric):
    def score_trajectory(self, trajectory: list[tuple[Any, Any]]) -> float:
        return 1.0 if trajectory[-1][1].won else 0.0


def test_an_episode_is_scored_at_its_end() -> None:
    rubric = Won(gamma=0.5, intermediate_reward=0.1)
    assert rubric.compute_step_rewards() == []
    step, end = SimpleNamespace(done=False, won=False), SimpleNamespace(done=True, won=True)
    assert [rubric("a", each) for each in (step, step, end)] == [0.1, 0.1, 1.0]
    assert rubric.compute_step_rewards() == [0.25, 0.5, 1.0]
    assert len(rubric.trajectory) == 3
    rubric.reset()
    assert rubric.trajectory == []
    kept = rubric.state_dict()
    other = Won()
    other.load_state_dict(kept)
    assert (other.gamma, other.intermediate_reward) == (0.5, 0.1)
    with pytest.raises(ValueError, match="gamma must be in"):
        Won(gamma=2.0)


class Model:
    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked = ""

    async def complete(self, prompt: str) -> str:
        self.asked = prompt
        return self.answer


@pytest.mark.parametrize(
    ("answer", "score"),
    [("Score: 0.75 of 1", 0.75), ("none", 0.3), ("7", 1.0)],
)
async def test_a_model_judges(answer: str, score: float) -> None:
    model = Model(answer)
    judge = LLMJudge("Rate {action} after {observation}", model, default_score=0.3)
    assert await judge("jump", "a wall") == score
    assert model.asked == "Rate jump after a wall"


async def test_the_settings_of_a_judge_can_be_kept() -> None:
    judge = LLMJudge("", Model(""), score_pattern=r"Score: (\d+)", normalize=False)
    other = LLMJudge("", Model("9 of 10, Score: 8"))
    other.load_state_dict(judge.state_dict())
    assert await other(None, None) == 8.0
    assert other.score_pattern == r"Score: (\d+)"
    odd = LLMJudge("", Model("x"), score_pattern="(x)", default_score=0.2)
    assert await odd(None, None) == 0.2
