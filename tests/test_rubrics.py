"""Rewards made of named parts."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from openenv_async import Environment, StepResult, rubrics
from openenv_async.compat.upstream.rubrics import Rubric as UpstreamRubric
from openenv_async.rollouts import collect_all
from openenv_async.rubrics import Rubric, gated, part, sequential, trajectory, weighted

Dict = dict[str, Any]


def correct(answer: str, expected: str) -> bool:
    return answer == expected


def brief(answer: str) -> float:
    return 1 / len(answer)


def polite(answer: str, **facts: Any) -> float:
    return float("please" in answer or len(facts) == 9)


def steps_taken(steps: list[Dict]) -> int:
    return len(steps)


QUALITY = weighted([(0.8, correct), (0.2, brief), (-1, polite)])


def test_a_weighted_sum_and_its_parts() -> None:
    score = QUALITY.score(answer="42", expected="42")
    assert score.value == pytest.approx(0.9)
    assert score.info == {
        "reward_parts": {"reward": score.value, "correct": 1.0, "brief": 0.5, "polite": 0.0}
    }
    assert list(score.parts) == ["reward", "correct", "brief", "polite"]


@pytest.mark.parametrize(("answer", "value", "asked"), [("42", 0.9, True), ("7", -0.5, False)])
def test_a_gate(answer: str, value: float, asked: bool) -> None:
    reward = gated(correct, QUALITY, otherwise=-0.5)
    score = reward.score(answer=answer, expected="42")
    assert score.value == pytest.approx(value)
    assert score.parts["correct"] == asked
    below = [score.parts[name] for name in ("weighted", "weighted.correct", "weighted.polite")]
    assert all(each is not None for each in below) if asked else below == [None] * 3


def test_a_gate_may_open_below_1() -> None:
    assert gated(brief, correct, threshold=0.5).score(answer="42", expected="42").value == 1
    assert gated(brief, correct, threshold=0.6).score(answer="42", expected="42").value == 0


def test_stages_in_order_stop_at_the_first_that_gives_nothing() -> None:
    reward = sequential(correct, brief)
    assert reward.score(answer="42", expected="42").value == 0.5
    score = reward.score(answer="7", expected="42")
    assert score.parts == {"reward": 0.0, "correct": 0.0, "brief": None}


def test_whole_episodes_are_scored_once_at_their_end() -> None:
    reward = weighted([(1, correct), (0.1, trajectory(steps_taken))])
    episode, other = reward.episode(), reward.episode()
    first = episode.step(answer="1", expected="2")
    assert (first.value, first.parts["steps_taken"]) == (0.0, None)
    last = episode.step(answer="2", expected="2", done=True)
    assert last.value == pytest.approx(1.2)
    assert last.parts["steps_taken"] == 2
    assert episode.total == pytest.approx(1.2)
    assert other.step(answer="2", expected="2", done=True).value == pytest.approx(1.1)


def test_what_is_kept_of_an_episode_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rubrics, "MAX_STEPS", 2)
    long, forgetful = trajectory(steps_taken).episode(), part(brief).episode()
    for _ in range(2):
        long.step()
    with pytest.raises(ValueError, match="more than 2 steps"):
        long.step()
    for _ in range(3):
        forgetful.step(answer="1")


async def test_async_functions_of_a_sum_run_at_once() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def one() -> float:
        first.set()
        await second.wait()
        return 1.0

    async def other() -> float:
        second.set()
        await first.wait()
        return 2.0

    reward = weighted([(1, one), (1, other), (1, part(lambda: 3, name="third"))])
    async with asyncio.timeout(5):
        score = await reward.score_async()
    assert score.value == 6.0
    assert list(score.parts) == ["reward", "one", "other", "third"]
    with pytest.raises(TypeError, match="weighted has async functions: await step_async"):
        reward.score()


async def test_an_error_of_a_function_is_its_own() -> None:
    async def broken() -> float:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await weighted([(1, broken), (1, part(lambda: 1, name="fine"))]).score_async()


async def test_sync_functions_may_be_awaited() -> None:
    assert (await QUALITY.score_async(answer="42", expected="42")).value == pytest.approx(0.9)


def test_a_rubric_of_upstream_is_a_part() -> None:
    class Exact(UpstreamRubric):
        def forward(self, action: Any, observation: Any) -> float:
            return float(action == observation)

    score = weighted([(1, part(Exact(), name="exact"))]).score(action=1, observation=1)
    assert score.parts == {"reward": 1.0, "exact": 1.0}


def test_numbers_of_arrays_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    assert part(lambda: np.float32(0.5), name="half").score().value == 0.5


class Callable_:
    def __call__(self, answer: str) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: part(lambda answer: 1), ValueError, "a lambda has no name"),
        (lambda: part("correct"), TypeError, "is a function, got 'correct'"),  # type: ignore[arg-type] # it is refused
        (lambda: part(correct, name="a.b"), ValueError, "a name without a dot"),
        (lambda: weighted([(1, correct), (2, correct)]), ValueError, "several parts .* 'correct'"),
        (lambda: weighted([(correct, 1)]), TypeError, "is a function, got 1"),  # type: ignore[list-item] # it is refused
        (lambda: weighted([(math.nan, correct)]), ValueError, "weight of correct is nan"),
        (lambda: weighted([("1", correct)]), TypeError, "write .weight, function."),  # type: ignore[list-item] # it is refused
        (lambda: weighted([]), ValueError, "weighted has no parts"),
        (sequential, ValueError, "sequential has no stages"),
        (lambda: QUALITY.score(answer="1"), TypeError, "correct takes 'expected', and was given"),
        (lambda: part(lambda: "x", name="x").score(), TypeError, "x returned 'x', not a number"),
        (lambda: part(lambda: math.inf, name="x").score(), ValueError, "'x' gave inf, not a fin"),
    ],
)
def test_mistakes_are_told(make: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        make()


def test_the_name_of_an_object_is_that_of_its_class() -> None:
    assert part(Callable_()).name == "Callable_"
    assert isinstance(part(Callable_()), Rubric)


class Graded(Environment[Dict, Dict, Dict]):
    isolation = "inline"
    reward = weighted([(1, correct), (0.5, trajectory(steps_taken))])

    def reset(self) -> Dict:
        self.scores = self.reward.episode()
        return {"question": "6 times 7?"}

    def step(self, action: Dict) -> StepResult[Dict]:
        done = action["answer"] != "?"
        score = self.scores.step(answer=action["answer"], expected="42", done=done)
        return StepResult({"question": ""}, score.value, terminated=done, info=score.info)


async def test_the_record_has_the_parts_and_observations_have_not() -> None:
    def policy(observation: Dict, turn: Any) -> Dict:
        return {"answer": "42" if turn.t else "?"}

    [outcome] = await collect_all(Graded, policy, episodes=1)
    assert outcome.trajectory is not None
    asked, answered = outcome.trajectory.transitions
    assert asked.info["reward_parts"] == {"reward": 0.0, "correct": 0.0, "steps_taken": None}
    assert answered.info["reward_parts"] == {"reward": 2.0, "correct": 1.0, "steps_taken": 2.0}
    assert answered.reward == outcome.episode_return == 2.0
    seen = [asked.observation, answered.observation, outcome.trajectory.final_observation]
    assert "reward_parts" not in str(seen)
