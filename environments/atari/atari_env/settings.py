"""The settings of a game: defaults, the server's environment variables, and their bounds."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final, Literal, Self, get_type_hints

import msgspec
from ale_py import roms

from openenv_async.environment import Isolation
from openenv_async.errors import InvalidOption

__all__ = [
    "OBS_TYPES",
    "VARIABLES",
    "ObsType",
    "Settings",
    "declared_isolation",
    "reserved",
    "rom_name",
]

ObsType = Literal["rgb", "grayscale", "ram", "resized"]
OBS_TYPES: Final[tuple[ObsType, ...]] = ("rgb", "grayscale", "ram", "resized")

VARIABLES: Final[dict[str, str]] = {
    "ATARI_GAME": "game_name",
    "ATARI_OBS_TYPE": "obs_type",
    "ATARI_FULL_ACTION_SPACE": "full_action_space",
    "ATARI_MODE": "mode",
    "ATARI_DIFFICULTY": "difficulty",
    "ATARI_REPEAT_ACTION_PROB": "repeat_action_probability",
    "ATARI_FRAMESKIP": "frameskip",
    "ATARI_MAX_POOL": "max_pool",
    "ATARI_FRAME_STACK": "frame_stack",
    "ATARI_NOOP_MAX": "noop_max",
    "ATARI_TERMINAL_ON_LIFE_LOSS": "terminal_on_life_loss",
    "ATARI_RESTART_ON_LIFE_LOSS": "restart_on_life_loss",
    "ATARI_FIRE_RESET": "fire_reset",
    "ATARI_CLIP_REWARD": "clip_reward",
    "ATARI_MAX_NUM_FRAMES": "max_num_frames_per_episode",
}
"""Environment variable of every setting; upstream's names where it has them."""


_Count = Annotated[int, msgspec.Meta(ge=0, le=4096)]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a game.

    Attributes:
        game_name: a ROM of ale-py; ``pong``, ``Pong``, ``ALE/Pong-v5`` are the same.
        obs_type: what ``screen`` holds; ``resized`` is 84 × 84 grayscale.
        full_action_space: all 18 actions rather than those that the game uses.
        mode, difficulty: the game's switches; ``None`` takes the first mode and leaves the
            difficulty as ALE does.
        repeat_action_probability: sticky actions: with this probability a frame repeats the
            action of the frame before (Machado et al., 2018).
        frameskip: frames for which an action is held.
        max_pool: observe the brighter of the last two frames, against flicker; ``None``: for
            ``resized`` only.
        frame_stack: frames in one observation, the newest last; 1 adds no axis; ``None``: 4 for
            ``resized``, else 1.
        noop_max: begin with 1 to this many no-op frames, drawn from the seed; 0: none.
        terminal_on_life_loss: losing a life terminates the episode and the next one goes on
            with the game after a no-op step, until it is over: the episodic life of Mnih et al.
            (2015), Baselines and EnvPool.
        restart_on_life_loss: losing a life terminates the episode and the next one begins a new
            game, so that nothing after the first life is ever seen.
        fire_reset: begin every episode with a step of FIRE and one of the third action, in games
            that have FIRE, as Baselines' ``FireResetEnv`` does.
        clip_reward: the reward's sign instead of its size; ``info["raw_reward"]`` has it all.
        max_num_frames_per_episode: frames after which the episode is truncated; 0: never.
    """

    game_name: str = "pong"
    obs_type: ObsType = "rgb"
    full_action_space: bool = False
    mode: int | None = None
    difficulty: int | None = None
    repeat_action_probability: float = 0.0
    frameskip: int = 4
    max_pool: bool | None = None
    frame_stack: int | None = None
    noop_max: int = 0
    terminal_on_life_loss: bool = False
    restart_on_life_loss: bool = False
    fire_reset: bool = False
    clip_reward: bool = False
    max_num_frames_per_episode: int = 108_000

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen: what depends on others is filled in here, once
        put(self, "game_name", rom_name(self.game_name))
        if self.obs_type not in OBS_TYPES:
            raise _refused("obs_type", self.obs_type, f"one of {', '.join(OBS_TYPES)}")
        resized = self.obs_type == "resized"
        if self.max_pool is None:
            put(self, "max_pool", resized)
        if self.frame_stack is None:
            put(self, "frame_stack", 4 if resized else 1)
        if self.terminal_on_life_loss and self.restart_on_life_loss:
            raise InvalidOption(
                "terminal_on_life_loss goes on with the game and restart_on_life_loss does not:"
                " set one of them",
                option="restart_on_life_loss",
            )
        for name, least, most in (
            ("repeat_action_probability", 0.0, 1.0),
            ("frameskip", 1, 1000),
            ("frame_stack", 1, 64),
            ("noop_max", 0, 1000),
            ("max_num_frames_per_episode", 0, 1 << 31),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise _refused(name, value, f"from {least:g} to {most:g}")

    def changed(self, options: Mapping[str, Any]) -> Self:
        """A copy with those options that are not ``None``.

        Raises:
            InvalidOption: a value that cannot be.
        """
        changes = {name: value for name, value in options.items() if value is not None}
        if not changes:
            return self
        if "obs_type" in changes:  # these follow it unless they are given too
            changes = {"max_pool": None, "frame_stack": None} | changes
        if rom_name(changes.get("game_name", self.game_name)) != self.game_name:
            changes = {"mode": None, "difficulty": None} | changes
        return replace(self, **changes)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The defaults as the environment variables change them.

        Raises:
            InvalidOption: a variable's value is none; the message names the variable.
        """
        hints = _hints()
        changes: dict[str, Any] = {}
        for variable, name in VARIABLES.items():
            if text := environ.get(variable):
                try:
                    changes[name] = msgspec.convert(text.lower(), hints[name], strict=False)
                except msgspec.ValidationError as exc:
                    raise InvalidOption(f"{variable}={text}: {exc}", option=name) from None
        return cls(**changes)

    @classmethod
    def names(cls) -> frozenset[str]:
        """Names of the settings."""
        return _NAMES


