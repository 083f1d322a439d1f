"""Groups: what failed is in no baseline."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import Outcome, OutcomeStatus
from openenv_async.rollouts import EpisodeGroup, StreamedEpisode, advantages, baseline

RETURNS = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=12)


@given(RETURNS)
def test_failures_change_nothing_for_the_others(returns: list[float | None]) -> None:
    """As if the failed ones had not been there."""
    survivors = [value for value in returns if value is not None]
    assert baseline(returns) == baseline(survivors)
    for scale in (True, False):
        made = advantages(returns, scale=scale)
        assert [value is None for value in made] == [value is None for value in returns]
        assert [value for value in made if value is not None] == advantages(survivors, scale=scale)


def test_advantages_are_those_of_the_paper() -> None:
    returns = [1.0, 0.0, 0.5, 0.0]
    mean, deviation = statistics.mean(returns), statistics.stdev(returns)
    assert advantages(returns) == pytest.approx(
        [(value - mean) / (deviation + 1e-4) for value in returns]
    )
    assert advantages(returns, scale=False) == [value - mean for value in returns]
    assert advantages([2.0]) == [0.0]
    assert advantages([-2.0, 2.0], scale=False) == [-2.0, 2.0]
    assert advantages([1.0, 2.0], epsilon=0.0) == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert advantages([None, None]) == [None, None]
    assert baseline([]) is None


def episode(status: OutcomeStatus, value: float | None, steps: int = 2) -> StreamedEpisode:
    return StreamedEpisode(Outcome(0, status, episode_return=value, steps=steps), 0, 0)


def test_a_group_masks_what_is_not_usable() -> None:
    stale = episode(OutcomeStatus.COMPLETED, 9.0)
    stale.stale = True
    group = EpisodeGroup(
        0,
        [
            episode(OutcomeStatus.COMPLETED, 1.0),
            episode(OutcomeStatus.ENV_ERROR, None),
            episode(OutcomeStatus.TRUNCATED, 3.0),
            stale,
            episode(OutcomeStatus.COMPLETED, None),  # an environment without rewards
        ],
    )
    assert group.returns == [1.0, None, 3.0, None, None]
    assert group.mask == [True, False, True, False, False]
    assert group.baseline == 2.0
    made = group.advantages(scale=False)
    assert made == [-1.0, None, 1.0, None, None]
    assert not any(value is not None and math.isnan(value) for value in group.advantages())


def test_partial_is_what_was_cut_off_with_steps() -> None:
    assert episode(OutcomeStatus.CANCELLED, None).partial
    assert episode(OutcomeStatus.TIMEOUT, None).partial
    assert not episode(OutcomeStatus.CANCELLED, None, steps=0).partial
    assert not episode(OutcomeStatus.ENV_ERROR, None).partial
    assert not episode(OutcomeStatus.COMPLETED, 1.0).partial


def test_an_infinite_return_is_left_out_and_poisons_no_advantage() -> None:
    returns = [1.0, math.inf, 3.0, None, -math.inf, math.nan]
    assert baseline(returns) == 2.0
    assert advantages(returns, scale=False) == [-1.0, None, 1.0, None, None, None]
    episodes = [
        StreamedEpisode(Outcome(i, OutcomeStatus.COMPLETED, episode_return=value), 0, i)
        for i, value in enumerate(returns)
    ]
    group = EpisodeGroup(0, episodes)
    assert group.mask == [True, False, True, False, False, False]
    assert group.baseline == 2.0
    assert baseline([math.inf]) is None


@pytest.mark.parametrize("large", [1e200, 1.7e308], ids=["square", "sum"])
@pytest.mark.parametrize("members", [2, 8])
def test_returns_whose_sum_or_square_is_beyond_a_float_have_advantages(
    large: float, members: int
) -> None:
    assert baseline([large] * members) == pytest.approx(large)
    assert advantages([large] * members) == [0.0] * members
    made = advantages([large, 0.5 * large, None])
    assert made == [pytest.approx(math.sqrt(0.5)), pytest.approx(-math.sqrt(0.5)), None]
    assert advantages([large, -large], scale=False) == [large, -large]
