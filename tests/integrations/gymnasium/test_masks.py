"""Masks of legal actions: of every kind of space, one environment and many, and wrong ones."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from openenv_async.errors import EpisodeEnded, EpisodeNotStarted, InvalidObservation
from openenv_async.integrations.gymnasium import GymEnv, GymVectorEnv, codec_of
from openenv_async.integrations.gymnasium.masks import ActionMasks
from openenv_async.integrations.gymnasium.spaces import SpaceCodec, exact_codec
from tests.legal_games import (
    Bits,
    Corridor,
    MaskedCorridor,
    Move,
    Pairs,
    Seen,
    SilentCorridor,
)

LEFT, STAY, RIGHT = -1, 0, 1


# -- one environment ------------------------------------------------------------------------


@pytest.mark.parametrize("game", [Corridor, MaskedCorridor])
def test_a_list_and_a_mask_are_the_same_to_one_who_asks_for_masks(game: Any) -> None:
    env = GymEnv(game)
    try:
        assert env.action_space == spaces.Discrete(3, start=-1)
        with pytest.raises(EpisodeNotStarted, match=r"call reset\(\) first"):
            env.action_masks()
        _, info = env.reset()
        assert info["action_mask"].dtype == env.action_masks().dtype == np.int8
        assert info["action_mask"].tolist() == env.action_masks().tolist() == [0, 0, 1]
        _, _, _, _, info = env.step(RIGHT)
        assert info["action_mask"].tolist() == env.action_masks().tolist() == [1, 0, 1]
        seen = {int(env.action_space.sample(mask=info["action_mask"])) for _ in range(50)}
        assert seen == {LEFT, RIGHT}  # Gymnasium's own spaces understand it
        for _ in range(3):
            _, _, over, _, info = env.step(RIGHT)
        assert over
        assert "action_mask" not in info
        with pytest.raises(EpisodeEnded):
            env.action_masks()
        env.reset()
        assert env.action_masks().tolist() == [0, 0, 1]
    finally:
        env.close()


def test_an_environment_that_tells_nothing_has_no_such_method() -> None:
    env = GymEnv(SilentCorridor)
    try:
        env.reset()
        assert not hasattr(env, "action_masks")
        with pytest.raises(AttributeError, match=r"SilentCorridor.* does not tell what is legal"):
            env.get_wrapper_attr("action_masks")
    finally:
        env.close()


def test_gymnasiums_own_environments_keep_their_masks() -> None:
    env = GymEnv("Taxi-v4")
    try:
        _, info = env.reset(seed=3)
        assert env.action_masks().tolist() == info["action_mask"].tolist()
        for _ in range(20):
            action = int(np.random.default_rng(0).choice(np.flatnonzero(info["action_mask"])))
            _, _, _, _, info = env.step(action)
            assert info["action_mask"].shape == (6,)
    finally:
        env.close()


def test_words_of_an_environments_own_are_left_alone() -> None:
    own = type("Own", (Pairs,), {"_info": lambda self: {"legal_actions": ["up", "down"]}})
    env = GymEnv(own)
    try:
        _, info = env.reset()
        assert info == {"legal_actions": ["up", "down"]}
        assert not hasattr(env, "action_masks")
    finally:
        env.close()


def test_masks_of_rows_are_laid_out_one_after_the_other() -> None:
    for game, masks in (
        (Pairs, ([0, 1, 1, 0, 1], [1, 0, 1, 0, 1])),
        (Bits, ([1, 1, 0, 1], [1, 1, 0, 1])),
    ):
        env = GymEnv(game)
        try:
            env.reset()
            assert env.action_masks().tolist() == masks[0]
            env.step(np.array([1, 2]) if game is Pairs else np.array([0, 1], np.int8))
            assert env.action_masks().tolist() == masks[1]
        finally:
            env.close()


def test_a_mask_among_the_observations_is_found() -> None:
    env = GymEnv(Seen)
    try:
        observation, info = env.reset()
        assert observation["action_mask"].tolist() == info["action_mask"].tolist() == [0, 1, 1]
        env.step(1)
        assert env.action_masks().tolist() == [1, 0, 1]
    finally:
        env.close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.ones(4, bool), "4 entries for 3 actions"),
        (np.array([0, 3, 1], np.int8), "the entry 3"),
        ([Move(7)], r"legal action {'side': 7.*which is not in Discrete\(3, start=-1\)"),
    ],
)
def test_what_does_not_fit_the_space_names_the_environment(wrong: Any, told: str) -> None:
    game = type("Crooked", (Corridor,), {"wrong": wrong})
    env = GymEnv(game)
    try:
        env.reset()
        with pytest.raises(InvalidObservation, match=f"Crooked.*{told}"):
            env.step(RIGHT)
        env.reset()  # the session goes on
        assert env.action_masks().tolist() == [0, 0, 1]
    finally:
        env.close()


# -- many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_rows_have_the_masks_of_the_observations_they_show(mode: str) -> None:
    envs = GymVectorEnv(Corridor, 3, autoreset_mode=mode, params={"length": 2})
    try:
        observations, infos = envs.reset()
        assert envs.action_masks().tolist() == [[0, 0, 1]] * 3
        assert infos["action_mask"].tolist() == [[0, 0, 1]] * 3
        envs.step([RIGHT] * 3)
        assert envs.action_masks().tolist() == [[1, 0, 1]] * 3
        observations, _, ended, _, infos = envs.step([RIGHT, LEFT, LEFT])
        assert ended.tolist() == [True, False, False]
        if mode == "SameStep":  # the mask belongs to the observation after the reset
            assert observations.tolist() == [0, 0, 0]
            assert envs.action_masks().tolist() == [[0, 0, 1]] * 3
            assert "action_mask" not in infos["final_info"]
        else:
            assert observations.tolist() == [2, 0, 0]
            # Nothing comes of the next action of the first: any will do.
            assert envs.action_masks().tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1]]
            assert infos["_action_mask"].tolist() == [False, True, True]
        if mode == "NextStep":
            envs.step([STAY, RIGHT, RIGHT])
            assert envs.action_masks().tolist() == [[0, 0, 1], [1, 0, 1], [1, 0, 1]]
        elif mode == "Disabled":
            envs.reset(options={"reset_mask": np.array([True, False, False])})
            assert envs.action_masks().tolist() == [[0, 0, 1]] * 3
    finally:
        envs.close()


def test_a_mask_that_is_told_with_the_end_is_of_no_action() -> None:
    """Gymnasium's environments go on telling: there it says nothing of what follows."""
    envs = GymVectorEnv(Pairs, 1)
    try:
        envs.reset()
        for taken in range(3):
            _, _, ended, _, infos = envs.step(np.array([[1 - taken % 2, 0]]))
        assert ended.all()
        assert "action_mask" in infos
        assert envs.action_masks().tolist() == [[1, 1, 1, 1, 1]]
    finally:
        envs.close()


