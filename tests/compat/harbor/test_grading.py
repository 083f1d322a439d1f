"""Rewards read from the files that tests write."""

from __future__ import annotations

import pytest

from openenv_async.compat.harbor.grading import read_rewards, the_reward
from openenv_async.errors import NoReward


@pytest.mark.parametrize(
    ("structured", "plain", "rewards"),
    [
        (None, b"1", {"reward": 1.0}),
        (None, b" 0.25\n", {"reward": 0.25}),
        (None, b"-3e2", {"reward": -300.0}),
        (b'{"reward": 0}', b"1", {"reward": 0.0}),
        (b'{"a": 1, "b": 0.5}', None, {"a": 1.0, "b": 0.5}),
        (b'{"passed": true}', None, {"passed": 1.0}),
    ],
)
def test_rewards_are_read(
    structured: bytes | None, plain: bytes | None, rewards: dict[str, float]
) -> None:
    assert read_rewards(structured, plain) == rewards


@pytest.mark.parametrize(
    ("structured", "plain", "said"),
    [
        (None, None, "wrote neither"),
        (None, b"", "txt is empty"),
        (None, b"\n", "txt is not a number"),
        (None, b"passed", "txt is not a number: 'passed'"),
        (None, b"nan", "txt is nan"),
        (None, b"1e999", "txt is inf"),
        (None, b"\xff", "txt is not a number"),
        (b"", b"1", "json is empty"),
        (b"{", b"1", "json is not JSON"),
        (b"1.0", b"1", "json is not an object"),
        (b"[1]", None, "json is not an object"),
        (b"{}", None, "json is not an object"),
        (b'{"a": "1"}', None, "a = '1'"),
        (b'{"a": null}', None, "a = None"),
        (b'{"a": NaN}', None, "a = nan"),
        (b'{"a": 1e309}', None, "a = inf"),
        (b'{"a": 1' + b"0" * 400 + b"}", None, "not a finite number"),
        (b'{"a": {"b": 1}}', None, "a = {'b': 1}"),
        (b"[" * 100_000, None, "json is not JSON"),
    ],
)
def test_what_is_no_reward_says_why(
    structured: bytes | None, plain: bytes | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said.replace("{", r"\{")):
        read_rewards(structured, plain)


def test_of_several_rewards_one_counts() -> None:
    assert the_reward({"passed": 0.5}, "reward") == 0.5
    assert the_reward({"reward": 1.0, "style": 0.0}, "reward") == 1.0
    assert the_reward({"reward": 1.0, "style": 0.0}, "style") == 0.0
    with pytest.raises(NoReward, match=r"the rewards a, b, and none is called reward.*reward_key="):
        the_reward({"a": 1.0, "b": 0.0}, "reward")
