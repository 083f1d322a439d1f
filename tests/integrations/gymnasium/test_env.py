"""GymEnv: what Gymnasium's own environments give, over the wire."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import pickle
from typing import Any

import gymnasium
import numpy as np
import psutil  # type: ignore[import-untyped]  # its stubs are not among our tools
import pytest

from openenv_async import Environment
from openenv_async.errors import (
    ConnectionLost,
    InvalidAction,
    InvalidObservation,
    OperationUnsupported,
)
from openenv_async.integrations.gymnasium import GymEnv, GymVectorEnv, OpenEnvGymWrapper
from tests.integrations.serving import served
from tests.rollouts.environments import Counting, Unrewarded

ANYTHING = gymnasium.spaces.Dict()
"""A space for observations that are taken as they come."""


def test_one_environment_is_the_local_one_step_for_step(cartpole: str) -> None:
    local = gymnasium.make("CartPole-v1")
    with GymEnv(cartpole) as env:
        local.action_space.seed(3)
        assert_same_reset(env.reset(seed=3), local.reset(seed=3))
        assert env.episode is not None
        assert env.episode.seed == 3
        for _ in range(300):
            action = local.action_space.sample()
            there, here = env.step(action), local.step(action)
            np.testing.assert_array_equal(there[0], here[0])
            assert there[1:] == here[1:]
            if there[2] or there[3]:
                assert_same_reset(env.reset(), local.reset())
    local.close()


def assert_same_reset(there: Any, here: Any) -> None:
    np.testing.assert_array_equal(there[0], here[0])
    assert there[1] == here[1]


def test_an_environment_without_space_is_told_and_can_be_given_one() -> None:
    space = gymnasium.spaces.Box(0, 99, (2,), np.int64)
    with served(Counting) as url:
        with pytest.raises(
            OperationUnsupported, match=r"'seed' \(integer or null\).*decode_observation="
        ):
            GymEnv(url)
        with pytest.raises(OperationUnsupported, match="no field 'sum', only total, seed"):
            GymEnv(url, observation_field="sum")
        env = GymEnv(url, observation_field="total", action_field="amount")
        assert env.action_space == gymnasium.spaces.Box(-(2**63), 2**63 - 1, (), np.int64)
        assert env.reset()[0] == 0
        assert env.step(2)[0] == 2
        env.close()
        env = GymEnv(
            url,
            observation_space=space,
            decode_observation=lambda seen: np.array([seen["total"], seen["seed"] or 0]),
        )
        observation, _ = env.reset(seed=4)
        assert observation.tolist() == [0, 4]
        assert env.step(2)[1] == 2.0
        env.close()
        vector = GymVectorEnv(
            url,
            2,
            observation_space=space,
            decode_observation=lambda seen: np.array([seen["total"], seen["seed"] or 0]),
        )
        observations, _ = vector.reset(seed=4)
        assert observations.tolist() == [[0, 4], [0, 5]]
        assert [state["step_count"] for state in counted(vector)] == [0, 0]
        vector.close()


@pytest.mark.parametrize(
    "decoded", [np.array([0.5]), np.array([300]), np.array([1, 2]), "1"], ids=str
)
def test_what_a_decoder_gives_must_fit_its_space(decoded: Any) -> None:
    options: Any = {
        "observation_space": gymnasium.spaces.Box(0, 255, (1,), np.uint8),
        "decode_observation": lambda seen: decoded,
    }
    with served(Counting) as url:
        env, vector = GymEnv(url, **options), GymVectorEnv(url, 2, **options)
        with pytest.raises(InvalidObservation, match="must be an array of uint8"):
            env.reset()
        with pytest.raises(InvalidObservation, match="must be an array of uint8"):
            vector.reset()
        env.close()
        vector.close()


class Loose(Environment[dict[str, Any], Any, Any]):
    """Declares what it does not keep to, and takes any action."""

    isolation = "inline"
    seen: Any = None
    part: Any = None

    def reset(self) -> Any:
        return {"a": self.seen, "b": 1}

    def step(self, action: dict[str, Any]) -> Any:
        return {"a": self.seen, "b": action["n"]}

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        return {
            "action": {"type": "object", "properties": {"n": cls.part}, "required": ["n"]},
            "observation": {
                "type": "object",
                "properties": {
                    "a": {"x-ndarray": {"dtype": "|u1", "shape": [2], "low": 0, "high": 255}},
                    "b": {},
                },
            },
        }


@pytest.mark.parametrize(
    "seen",
    [np.array([0.5, 0.7]), np.array([300, 0]), np.array([-1, 0]), np.zeros(3), "ab"],
    ids=str,
)
def test_an_observation_that_is_not_what_is_declared_is_refused(seen: Any) -> None:
    """Of a server whose schema is all that is known of its space."""
    cls = type("Loose", (Loose,), {"seen": seen, "part": {"type": "boolean"}})
    env = GymEnv(cls, observation_field="a")
    with pytest.raises(InvalidObservation, match="must be an array of uint8"):
        env.reset()
    env.close()


@pytest.mark.parametrize(
    ("part", "right", "wrong"),
    [
        ({"type": "boolean"}, [(1, True), (True, True), (np.int64(0), False)], [2, 0.5, "yes"]),
        (
            {"enum": ["left", "right"]},
            [(0, "left"), (np.int64(1), "right"), (np.array([1]), "right")],
            [-1, 2, 0.5, "left", True],
        ),
        ({"type": "integer"}, [(3, 3), (np.array(3), 3)], [1.7, "1", None]),
        ({"type": "integer", "minimum": 1, "maximum": 4}, [(4, 4)], [0, 1.7, "1", True]),
        ({"type": "number"}, [(0.5, 0.5), (1, 1.0)], ["0.5", None, 1j]),
        ({"type": "string"}, [("a", "a")], [1, None, b"a"]),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            [([1, 2], [1, 2])],
            [[1.5, 2], [1], "12", [[1, 2]]],
        ),
        (
            {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "string"}]},
            [((1, "a"), [True, "a"])],
            [(1,), 1, (1, 2), None],
        ),
        (
            {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}},
            [({"x": 1, "y": 2}, {"x": 1, "y": 2})],
            [{"x": 1}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "y": "2"}, 5],
        ),
    ],
    ids=str,
)
def test_an_action_is_sent_as_it_is_or_refused(
    part: Any, right: list[tuple[Any, Any]], wrong: list[Any]
) -> None:
    """Nothing is cast, cut or parsed on the way to a schema of others."""
    cls = type("Loose", (Loose,), {"seen": np.zeros(2, np.uint8), "part": part})
    env = GymEnv(cls, observation_field="b", observation_space=ANYTHING)
    env.reset()
    for given, sent in right:
        observation = env.step(given)[0]
        assert observation["b"] == sent
        assert type(observation["b"]) is type(sent)
    for given in wrong:
        with pytest.raises(InvalidAction):
            env.step(given)
    env.close()


def counted(vector: GymVectorEnv) -> list[dict[str, Any]]:
    return [{"step_count": 0, **state} for state in vector.states()]


def test_no_reward_is_not_a_zero() -> None:
    def total(seen: Any) -> Any:
        return np.array([seen["total"]])

    box = gymnasium.spaces.Box(0, 99, (1,), np.int64)
    with served(Unrewarded) as url:
        env = GymEnv(url, observation_space=box, decode_observation=total)
        env.reset()
        assert math.isnan(float(env.step(1)[1]))
        env.close()
        env = GymEnv(url, observation_space=box, decode_observation=total, missing_reward=0.0)
        env.reset()
        assert env.step(1)[1] == 0.0
        env.close()
        vector = GymVectorEnv(url, 2, observation_space=box, decode_observation=total)
        vector.reset()
        assert np.isnan(vector.step(np.array([1, 1]))[1]).all()
        vector.close()


def test_a_name_starts_a_server_that_ends_with_it() -> None:
    with OpenEnvGymWrapper("gymnasium-inline", params={"id": "CartPole-v1"}) as env:
        pid = env._served.server_pid
        assert pid is not None
        env.reset(seed=1)
        env.step(1)
        with pytest.raises(ValueError, match="params"):
            GymEnv(env.client.client.base_url, params={"id": "CartPole-v1"})
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def servers() -> list[int]:
    """The server processes that this one started, and which have not ended."""
    children = psutil.Process().children()
    return [child.pid for child in children if "openenv_async.cli" in child.cmdline()]


class Unbatched(gymnasium.Space[Any]):
    """A space that no batch can be made of."""

    is_np_flattenable = False


@pytest.mark.parametrize(
    ("make", "error", "options"),
    [
        (GymEnv, ValueError, {"token": "two\nlines"}),
        (GymEnv, OperationUnsupported, {"action_field": "nothing"}),
        (functools.partial(GymVectorEnv, num_envs=0), ValueError, {}),
        (
            functools.partial(GymVectorEnv, num_envs=2),
            Exception,
            {"observation_space": Unbatched(), "decode_observation": lambda plain: plain},
        ),
    ],
)
def test_one_that_cannot_be_made_leaves_no_server(
    make: Any, error: type[Exception], options: dict[str, Any]
) -> None:
    with pytest.raises(error):
        make("gymnasium-inline", params={"id": "CartPole-v1"}, **options)
    assert servers() == []


@pytest.mark.parametrize("vector", [False, True])
def test_the_server_ends_although_the_session_does_not_close(vector: bool) -> None:
    class Gone:
        def close(self) -> None:
            raise ConnectionLost("the network is gone")

    params = {"id": "CartPole-v1"}
    env: Any
    if vector:
        env = GymVectorEnv("gymnasium-inline", 1, params=params)
        env.sessions.close()
        env.sessions = Gone()
    else:
        env = GymEnv("gymnasium-inline", params=params)
        env._client.close()
        env._client = Gone()
    with pytest.raises(ConnectionLost):
        env.close()
    assert servers() == []


def test_the_seed_goes_on_in_a_new_session(cartpole: str) -> None:
    """A run that was seeded stays seeded when a session is lost under it."""

    def play() -> list[float]:
        env = GymEnv(cartpole)
        try:
            env.reset(seed=5)
            env.client.close()  # as if it were lost
            env._client = env.client.client.__class__(cartpole).sync()
            return [float(x) for x in env.reset()[0]]
        finally:
            env.close()

    assert play() == play()


def test_copies_open_sessions_of_their_own(cartpole: str) -> None:
    """In this process by pickle, in another by spawn and by fork."""
    env, vector = GymEnv(cartpole), GymVectorEnv(cartpole, 2)
    wanted = play_both(env, vector)
    assert play_both(*pickle.loads(pickle.dumps((env, vector)))) == wanted
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply_async(play_both, (env, vector)).get(60) == wanted
    assert env.step(0)[0].shape == (4,)  # this one's session is still its own
    env.close()
    vector.close()


def play_both(env: GymEnv, vector: GymVectorEnv) -> list[Any]:
    env.reset(seed=2)
    vector.reset(seed=2)
    return [env.step(1)[0].tolist(), vector.step([1, 0])[0].tolist()]