def test_rows_that_come_apart_keep_their_own_masks() -> None:
    envs = GymVectorEnv(Corridor, 2)
    try:
        envs.reset()
        envs.send([RIGHT], env_ids=[1])
        envs.recv()
        assert envs.action_masks().tolist() == [[0, 0, 1], [1, 0, 1]]
    finally:
        envs.close()


@pytest.mark.parametrize("failures", ["raise", "mask"])
def test_a_wrong_mask_is_its_own_rows_failure_and_names_it(failures: Any) -> None:
    game = type("Crooked", (Corridor,), {"wrong": np.ones(2, bool)})
    envs = GymVectorEnv(game, 3, failures=failures)
    told = r"Crooked, environment 1 of 3, gave an action_mask of 2 entries for 3 actions"
    try:
        envs.reset()
        envs.send([RIGHT], env_ids=[1])
        if failures == "raise":
            with pytest.raises(InvalidObservation, match=told):
                envs.recv()
            return
        _, rewards, terminated, truncated, infos = envs.recv()
        assert np.isnan(rewards).all()
        assert (terminated.tolist(), truncated.tolist()) == ([False], [True])
        assert infos["masked"].tolist() == [False, True, False]
        assert isinstance(infos["error"][1], InvalidObservation)
        assert envs.valid.tolist() == [True, False, True]
        envs.send([RIGHT], env_ids=[1])  # begins anew
        envs.recv()
        assert envs.valid.all()
        assert envs.action_masks().tolist() == [[0, 0, 1]] * 3
    finally:
        envs.close()


def test_vectors_without_masks_have_no_such_method() -> None:
    envs = GymVectorEnv(SilentCorridor, 2)
    try:
        envs.reset()
        assert not hasattr(envs, "action_masks")
    finally:
        envs.close()


def test_a_copy_has_masks_of_its_own() -> None:
    envs = GymVectorEnv(Corridor, 1)
    try:
        envs.reset()
        copy = pickle.loads(pickle.dumps(envs))
        copy.reset()
        copy.step([RIGHT])
        assert copy.action_masks().tolist() == [[1, 0, 1]]
        assert envs.action_masks().tolist() == [[0, 0, 1]]
        copy.close()
    finally:
        envs.close()


# -- by hand --------------------------------------------------------------------------------


def test_a_list_of_rows_allows_each_value_that_occurs() -> None:
    masks = ActionMasks(exact_codec(spaces.MultiDiscrete([3, 2], start=[5, 0])))
    info = {"legal_actions": [np.array([5, 1]), np.array([7, 1])]}
    mask = masks.of(info, "it")
    assert mask is not None
    assert mask.tolist() == [1, 0, 1, 0, 1]
    bits = ActionMasks(exact_codec(spaces.MultiBinary(2)))
    mask = bits.of({"legal_actions": [np.array([0, 1], np.int8)]}, "it")
    assert mask is not None
    assert mask.tolist() == [1, 0, 0, 1]


def test_a_space_of_the_callers_own_is_looked_up_by_what_is_sent() -> None:
    words = ["up", "down", "left"]
    codec = SpaceCodec(spaces.Discrete(3), lambda value: {"go": words[int(value)]}, lambda v: v)
    masks = ActionMasks(codec, own=True)
    info: dict[str, Any] = {"legal_actions": [{"go": "left"}, {"go": "up"}]}
    mask = masks.of(info, "it")
    assert mask is not None
    assert mask.tolist() == [1, 0, 1]
    assert masks.of({"legal_actions": [{"go": "home"}]}, "it") is None  # no element says that


def test_enums_and_truths_are_counted_as_their_spaces_count_them() -> None:
    enum = ActionMasks(codec_of({"enum": ["a", "b", "c"]}))
    mask = enum.of({"legal_actions": ["c"]}, "it")
    assert mask is not None
    assert mask.tolist() == [0, 0, 1]
    truth = ActionMasks(codec_of({"type": "boolean"}))
    mask = truth.of({"legal_actions": [False]}, "it")
    assert mask is not None
    assert mask.tolist() == [1, 0]


def test_spaces_without_masks_say_nothing() -> None:
    masks = ActionMasks(exact_codec(spaces.Box(0, 1, (2,))))
    assert masks.width == 0
    assert masks.of({"legal_actions": [1]}, "it") is None
    assert ActionMasks(exact_codec(spaces.Discrete(2))).of({"legal_actions": "rules"}, "it") is None
    with pytest.raises(InvalidObservation, match="it gave an empty list"):
        ActionMasks(exact_codec(spaces.Discrete(2))).of({"legal_actions": []}, "it")