_NAMES: Final = frozenset(item.name for item in fields(Settings))


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def declared_isolation(environ: Mapping[str, str] = os.environ) -> Isolation:
    """``ATARI_ISOLATION``: inline (the default), thread or process.

    Raises:
        InvalidOption: it is something else.
    """
    text = environ.get("ATARI_ISOLATION") or "inline"
    try:
        isolation: Isolation = msgspec.convert(text, Isolation)
    except msgspec.ValidationError as exc:
        raise InvalidOption(f"ATARI_ISOLATION={text}: {exc}") from None
    return isolation


def reserved(environ: Mapping[str, str] = os.environ) -> int:
    """``ATARI_CONSOLES``: consoles that a server loads before it takes sessions, 20 by default.

    Raises:
        InvalidOption: it is not a number from 0 to 4096.
    """
    text = environ.get("ATARI_CONSOLES") or "20"
    try:
        count: int = msgspec.convert(text, _Count, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidOption(f"ATARI_CONSOLES={text}: {exc}") from None
    return count


def _refused(option: str, value: Any, wanted: str) -> InvalidOption:
    return InvalidOption(f"{option} must be {wanted}, got {value!r}", option=option)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def _known_roms() -> dict[str, str]:
    return {_letters(rom): rom for rom in roms.get_all_rom_ids()}


def rom_name(name: str) -> str:
    """The ROM's id for any of the ways in which a game is written.

    Raises:
        InvalidOption: ale-py has no such ROM.
    """
    known = _known_roms()
    core = re.sub(r"-v\d+$", "", name.strip().rpartition("/")[2])
    core = re.sub(r"(NoFrameskip|Deterministic)$", "", core)
    found = known.get(_letters(core))
    if found is None:
        near = difflib.get_close_matches(_letters(core), list(known), n=3, cutoff=0.5)
        hint = ", ".join(known[each] for each in near)
        text = f"did you mean {hint}?" if near else "ale_py.roms.get_all_rom_ids() lists them all"
        raise InvalidOption(f"ale-py has no game {name!r}; {text}", option="game_name")
    return found
