"""Batches as columns: what may go as one array, and what must be looked at row by row."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from openenv_async import Environment, StepResult
from openenv_async.errors import InvalidAction
from openenv_async.integrations.gymnasium import GymVectorEnv
from openenv_async.integrations.gymnasium.columns import STACKED, ActionColumn, outside, shape_of
from openenv_async.protocol.columns import column_of, rows_of
from tests.integrations.serving import served

BOX = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (spaces.Discrete(3), STACKED),
        (BOX, STACKED),
        (spaces.MultiDiscrete([2, 3]), STACKED),
        (spaces.MultiBinary(4), STACKED),
        (spaces.Box(-1, 1, (), np.float32), None),  # an element is an array without an axis
        (spaces.Dict(a=BOX, b=spaces.Discrete(2)), {"a": STACKED, "b": STACKED}),
        (spaces.Dict(a=BOX, b=spaces.Text(3)), None),
        (spaces.Dict(a=spaces.Dict(b=BOX)), {"a": {"b": STACKED}}),
        (spaces.Dict({1: BOX}), None),  # type: ignore[dict-item]  # Gymnasium takes it
        (spaces.Dict({}), None),
        (spaces.Tuple([BOX]), None),
    ],
)
def test_spaces_of_numbers_lie_in_columns(space: Any, shape: Any) -> None:
    assert shape_of(space) == shape


@pytest.mark.parametrize(
    "actions",
    [[0, 2, 1], np.array([0, 2, 1], np.int32), np.array([[0], [2], [1]]), (0, 2, 1)],
)
def test_numbers_become_one_array(actions: Any) -> None:
    column = ActionColumn.of(STACKED, spaces.Discrete(3), actions, 3)
    assert column is not None
    form, array = column_of(column.where(np.array([True, False, True])).packed())
    assert (form, array.tolist(), array.dtype) == (0, [0, 1], np.int64)
    assert rows_of(column.packed(), 3) == [b"\x00", b"\x02", b"\x01"]
    assert rows_of(column.where(np.zeros(3, np.bool_)).packed(), 0) == []


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Discrete(3), [0, 1]),
        (spaces.Discrete(3), [0.0, 1.0, 2.0]),
        (spaces.Discrete(3), np.zeros((3, 2), int)),
        (spaces.Discrete(3), np.array([0, 1, 2], np.uint64)),
        (BOX, np.zeros((3, 2))),
        (BOX, np.zeros((2, 2), np.float32)),
        (BOX, np.zeros((3, 3), np.float32)),
        (BOX, [[0.0, 0.0]] * 3),
        (spaces.Dict(a=BOX), {"a": np.zeros((3, 1), np.float32)}),
        (spaces.Dict(a=BOX), {"b": np.zeros((3, 2), np.float32)}),
        (spaces.Dict(a=BOX), np.zeros((3, 2), np.float32)),
        (spaces.Text(3), ["a", "b", "c"]),
    ],
)
def test_a_batch_that_must_be_changed_goes_row_by_row(space: Any, actions: Any) -> None:
    assert ActionColumn.of(shape_of(space), space, actions, 3) is None


class Fields(gymnasium.Env[Any, Any]):
    """An observation of arrays and numbers, of the seed and of the last action."""

    observation_space = spaces.Dict(
        place=spaces.Box(-9, 9, (2, 2), np.float32),
        deep=spaces.Dict(count=spaces.Discrete(50), bits=spaces.MultiBinary(3)),
    )
    action_space = spaces.Dict(move=BOX, turn=spaces.Discrete(3))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.count = 0
        return self._seen(np.zeros(2, np.float32)), {}

    def _seen(self, move: Any) -> Any:
        place = self.np_random.random((2, 2), np.float32) + move
        bits = (self.np_random.random(3) > 0.5).astype(np.int8)
        return {"place": place, "deep": {"count": np.int64(self.count), "bits": bits}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.count += 1 + int(action["turn"])
        over = self.count > 12
        return self._seen(action["move"]), float(action["move"][0]), over, False, {}


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("copy", [True, False])
def test_dicts_of_arrays_are_the_local_ones(mode: str, copy: bool) -> None:
    with served(Fields) as url:
        there = GymVectorEnv(url, 3, autoreset_mode=mode, copy=copy)
        here: Any = SyncVectorEnv([Fields] * 3, autoreset_mode=there.autoreset_mode)
        here.action_space.seed(0)
        left: Any = there.reset(seed=1)
        right: Any = here.reset(seed=1)
        np.testing.assert_equal(left[0], right[0])
        for _ in range(30):
            actions = here.action_space.sample()
            left, right = there.step(actions), here.step(actions)
            np.testing.assert_equal(left[0], right[0])
            for i in (1, 2, 3):
                np.testing.assert_array_equal(left[i], right[i])
            assert left[4].keys() == right[4].keys()
            if "final_obs" in left[4]:
                for mine, theirs in zip(left[4]["final_obs"], right[4]["final_obs"], strict=True):
                    np.testing.assert_equal(mine, theirs)
        there.send({name: part[:2] for name, part in actions.items()}, [2, 0])
        found = there.recv()
        assert sorted(found[4]["env_id"].tolist()) == [0, 2]
        assert found[0]["place"].shape == (2, 2, 2)
        there.close()
        here.close()


class Picky(Environment[dict[str, int], Any, Any]):
    """Refuses 3; gives no reward at 2; an observation of another dtype than declared at 1."""

    isolation = "inline"

    def reset(self) -> Any:
        return np.zeros(2, np.float32)

    def step(self, action: dict[str, int]) -> Any:
        number = action["n"]
        if number == 3:
            raise InvalidAction("three is refused")
        seen = np.full(2, number, np.float64 if number == 1 else np.float32)
        return StepResult(seen, None if number == 2 else 1.0)

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        array = {"dtype": "<f4", "shape": [2], "low": None, "high": None}
        number = {"type": "integer", "minimum": 0, "maximum": 9}
        return {
            "action": {"type": "object", "properties": {"n": number}},
            "observation": {"type": "array", "x-ndarray": array},
        }


def test_rows_that_differ_are_taken_as_they_are() -> None:
    with served(Picky) as url:
        env = GymVectorEnv(url, 3, missing_reward=-7.0)
        env.reset()
        for numbers in ([0, 0, 0], [0, 1, 2], [2, 2, 2], [1, 0, 0]):
            observations, rewards, *_ = env.step(np.array(numbers))
            assert observations.dtype == np.float32
            assert observations.tolist() == [[n, n] for n in numbers]
            assert rewards.tolist() == [-7.0 if n == 2 else 1.0 for n in numbers]
        with pytest.raises(InvalidAction, match="three is refused") as caught:
            env.step(np.array([0, 3, 0]))
        assert caught.value.__notes__ == ["in environment 1 of 3"]
        assert env.step(np.array([4, 4, 4]))[0].tolist() == [[4, 4]] * 3
        for wrong in ([0, 0], [[0, 1], [0, 0]], [0.5, 0, 0], ["a", 0, 0]):
            with pytest.raises((ValueError, InvalidAction)):
                env.step(wrong)
        assert env.step(np.array([5, 5, 5]))[0].tolist() == [[5, 5]] * 3
        env.close()


@pytest.mark.parametrize(
    ("space", "actions", "beyond"),
    [
        (spaces.Discrete(3, start=-1), [-1, 0, 1], None),
        (spaces.Discrete(3, start=-1), np.array([[-2], [0], [2]]), [True, False, True]),
        (spaces.Discrete(3), [0, 1, 2], None),
        (spaces.Discrete(3), [-1, 2, 3], [True, False, True]),
        (spaces.Discrete(3), np.array([2, 3], np.uint64), [False, True]),
        (spaces.Discrete(3), [0.5, 9.0], None),
        (spaces.Discrete(3), [], None),
        (spaces.Box(-1, 1, (2,)), np.array([[0, 1], [0, 2]], np.float32), [False, True]),
        (spaces.Box(-1, 1, (2,)), np.array([[0, 1], [0, np.nan]], np.float32), [False, True]),
        (spaces.Box(-1, 1, (2,)), np.array([[0, 2.0]]), None),
        (spaces.MultiDiscrete([2, 3]), np.array([[1, 2], [2, 0]]), [False, True]),
        (spaces.MultiBinary(2), np.array([[1, 0], [2, 0]], np.int8), [False, True]),
        (
            spaces.Dict({"a": spaces.Discrete(2), "b": spaces.MultiBinary(1)}),
            {"a": [0, 2, 0], "b": np.array([[0], [0], [3]], np.int8)},
            [False, True, True],
        ),
        (spaces.Text(3), ["aaaa"], None),
    ],
)
def test_rows_beyond_the_bounds_are_found(space: Any, actions: Any, beyond: Any) -> None:
    found = outside(space, actions)
    assert (None if found is None else found.tolist()) == beyond
