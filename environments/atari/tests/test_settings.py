"""How games, options and environment variables are read."""

from __future__ import annotations

from typing import Any

import pytest
from atari_env.settings import VARIABLES, Settings, declared_isolation, rom_name

from openenv_async.errors import InvalidOption


@pytest.mark.parametrize(
    ("written", "rom"),
    [
        ("pong", "pong"),
        ("Pong", "pong"),
        ("ALE/Pong-v5", "pong"),
        ("PongNoFrameskip-v4", "pong"),
        ("SpaceInvaders", "space_invaders"),
        ("space_invaders", "space_invaders"),
        ("ALE/MsPacman-v5", "ms_pacman"),
    ],
)
def test_a_game_has_many_names(written: str, rom: str) -> None:
    assert rom_name(written) == rom


@pytest.mark.parametrize(
    ("written", "message"), [("breakuot", "did you mean breakout"), ("zzzz", "lists them all")]
)
def test_an_unknown_game_is_told(written: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Settings(game_name=written)


def test_every_setting_has_a_variable() -> None:
    assert sorted(VARIABLES.values()) == sorted(Settings.names())
    read = Settings.from_environ(
        {
            "ATARI_GAME": "Breakout",
            "ATARI_OBS_TYPE": "resized",
            "ATARI_FULL_ACTION_SPACE": "True",
            "ATARI_MODE": "4",
            "ATARI_REPEAT_ACTION_PROB": "0.25",
            "ATARI_NOOP_MAX": "30",
            "ATARI_DIFFICULTY": "",
        }
    )
    assert (read.game_name, read.obs_type, read.full_action_space) == ("breakout", "resized", True)
    assert (read.mode, read.difficulty, read.noop_max) == (4, None, 30)
    assert (read.repeat_action_probability, read.frameskip) == (0.25, 4)
    assert (read.max_pool, read.frame_stack) == (True, 4)


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(InvalidOption, match="ATARI_FRAMESKIP=four"):
        Settings.from_environ({"ATARI_FRAMESKIP": "four"})
    with pytest.raises(InvalidOption, match="ATARI_ISOLATION=container"):
        declared_isolation({"ATARI_ISOLATION": "container"})
    assert declared_isolation({}) == "inline"
    assert declared_isolation({"ATARI_ISOLATION": "process"}) == "process"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs_type": "sepia"}, "obs_type must be one of rgb"),
        ({"frameskip": 0}, "frameskip must be from 1 to 1000, got 0"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability must be from 0 to 1"),
        ({"frame_stack": 0}, "frame_stack must be from 1"),
        ({"noop_max": -1}, "noop_max must be from 0"),
    ],
)
def test_a_setting_that_cannot_be_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Settings().changed(options)


def test_what_follows_other_settings() -> None:
    resized = Settings().changed({"obs_type": "resized"})
    assert (resized.max_pool, resized.frame_stack) == (True, 4)
    assert resized.changed({"obs_type": "rgb"}).frame_stack == 1
    assert resized.changed({"obs_type": "rgb", "frame_stack": 3}).frame_stack == 3
    assert Settings(mode=1).changed({"game_name": "breakout"}).mode is None
    assert Settings(mode=1).changed({"game_name": "Pong"}).mode == 1
    assert Settings(mode=1).changed({"frameskip": None}) == Settings(mode=1)
