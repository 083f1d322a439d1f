"""GymVectorEnv over sessions that are vectors: what one vector in this process gives."""

from __future__ import annotations

import contextlib
import functools
import pickle
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from openenv_async import SyncEnvPool
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentRaised,
    EpisodeNotStarted,
    InvalidAction,
    InvalidObservation,
    InvalidOption,
    OperationUnsupported,
    SessionBusy,
)
from openenv_async.hosts.vectors import make_vector
from openenv_async.integrations.gymnasium import GymVectorEnv
from openenv_async.integrations.gymnasium.hosted import HostedVectors
from tests.integrations.networks import Network
from tests.integrations.serving import served

# EnvPool's bounds are float64, and its spaces float32.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting")


class Stairs(gymnasium.Env[Any, Any]):
    """Observations of several parts; breaks at the action 2."""

    observation_space = gymnasium.spaces.Dict(
        {
            "at": gymnasium.spaces.Discrete(99),
            "pair": gymnasium.spaces.Tuple(
                [gymnasium.spaces.Box(-1, 1, (2,), np.float32), gymnasium.spaces.MultiBinary(3)]
            ),
        }
    )
    action_space = gymnasium.spaces.Discrete(3)
    isolation = "inline"

    def _seen(self) -> Any:
        near = np.full(2, self.at / 99, np.float32)
        return {"at": self.at, "pair": (near, np.array([self.at % 2, 0, 1], np.int8))}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(3))
        return self._seen(), {"drawn": self.at}

    def step(self, action: Any) -> Any:
        if action == 2:
            raise ZeroDivisionError("a broken stair")
        self.at += int(action)
        return self._seen(), float(action), self.at > 5, False, {"name": f"step {self.at}"}


def stairs(mode: AutoresetMode, count: int) -> SyncVectorEnv:
    return SyncVectorEnv([Stairs] * count, autoreset_mode=mode)


def same(one: Any, other: Any) -> None:
    """Compare everything, types of containers included."""
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert set(one) == set(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, tuple):
        assert type(other) is type(one)
        for mine, theirs in zip(one, other, strict=True):
            same(mine, theirs)
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert other.dtype == object
        for mine, theirs in zip(one, other, strict=True):
            assert (mine is None) is (theirs is None)
            if mine is not None:
                same(mine, theirs)
    else:
        np.testing.assert_array_equal(one, other)


def play(there: Any, here: Any, steps: int, drawn: Callable[[], Any] | None = None) -> None:
    rng = np.random.default_rng(0)
    assert there.single_observation_space == here.single_observation_space
    assert there.single_action_space == here.single_action_space
    assert there.metadata["autoreset_mode"] is here.metadata["autoreset_mode"]
    same(here.reset(seed=7), there.reset(seed=7))
    ended = np.zeros(here.num_envs, bool)
    for _ in range(steps):
        if here.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            same(
                here.reset(options={"reset_mask": ended.copy()}),
                there.reset(options={"reset_mask": ended.copy()}),
            )
        actions = rng.integers(0, 2, here.num_envs) if drawn is None else drawn()
        mine, theirs = here.step(actions), there.step(actions)
        same(mine, theirs)
        ended = mine[2] | mine[3]
    same(here.reset()[0], there.reset()[0])


