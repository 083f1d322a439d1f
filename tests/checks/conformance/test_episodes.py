"""The checks of episodes: kept over every transport, and broken by a runtime that lies."""

from __future__ import annotations

import pytest

from openenv_async.checks.conformance import episodes
from openenv_async.checks.conformance.episodes import comparable, without
from tests.checks.conformance.over import caught, passes, promises


@promises(episodes)
async def test_it_is_kept_over(name: str, transport: str) -> None:
    await passes(name, transport)


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("invents rewards", "no_reward_is_none"),
        ("rounds rewards", "the_reward_is_the_environments"),
        ("rounds rewards", "a_reward_that_is_not_finite_arrives"),
        ("never ends", "the_end_is_the_environments"),
        ("calls every end the same", "terminated_is_not_truncated"),
        ("drops seeds", "the_seed_reaches_the_environment"),
        ("drops seeds", "the_seed_is_reported"),
        ("drops seeds", "seeds_are_not_shared"),
        ("drops seeds", "equal_seeds_give_equal_episodes"),
        ("drops episode ids", "the_episode_id_is_kept"),
        ("hides that a step ran", "the_seed_reaches_the_environment"),
    ],
)
async def test_a_broken_runtime_is_caught_by_name(lie: str, check: str) -> None:
    assert (await caught(lie, check)).reason


def test_values_are_compared_exactly() -> None:
    assert comparable([1.0, {"a": None}]) == comparable([1.0, {"a": None}])
    assert comparable(float("nan")) == comparable(float("nan"))
    assert comparable(0) != comparable(False)
    assert comparable(0.0) != comparable(-0.0)


def test_named_fields_are_left_out_at_any_depth() -> None:
    value = {"a": 1, "b": [{"a": 2, "c": 3}]}
    assert without(value, {"a"}) == {"b": [{"c": 3}]}
    assert without(value, ()) == value
