"""Records: what was sent and came is what is kept, written, read, replayed and made a data set."""

from __future__ import annotations

import asyncio
import enum
import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped,unused-ignore]  # only some releases have types
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openenv_async import Environment, OutcomeStatus, StepResult, connect
from openenv_async.errors import InvalidObservation
from openenv_async.rollouts import (
    BatchedPolicy,
    Turn,
    collect_all,
    open_writer,
    read_trajectories,
    replay,
    rollout,
    stream_groups,
)
from openenv_async.rollouts.datasets import to_dataset
from openenv_async.rollouts.record import decode, encode, snapshot

SUFFIXES = ("jsonl", "parquet")
datasets.disable_progress_bars()


# -- what the wire carries ----------------------------------------------------------------------

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
)
scalars = st.sampled_from(
    [np.int8(-3), np.uint64(1 << 63), np.float32(1.5), np.float64(math.nan), np.bool_(True)]
)
arrays = st.sampled_from(
    [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.array([math.nan, math.inf, -0.0], np.float32),
        np.zeros((0, 3), np.int16),
        np.array(7, ">i4"),
        np.array(["a", "bcd"]),
        np.array([1 + 2j]),
        np.array(["2020-01-01", "NaT"], "M8[s]"),
    ]
)
tags = st.sampled_from(["__items__", "__escaped__", "__ndarray__", "__float__", "__bytes__"])
keys = st.one_of(
    st.text(max_size=3),
    tags,
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=3),
    st.tuples(st.integers(0, 3), st.text(max_size=2)),
    st.tuples(st.tuples(st.none()), st.integers(0, 3)),
    st.sampled_from([np.int64(3), np.float32(0.5), math.nan]),
)
values = st.recursive(
    st.one_of(atoms, scalars, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3),
        tags.flatmap(lambda tag: st.fixed_dictionaries({tag: inner})),
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Tell whether two values are of one type and equal all the way down; NaN is NaN."""
    if isinstance(a, tuple) and isinstance(b, list):
        a = list(a)
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return bool(a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        if len(a) != len(b):
            return False
        pairs = zip(a.items(), b.items(), strict=True)
        return all(same_key(k, m) and same(x, y) for (k, x), (m, y) in pairs)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or bool(a != a and b != b)


def same_key(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same_key(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (bool(a == b) or bool(a != a and b != b))


class Giving(Environment[Any, Any, dict[str, Any]]):
    """Gives what it was made with, three times."""

    isolation = "inline"

    def __init__(self, observation: Any, info: Any = None) -> None:
        self.observation = observation
        self.info = info or {}
        self.count = 0

    def reset(self) -> StepResult[Any]:
        self.count = 0
        return StepResult(self.observation, info=self.info)

    def step(self, action: Any) -> StepResult[Any]:
        self.count += 1
        return StepResult(self.observation, 1.0, terminated=self.count == 2, info=self.info)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(observation=values, action=values, info=values)
def test_what_the_wire_carries_is_recorded_written_replayed_and_made_a_data_set(
    observation: Any, action: Any, info: Any
) -> None:
    async def play(path: Path) -> None:
        got: list[Any] = []

        def made() -> Giving:
            return Giving(observation, {"i": info})

        def policy(seen: Any, turn: Turn) -> Any:
            got.append((seen, turn.result.info))
            return action

        async with connect(made, Any, Any, dict) as env:
            outcome = await rollout(env, policy, seed=(1 << 63) - 5)
            assert outcome.status is OutcomeStatus.COMPLETED
            recorded = outcome.trajectory
            assert recorded is not None
            for step, (seen, info_seen) in zip(recorded.transitions, got, strict=True):
                assert same(step.observation, seen)
                assert same(recorded.reset_info if step.t == 0 else step.info, info_seen)
            for suffix in SUFFIXES:
                file = path / f"a.{suffix}"
                with open_writer(file) as writer:
                    writer.write(outcome)
                [read] = read_trajectories(file)
                assert read.seed == (1 << 63) - 5
                for ours, theirs in zip(recorded.transitions, read.transitions, strict=True):
                    assert same(plain(ours.observation), theirs.observation)
                    assert same(plain(ours.action), theirs.action)
                    assert same(plain(ours.info), theirs.info)
                assert same(plain(recorded.final_observation), read.final_observation)
                assert await replay(env, read) is None
            assert await replay(env, recorded) is None
        rows = to_dataset([recorded])
        rows.to_parquet(str(path / "d.parquet"))
        row = datasets.Dataset.from_parquet(str(path / "d.parquet"), cache_dir=str(path))[0]
        assert row["seed"] == (1 << 63) - 5
        for name, value in (("observation", observation), ("action", action)):
            assert same_data(row[name], value)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


def plain(value: Any) -> Any:
    """The value that a reader without the environment's types gets."""
    return decode(encode(value))


def same_data(cell: Any, value: Any) -> bool:
    """Tell whether a data set's cell is the value: typed, or its JSON text."""
    if isinstance(value, np.ndarray | np.generic) and not isinstance(cell, str):
        return same_data(cell, value.tolist())
    if isinstance(cell, str) and not isinstance(value, str):
        return same(plain(value), decode(cell))
    if isinstance(value, dict):
        return isinstance(cell, dict) and all(same_data(cell[k], v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return len(cell) == len(value) and all(map(same_data, cell, value))
    if isinstance(cell, str) and cell != value:
        return same(plain(value), decode(cell))
    return bool(cell == value) or bool(cell != cell and value != value)


@given(value=values)
def test_json_of_records_loses_nothing(value: Any) -> None:
    assert same(listed(value), decode(encode(value)))
    assert same(listed(value), decode(encode(value).decode()))


def listed(value: Any) -> Any:
    """A value with lists for tuples, but in keys."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, list | tuple) else value


class Colour(enum.Enum):
    RED = "red"


def test_an_enum_as_a_key_is_its_value_as_it_is_on_the_wire() -> None:
    assert decode(encode({Colour.RED: 1, (1, 2): {None: 2}})) == {"red": 1, (1, 2): {None: 2}}


# -- what is used again -------------------------------------------------------------------------


class Reusing:
    """A client that shows one object in every step, and uses up its actions."""

    episode = None

    def __init__(self) -> None:
        self.pixels = np.zeros(2, np.int64)
        self.shown: dict[str, Any] = {"n": 0, "deep": [{"n": 0}], "pixels": self.pixels}
        self.info = {"n": 0}

    async def reset(self, **options: Any) -> StepResult[Any]:
        self._show(0)
        return StepResult(self.shown, info=self.info)

    async def step(self, action: Any) -> StepResult[Any]:
        self._show(self.shown["n"] + 1)
        action.clear()
        return StepResult(self.shown, 1.0, terminated=self.shown["n"] == 3, info=self.info)

    def _show(self, n: int) -> None:
        self.shown["n"] = self.shown["deep"][0]["n"] = self.info["n"] = n
        self.pixels[:] = n


class OneBuffer:
    """A policy that fills one dict with one array in it, and spoils what it was shown."""

    def __init__(self) -> None:
        self.action: dict[str, Any] = {}
        self.array = np.zeros(1, np.int64)

    def __call__(self, observation: Any, turn: Turn) -> Any:
        self.array[0] = turn.t
        self.action.update(t=turn.t, array=self.array, view=self.array[:1], deep=[{"t": turn.t}])
        return self.action


def check_recorded(recorded: Any) -> None:
    steps = recorded.transitions
    assert [step.observation["n"] for step in steps] == [0, 1, 2]
    assert [step.observation["deep"][0]["n"] for step in steps] == [0, 1, 2]
    assert [step.observation["pixels"].tolist() for step in steps] == [[0, 0], [1, 1], [2, 2]]
    assert [step.info["n"] for step in steps] == [1, 2, 3]
    assert recorded.reset_info == {"n": 0}
    assert recorded.final_observation["n"] == 3
    for name in ("t", "array", "view"):
        assert [np.asarray(step.action[name]).item() for step in steps] == [0, 1, 2]
    assert [step.action["deep"] for step in steps] == [[{"t": 0}], [{"t": 1}], [{"t": 2}]]


async def test_what_is_used_again_is_recorded_as_it_was() -> None:
    outcome = await rollout(Reusing(), OneBuffer())
    check_recorded(outcome.trajectory)
    for each in await collect_all(Reusing, OneBuffer(), episodes=3, concurrency=1):
        check_recorded(each.trajectory)
    async with stream_groups(Reusing, OneBuffer(), group_size=2, groups=2, concurrency=2) as groups:
        async for group in groups:
            for episode in group.episodes:
                check_recorded(episode.outcome.trajectory)


async def test_a_policy_that_changes_what_it_is_shown_changes_no_record() -> None:
    class Counting(Environment[Any, Any, dict[str, Any]]):
        isolation = "inline"

        def reset(self) -> Any:
            self.n = 0
            return {"n": [0], "pixels": np.zeros(2)}

        def step(self, action: Any) -> Any:
            self.n += 1
            return StepResult({"n": [self.n], "pixels": np.zeros(2)}, 0.0, self.n == 2)

    def spoils(observation: Any, turn: Turn) -> Any:
        observation["n"][0] = 99
        observation["pixels"] = None
        turn.result.info["mine"] = 1
        return {}

    async with connect(Counting, Any, Any, dict) as env:
        recorded = (await rollout(env, spoils)).trajectory
    assert recorded is not None
    assert [step.observation["n"] for step in recorded.transitions] == [[0], [1]]
    assert [step.info for step in recorded.transitions] == [{}, {}]
    assert recorded.reset_info == {}


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_batched_function_may_fill_one_buffer(is_async: bool) -> None:
    """The next batch is computed while the actions of the last are still on their way."""
    buffer = np.zeros((1, 1), np.int64)
    second = asyncio.Event()

    def fill(observations: list[Any]) -> Any:
        buffer[0, 0] = observations[0]
        if observations[0] == 2:
            loop.call_soon_threadsafe(second.set)
        return buffer

    async def fill_later(observations: list[Any]) -> Any:
        return fill(observations)

    loop = asyncio.get_running_loop()
    made = BatchedPolicy(fill_later if is_async else fill, max_wait=0.0, max_batch=1)
    async with made as policy:
        actions = [policy(n) for n in (1, 2)]
        await second.wait()
        assert [int((await action)[0]) for action in actions] == [1, 2]


def test_a_snapshot_copies_what_can_change_and_nothing_else() -> None:
    fixed = np.frombuffer(b"abcd", np.uint8)
    for value in (1, "a", b"a", None, 1.5, fixed, fixed[1:], np.float32(1.5), Colour.RED):
        assert snapshot(value) is value
    owned = np.zeros(2)
    owned.flags.writeable = False  # its owner may make it writable again
    view = np.zeros(4)[1:]
    objects = np.array([[1], [2]], object)[:, 0]
    for array in (owned, view, objects):
        assert snapshot(array) is not array
        assert snapshot(array).tolist() == array.tolist()
    lock = {"a": [Locked([1])]}
    copied = snapshot(lock)
    lock["a"][0].items.append(2)
    assert copied == {"a": [{"items": [1]}]}  # what cannot be copied is taken apart


class Locked(msgspec.Struct):
    """It cannot be copied."""

    items: list[int]

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle a lock")


# -- rewards that are no numbers ----------------------------------------------------------------


class Paying(Environment[Any, Any, dict[str, Any]]):
    """Gives the rewards of a list, one a step."""

    isolation = "inline"

    def __init__(self, rewards: list[Any], first: Any = None) -> None:
        self.rewards = rewards
        self.first = first
        self.count = 0

    def reset(self) -> Any:
        self.count = 0
        return StepResult({}, self.first)

    def step(self, action: Any) -> Any:
        self.count += 1
        done = self.count == len(self.rewards)
        return StepResult({}, self.rewards[self.count - 1], terminated=done)


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ([1.0, math.nan, 1.0], 2),
        ([math.nan], 1),
        ([math.inf, None, -math.inf], 3),  # whose sum is none
    ],
)
async def test_a_reward_that_is_nan_makes_the_rollout_unusable(
    rewards: list[Any], kept: int, tmp_path: Path
) -> None:
    async with connect(functools.partial(Paying, rewards), Any, Any, dict) as env:
        outcome = await rollout(env, lambda seen: {})
    assert outcome.status is OutcomeStatus.ENV_ERROR
    assert outcome.episode_return is None
    assert isinstance(outcome.error, InvalidObservation)
    assert "reward" in str(outcome.error)
    for suffix in SUFFIXES:
        with open_writer(tmp_path / f"a.{suffix}") as writer:
            writer.write(outcome)
        [read] = read_trajectories(tmp_path / f"a.{suffix}")
        assert same([step.reward for step in read.transitions], rewards[:kept])
        assert (read.status, read.episode_return) == (OutcomeStatus.ENV_ERROR, None)
    assert same(to_dataset([read])["reward"][:], rewards[:kept])


async def test_a_first_reward_that_is_nan_makes_it_unusable_too() -> None:
    async with connect(functools.partial(Paying, [1.0], math.nan), Any, Any, dict) as env:
        outcome = await rollout(env, lambda seen: {})
    assert (outcome.status, outcome.steps) == (OutcomeStatus.ENV_ERROR, 0)
    assert outcome.trajectory is not None
    reward = outcome.trajectory.reset_reward
    assert reward is not None
    assert math.isnan(reward)


async def test_an_infinite_reward_is_kept_as_it_was_given(tmp_path: Path) -> None:
    async with connect(functools.partial(Paying, [1.0, -math.inf, None]), Any, Any, dict) as env:
        outcome = await rollout(env, lambda seen: {})
    assert (outcome.status, outcome.episode_return) == (OutcomeStatus.COMPLETED, -math.inf)
    for suffix in SUFFIXES:
        with open_writer(tmp_path / f"a.{suffix}") as writer:
            writer.write(outcome)
        [read] = read_trajectories(tmp_path / f"a.{suffix}")
        assert [step.reward for step in read.transitions] == [1.0, -math.inf, None]
        assert read.episode_return == -math.inf
    assert to_dataset([read])["reward"][:] == [1.0, -math.inf, None]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(np.float32(0.5), 0.5), (True, 1.0), (np.array(2), 2.0), (3, 3.0)],
)
async def test_rewards_of_other_kinds_are_numbers(reward: Any, expected: float) -> None:
    outcome = await rollout(Rewarding(reward), lambda seen: 1)
    assert outcome.episode_return == expected
    assert type(outcome.episode_return) is float


@pytest.mark.parametrize("reward", ["1.0", [1.0, 2.0], object()])
async def test_a_reward_that_is_no_number_is_the_environments_error(reward: Any) -> None:
    outcome = await rollout(Rewarding(reward), lambda seen: 1)
    assert outcome.status is OutcomeStatus.ENV_ERROR
    assert isinstance(outcome.error, InvalidObservation)
    assert "in step 1," in outcome.error.message  # counted from 1, as by validate and replay


class Rewarding:
    """A client whose only step earns this."""

    def __init__(self, reward: Any) -> None:
        self.reward = reward

    async def reset(self) -> StepResult[Any]:
        return StepResult(0)

    async def step(self, action: Any) -> StepResult[Any]:
        return StepResult(0, self.reward, terminated=True)