def test_gymnasium_s_own_vector_is_the_local_one() -> None:
    with served(CartPoleVectorEnv, params={"num_envs": 5}) as url:
        there, here = GymVectorEnv(url), CartPoleVectorEnv(5)
        assert there.num_envs == 5
        assert there.action_space == here.action_space
        play(there, here, 150)
        there.close()


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("shards", [1, 3])
def test_vectors_of_sessions_in_each_mode(mode: AutoresetMode, shards: int) -> None:
    """Seeds count on over the shards, so that three of two are one of six."""
    with vectors(mode, 6 // shards) as url:
        there = GymVectorEnv(url, 6)
        play(there, stairs(mode, 6), 40)
        there.close()


@contextlib.contextmanager
def vectors(mode: AutoresetMode, each: int) -> Iterator[str]:
    def make() -> SyncVectorEnv:
        return stairs(mode, each)

    with served(make) as url:
        yield url


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("sees", ["graph", "one_of", "dict"])
def test_graphs_and_alternatives_are_the_local_ones(mode: AutoresetMode, sees: str) -> None:
    """Two sessions of three: batches of these are tuples of elements, not arrays."""
    networks = functools.partial(Network, sees)
    made = functools.partial(SyncVectorEnv, [networks] * 3, autoreset_mode=mode)
    with served(made) as url:
        there, here = GymVectorEnv(url, 6), SyncVectorEnv([networks] * 6, autoreset_mode=mode)
        here.action_space.seed(0)
        play(there, here, 12, lambda: here.action_space.sample())
        there.close()


def test_several_servers_are_one_vector() -> None:
    mode = AutoresetMode.SAME_STEP
    with vectors(mode, 2) as one, vectors(mode, 2) as other:
        there = GymVectorEnv([one, other])
        assert there.num_envs == 4
        play(there, stairs(mode, 4), 40)
        copy = pickle.loads(pickle.dumps(there))
        same(copy.reset(seed=7)[0], there.reset(seed=7)[0])
        copy.close()
        there.close()


def test_the_servers_of_a_pool_are_one_vector() -> None:
    mode = AutoresetMode.NEXT_STEP
    with (
        vectors(mode, 2) as one,
        vectors(mode, 2) as other,
        SyncEnvPool.from_urls([one, other]) as pool,
    ):
        there = GymVectorEnv(pool)
        play(there, stairs(mode, 4), 20)
        there.close()


def test_rows_in_arrays_that_are_used_again() -> None:
    with vectors(AutoresetMode.NEXT_STEP, 2) as url:
        there = GymVectorEnv(url, 4, copy=False)
        play(there, stairs(AutoresetMode.NEXT_STEP, 4), 20)
        first = there.step(np.zeros(4, int))[0]
        assert there.step(np.zeros(4, int))[0]["at"] is first["at"]
        there.close()


def test_seeds_for_each_environment() -> None:
    with vectors(AutoresetMode.NEXT_STEP, 2) as url:
        there, here = GymVectorEnv(url, 4), stairs(AutoresetMode.NEXT_STEP, 4)
        same(
            here.reset(seed=[4, None, 9, 1])[0]["at"][2], there.reset(seed=[4, 0, 9, 1])[0]["at"][2]
        )
        same(here.reset(seed=[4, 3, 9, 1]), there.reset(seed=[4, 3, 9, 1]))
        with pytest.raises(ValueError, match="3 seeds for 4"):
            there.reset(seed=[1, 2, 3])
        there.close()


def test_servers_of_different_vectors_are_refused() -> None:
    with (
        vectors(AutoresetMode.NEXT_STEP, 2) as one,
        vectors(AutoresetMode.NEXT_STEP, 3) as other,
        pytest.raises(InvalidOption, match=r"num_envs of one of .* is 2, of another 3"),
    ):
        GymVectorEnv([one, other])


def test_a_ragged_batch_is_an_invalid_action() -> None:
    with vectors(AutoresetMode.NEXT_STEP, 2) as url:
        env = GymVectorEnv(url)
        env.reset(seed=0)
        with pytest.raises(InvalidAction, match="rows of different shapes"):
            env.step([0, [0, 1]])
        env.close()


def test_the_mode_is_that_of_the_server() -> None:
    with vectors(AutoresetMode.DISABLED, 2) as url:
        with pytest.raises(
            OperationUnsupported, match=r"not SameStep as wanted: .*vectorization_mode=sync"
        ):
            GymVectorEnv(url, autoreset_mode="SameStep")
        with pytest.raises(InvalidOption, match="a vector of 2 environments: num_envs must be a m"):
            GymVectorEnv(url, 3)
        with pytest.raises(OperationUnsupported, match="action_field= belongs to sessions of one"):
            GymVectorEnv(url, action_field="value")
        GymVectorEnv(url, 2, autoreset_mode="Disabled").close()


def test_one_environment_a_session_needs_a_number(cartpole: str) -> None:
    with pytest.raises(InvalidOption, match="say how many there are to be with num_envs="):
        GymVectorEnv(cartpole)


def test_a_shard_that_fails_costs_the_others_nothing() -> None:
    here = stairs(AutoresetMode.NEXT_STEP, 2)
    with vectors(AutoresetMode.NEXT_STEP, 2) as url:
        there = GymVectorEnv(url, 4, failures="mask")
        here.reset(seed=2)
        there.reset(seed=0)
        mine, theirs = here.step([1, 0]), there.step(np.array([0, 2, 1, 0]))
        same(mine[0]["at"], theirs[0]["at"][2:])
        assert theirs[3].tolist() == [True, True, False, False]
        assert np.isnan(theirs[1][:2]).all()
        assert there.valid.tolist() == [False, False, True, True]
        assert isinstance(theirs[4]["error"][0], EnvironmentRaised)
        mine, theirs = here.step([1, 1]), there.step(np.array([1, 1, 1, 1]))
        same(mine[0]["at"], theirs[0]["at"][2:])
        assert theirs[1].tolist() == [0, 0, 1, 1]
        assert there.valid.all()
        assert there.step(np.array([1, 1, 1, 1]))[1].tolist() == [1, 1, 1, 1]
        there.close()


def test_a_failure_is_raised_and_the_vector_goes_on() -> None:
    with vectors(AutoresetMode.NEXT_STEP, 2) as url:
        there = GymVectorEnv(url, 4)
        with pytest.raises(EpisodeNotStarted, match=r"call reset\(\) first"):
            there.step(np.zeros(4, int))
        there.reset(seed=0)
        with pytest.raises(EnvironmentRaised, match="a broken stair") as caught:
            there.step(np.array([0, 2, 1, 0]))
        assert caught.value.__notes__ == ["in environments 0 to 1 of 4"]
        assert there.step(np.array([0, 0, 1, 0]))[1].tolist() == [0, 0, 1, 0]
        for actions in ([0, 1, 0], [0, 1, 0, 7], 3):
            with pytest.raises((ValueError, InvalidAction)):
                there.step(actions)
        same(there.reset(seed=1)[0]["at"].shape, (4,))
        there.close()


def test_shards_that_are_ready_are_received_first() -> None:
    with vectors(AutoresetMode.NEXT_STEP, 2) as url:
        there = GymVectorEnv(url, 4)
        there.reset(seed=0)
        there.send(np.array([1, 0]), [2, 3])
        with pytest.raises(SessionBusy, match="under way"):
            there.step(np.zeros(4, int))
        with pytest.raises(SessionBusy, match="environments 2 to 3 are under way"):
            there.send(np.array([1, 0]), [2, 3])
        with pytest.raises(InvalidOption, match="not the rows of one session in their order"):
            there.send(np.array([1, 0]), [0, 2])
        there.send(np.array([0, 1]), [0, 1])
        came = there.recv(2)[4]["env_id"].tolist()
        if len(came) < 4:
            came += there.recv()[4]["env_id"].tolist()
        assert sorted(came) == [0, 1, 2, 3]
        with pytest.raises(SessionBusy, match="9 rows were asked for"):
            there.recv(9)
        there.close()


class Held(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Steps of action 1 end when ``go_on`` is set."""

    single_observation_space = gymnasium.spaces.Box(0, 99, (1,), np.float64)
    single_action_space = gymnasium.spaces.Discrete(2)
    isolation = "thread"
    go_on = threading.Event()

    def __init__(self) -> None:
        self.num_envs = 2
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.at = 0.0

    def _seen(self) -> Any:
        return np.full((2, 1), self.at)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.at = 0.0
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        if 1 in actions:
            assert self.go_on.wait(60)
        self.at += 1
        ends = np.zeros(2, np.bool_)
        return self._seen(), np.full(2, self.at), ends, ends, {}


@pytest.mark.parametrize("held", [0, 1])
def test_rows_of_a_server_that_is_slow_keep_none_of_the_others_back(held: int) -> None:
    Held.go_on.clear()
    with served(Held) as one, served(Held) as other:
        there = GymVectorEnv([one, other])
        there.reset(seed=0)
        slow, quick = [2 * held, 2 * held + 1], [2 - 2 * held, 3 - 2 * held]
        there.send(np.ones(2, int), slow)
        there.send(np.zeros(2, int), quick)
        rows = there.recv(1, timeout=30)
        assert rows[4]["env_id"].tolist() == quick
        there.send(np.zeros(2, int), quick)
        with pytest.raises(DeadlineExceeded, match="fewer than 4 rows within"):
            there.recv(timeout=0.3)
        with pytest.raises(SessionBusy, match="are under way"):
            there.send(np.zeros(2, int), quick)
        Held.go_on.set()
        rows = there.recv(timeout=30)
        assert rows[4]["env_id"].tolist() == [0, 1, 2, 3]
        assert rows[1][quick].tolist() == [2, 2]
        assert rows[1][slow].tolist() == [1, 1]
        there.close()


def test_where_nothing_is_under_way_no_rows_are_received() -> None:
    with served(Held) as one, served(Held) as other:
        there = GymVectorEnv([one, other])
        there.reset(seed=0)
        for count in (None, 0):
            rows = there.recv(count)
            assert [len(part) for part in rows[:4]] == [0, 0, 0, 0]
            assert rows[4]["env_id"].tolist() == []
        wrong: list[Any] = [(-1, None), ("1", None), (1.5, None), (0, 0), (0, "1")]
        for arguments in wrong:
            with pytest.raises(InvalidOption):
                there.recv(*arguments)
        there.close()


@pytest.mark.parametrize("told", [[2], [-1], [0.5], [[0]], ["0"]])
def test_environments_that_a_session_does_not_have_are_refused(told: Any) -> None:
    vector: Any = SimpleNamespace(each=2, _label="it")
    assert HostedVectors._checked_ids(vector, [1, 0]).tolist() == [1, 0]
    assert HostedVectors._checked_ids(vector, []).tolist() == []
    with pytest.raises(InvalidObservation, match="it showed rows of the environments"):
        HostedVectors._checked_ids(vector, told)


def test_some_rows_of_a_shard_begin_anew() -> None:
    here = stairs(AutoresetMode.DISABLED, 4)
    with vectors(AutoresetMode.DISABLED, 2) as url:
        there = GymVectorEnv(url, 4)
        same(here.reset(seed=1), there.reset(seed=1))
        same(here.step([1, 1, 1, 1]), there.step([1, 1, 1, 1]))
        for mask in ([False, True, False, False], [True, True, False, True]):
            options = {"reset_mask": np.array(mask)}
            same(here.reset(options=dict(options)), there.reset(options=dict(options)))
        same(here.step([0, 1, 1, 0]), there.step([0, 1, 1, 0]))
        with pytest.raises(ValueError, match="4 booleans of which one is true"):
            there.reset(options={"reset_mask": np.zeros(4, bool)})
        there.close()


def test_envpool_s_first_rows() -> None:
    pytest.importorskip("envpool")
    source = functools.partial(make_vector, "envpool:CartPole-v1")
    with served(source, params={"num_envs": 6, "batch_size": 2}) as url:
        there = GymVectorEnv(url, 12)
        assert there.observation_space.shape == (4, 4)
        shown, infos = there.reset(seed=3)
        assert shown.shape == (4, 4)
        seen = set(infos["env_id"].tolist())
        for _ in range(30):
            shown, rewards, _, _, infos = there.step(np.zeros(4, int))
            assert (shown.shape, rewards.shape) == ((4, 4), (4,))
            seen |= set(infos["env_id"].tolist())
        assert seen == set(range(12))
        ids = infos["env_id"].tolist()
        there.send(np.zeros(2, int), ids[2:])
        rows = there.recv()
        assert rows[0].shape == (2, 4)
        assert min(rows[4]["env_id"]) >= 6
        there.close()


def test_envpool_s_vector_is_the_local_one() -> None:
    envpool = pytest.importorskip("envpool")
    source = functools.partial(make_vector, "envpool:CartPole-v1")
    with served(source, params={"num_envs": 4}) as url:
        there = GymVectorEnv(url)
        here = envpool.make_gymnasium("CartPole-v1", num_envs=4, seed=11)
        same(here.reset(), there.reset(seed=11))
        rng = np.random.default_rng(0)
        for _ in range(150):
            actions = rng.integers(0, 2, 4)
            same(here.step(actions), there.step(actions))
        there.close()


def test_the_states_are_those_of_sessions() -> None:
    with served(CartPoleVectorEnv, params={"num_envs": 2}) as url:
        there = GymVectorEnv(url)
        assert there.render() is None
        there.reset(seed=0)
        assert [state["elapsed_steps"] for state in there.states()] == [0]
        there.close()
