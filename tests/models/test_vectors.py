"""What a vector of environments returns: its rows as they travel, and what is refused."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from openenv_async import StepResult, VectorEnvironment, VectorRows, connect
from openenv_async.errors import InvalidModel, InvalidObservation
from openenv_async.models.results import BadResult
from openenv_async.models.vectors import rows_as_sent
from openenv_async.spec import EnvironmentSpec

Numbers = NDArray[np.float64]


class Counters(VectorEnvironment[NDArray[np.int64], Numbers, dict[str, int]]):
    """Three counters; what a step returns can be set."""

    isolation = "inline"
    num_envs = 3
    answer: ClassVar[Any] = None

    def reset(self, seed: int | None = None) -> VectorRows[Numbers]:
        self.at = np.zeros(3)
        return VectorRows(self.at)

    def step(self, action: NDArray[np.int64]) -> Any:
        if self.answer is not None:
            return self.answer
        self.at = self.at + action
        ended = self.at > 2
        return StepResult(
            VectorRows(self.at, action.astype(np.float32), ended, np.zeros(3, bool)),
            info={"lap": self.at // 2},
        )


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_rows_arrive_as_they_are(format: Any) -> None:
    async with connect(Counters, format=format) as env:
        result = await env.reset(seed=1)
        rows = result.observation
        assert isinstance(rows, VectorRows)
        assert (rows.rewards, rows.terminated, rows.given, result.reward) == (None,) * 4
        result = await env.step(np.array([1, 2, 3]))
        rows = result.observation
        np.testing.assert_array_equal(rows.observations, [1, 2, 3])
        assert rows.rewards.dtype == np.float64
        np.testing.assert_array_equal(rows.rewards, [1, 2, 3])
        np.testing.assert_array_equal(rows.terminated, [False, False, True])
        np.testing.assert_array_equal(result.info["lap"], [0, 1, 1])
        assert not result.done


def test_the_schemas_of_rows_are_told_of_batches_too() -> None:
    action = {"type": "integer", "minimum": 0, "maximum": 3}

    class Declared(Counters):
        @classmethod
        def row_schemas(cls, **params: Any) -> dict[str, Any]:
            return {"action": action, "observation": {"type": "number"}}

    schema = EnvironmentSpec(Declared).schema
    assert schema["vector"]["action"] == action
    assert schema["action"]["x-ndarray"] == {"dtype": "<i8", "shape": [3], "low": 0, "high": 3}
    seen = schema["observation"]["properties"]["observations"]["x-ndarray"]
    assert (seen["dtype"], seen["shape"]) == ("<f8", [3])


def test_the_schema_tells_the_vector() -> None:
    spec = EnvironmentSpec(Counters)
    spec.check()
    told = spec.schema["vector"]
    assert (told["num_envs"], told["autoreset_mode"]) == (3, "next_step")
    assert spec.schema["observation"]["properties"]["rewards"]["anyOf"][0]["x-ndarray"] == {
        "dtype": "<f8",
        "shape": [3],
    }


def test_a_reward_that_was_not_given_is_marked() -> None:
    given = np.array([True, False])
    rows = rows_as_sent(VectorRows(np.zeros(2), [1, 9], [0, 1], [0, 0], given), 2)
    assert (rows.rewards.tolist(), rows.given.tolist()) == ([1.0, 0.0], [True, False])
    assert rows.terminated.tolist() == [False, True]
    assert rows_as_sent(VectorRows(np.zeros(2), [1, 9], given=[True, True]), 2).given is None


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (VectorRows(np.zeros(2)), r"observations of shape \(2,\): it must be \[3, …\]"),
        (VectorRows({"a": np.zeros(3), "b": np.zeros(4)}), r"observations\['b'\] of shape \(4,\)"),
        (VectorRows(None), "without observations: is a `return` missing"),
        (VectorRows(np.zeros(3), np.zeros(2)), r"rewards of shape \(2,\): it must be \[3\]"),
        (VectorRows(np.zeros(3), ["a"] * 3), "rewards are numbers"),
        (VectorRows(np.zeros(3), terminated=[1, 0, 0]), "alone: give both"),
        (VectorRows(np.zeros(3), None, [0, 1, 2], [0, 0, 0]), "terminated of int64: it must be b"),
        (VectorRows(np.zeros(3), given=[True] * 3), "given and without rewards"),
        (VectorRows(np.zeros(1), env_id=[3]), "names environments that there are not: 0 to 2"),
        (VectorRows(np.zeros(2), env_id=[1, 1]), "names an environment twice"),
        (VectorRows(np.zeros(2), env_id=[0.5, 1]), "env_id of float64"),
        (VectorRows(np.zeros(3), env_id=[0, 1]), r"observations of shape \(3,\): it must be \[2"),
    ],
)
def test_rows_that_do_not_fit(rows: Any, told: str) -> None:
    with pytest.raises(BadResult, match=told):
        rows_as_sent(rows, 3)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.zeros(3), r"a ndarray for a vector of environments: return VectorRows\("),
        (tuple(range(5)), "a tuple of 5 .* a gymnasium.vector.VectorEnv is served as it is"),
        (StepResult(np.zeros(3)), "StepResult.a ndarray. for a vector"),
        (StepResult(VectorRows(np.zeros(3)), 1.0), "a reward or an end of its own"),
        (StepResult(VectorRows(np.zeros(3)), info="lap"), "infos are a dict"),  # type: ignore[arg-type]  # wrong
        (VectorRows(np.zeros(4)), "it must be .3"),
    ],
)
async def test_other_results_are_refused(
    answer: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counters, "answer", answer)
    async with connect(Counters) as env:
        await env.reset()
        with pytest.raises(InvalidObservation, match=told):
            await env.step(np.array([1, 1, 1]))


class Sized(Counters):
    """One that takes the number when it is built."""

    def __init__(self, num_envs: int = 4, autoreset_mode: Any = "disabled") -> None:
        self.num_envs = num_envs


class Uncounted(VectorEnvironment[Any, Any, Any]):
    def reset(self) -> Any: ...

    def step(self, action: Any) -> Any: ...


def test_a_vector_says_how_many_there_are() -> None:
    layout = EnvironmentSpec(Sized, params={"num_envs": 9, "autoreset_mode": "disabled"}).vector
    assert layout is not None
    assert (layout.num_envs, layout.autoreset_mode) == (9, "disabled")
    for source, params, told in (
        (Uncounted, {}, "a vector of None"),
        (Sized, {"num_envs": 0}, "a vector of 0"),
        (Sized, {"autoreset_mode": "never"}, "autoreset_mode is 'never'"),
    ):
        with pytest.raises(InvalidModel, match=told):
            EnvironmentSpec(source, params=params).check()
