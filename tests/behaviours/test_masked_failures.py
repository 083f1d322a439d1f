"""No fake rewards: whatever fails, every trainer adapter shows a masked row and no zero.

TRL's adapter is held to the same in ``tests/integrations/trl/test_rollouts.py``.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from openenv_async import Environment, OutcomeStatus, Timeouts, serve
from openenv_async.client.env import GenericEnvClient
from openenv_async.integrations.gymnasium import GymVectorEnv
from openenv_async.integrations.sb3 import OpenEnvVecEnv
from openenv_async.rollouts import Turn, collect_all, rollout, stream_groups
from openenv_async.types import Outcome
from tests.behaviours.failing import Faulty, FaultyProcess
from tests.integrations.serving import served

Dict = dict[str, Any]
TIMEOUTS = Timeouts(step=2.0)
"""Long enough for a healthy step on a loaded machine; the hanging one takes all of it."""


FAULTS: list[tuple[str, type[Environment[Any, Any, Any]], OutcomeStatus]] = [
    ("raise", Faulty, OutcomeStatus.ENV_ERROR),
    ("nonsense", Faulty, OutcomeStatus.ENV_ERROR),
    ("hang", Faulty, OutcomeStatus.TIMEOUT),
    ("die", FaultyProcess, OutcomeStatus.ENV_ERROR),
]
MATRIX = pytest.mark.parametrize(("fault", "env", "status"), FAULTS, ids=[f[0] for f in FAULTS])
SPACES: Dict = {
    "action_space": gymnasium.spaces.Discrete(2),
    "observation_space": gymnasium.spaces.Box(0, 9, (1,), np.int64),
    "decode_observation": lambda seen: np.array([seen["steps"]]),
}


def never_zero(outcome: Outcome, status: OutcomeStatus) -> None:
    assert outcome.status is status
    assert outcome.episode_return is None
    assert outcome.trajectory is not None
    assert outcome.trajectory.episode_return is None
    assert all(step.reward == 1.0 for step in outcome.trajectory.transitions)


@MATRIX
async def test_a_group_has_the_baseline_of_its_survivors(
    fault: str, env: Any, status: OutcomeStatus
) -> None:
    def policy(observation: Any, turn: Turn) -> Dict:
        return {"do": fault if turn.index == 1 and turn.t == 1 else ""}

    async with serve(env) as url:

        def client() -> GenericEnvClient:
            return GenericEnvClient(url, timeouts=TIMEOUTS)

        async with stream_groups(client, policy, group_size=4, groups=1) as groups:
            group = await anext(groups)
        failed = group.episodes[1]
        never_zero(failed.outcome, status)
        assert group.mask[1] is False
        survivors = [e for e in group.episodes if e.usable]
        # A process that dies may take others with it: they are left out like the first.
        assert survivors or fault == "die"
        assert all(e.episode_return == 3.0 for e in survivors)
        assert group.baseline == (3.0 if survivors else None)
        for advantage, usable in zip(group.advantages(), group.mask, strict=True):
            assert (advantage is None) is not usable
        assert [o.status.usable for o in await collect_all(url, lambda o: {"do": ""}, episodes=2)]


@MATRIX
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_vector_row_is_masked(fault: str, env: Any, status: OutcomeStatus, mode: str) -> None:
    with served(env) as url:
        vector = GymVectorEnv(
            url,
            3,
            autoreset_mode=mode,
            failures="mask",
            timeouts=TIMEOUTS,
            encode_action=lambda action: {"do": fault if action else ""},
            **SPACES,
        )
        vector.reset()
        vector.step([0, 0, 0])
        observations, rewards, terminated, truncated, infos = vector.step([0, 1, 0])
        assert infos["masked"][1]
        assert isinstance(infos["error"][1], Exception)
        assert math.isnan(rewards[1])
        assert truncated[1]
        assert not terminated[1]
        assert not vector.valid[1]
        assert not np.any(rewards == 0.0)
        for i in (0, 2):
            if vector.valid[i]:
                assert (rewards[i], observations[i, 0]) == (1.0, 2)
            else:
                assert fault == "die"
                assert math.isnan(rewards[i])
        played = 0
        while played < 6:  # its next episodes are whole ones again
            _, rewards, terminated, *_ = vector.step([0, 0, 0])
            played += 1
            assert set(rewards.tolist()) <= ({0.0, 1.0} if mode == "NextStep" else {1.0})
        assert vector.valid.all()
        vector.close()


@MATRIX
def test_a_row_of_stable_baselines_is_masked(fault: str, env: Any, status: OutcomeStatus) -> None:
    with served(env) as url:
        vector = OpenEnvVecEnv(
            url,
            2,
            failures="mask",
            timeouts=TIMEOUTS,
            encode_action=lambda action: {"do": fault if action else ""},
            **SPACES,
        )
        vector.reset()
        _, rewards, dones, infos = vector.step(np.array([0, 1]))
        assert infos[1]["masked"]
        assert math.isnan(rewards[1])
        assert dones[1]
        assert "episode" not in infos[1]
        assert not np.any(rewards == 0.0)
        vector.close()


def test_a_server_that_goes_away_masks_every_row() -> None:
    with served(Faulty) as url:
        vector = GymVectorEnv(
            url,
            2,
            failures="mask",
            timeouts=TIMEOUTS,
            encode_action=lambda action: {"do": ""},
            **SPACES,
        )
        vector.reset()
    for _ in range(2):
        _, rewards, _, truncated, infos = vector.step([0, 0])
        assert np.isnan(rewards).all()
        assert truncated.all()
        assert infos["masked"].all()
    vector.close()


@pytest.mark.parametrize(("fault", "status"), [("raise", "env_error"), ("hang", "timeout")])
async def test_a_reset_that_fails_is_no_episode(fault: str, status: str) -> None:
    timeouts = TIMEOUTS.replace(reset=1.0)
    async with serve(Faulty) as url, GenericEnvClient(url, timeouts=timeouts) as env:
        outcome = await rollout(env, lambda seen: {"do": ""}, reset_options={"fault": fault})
    never_zero(outcome, OutcomeStatus(status))
    assert outcome.steps == 0


async def test_nobody_listens() -> None:
    (outcome,) = await collect_all("http://127.0.0.1:1", lambda seen: {}, episodes=1)
    never_zero(outcome, OutcomeStatus.INFRA_ERROR)
