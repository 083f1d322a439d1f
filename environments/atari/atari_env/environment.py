"""The environment: one emulated console per session."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from atari_env.emulator import Emulator
from atari_env.frames import FrameStack, resize
from atari_env.models import AtariAction, AtariObservation, AtariState
from atari_env.schemas import schemas
from atari_env.settings import ObsType, Settings, declared_isolation, reserved
from atari_env.snapshots import Snapshot
from openenv_async import Certification, Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction

__all__ = ["AtariEnvironment"]


class AtariEnvironment(Environment[AtariAction, AtariObservation, AtariState]):
    """An Atari 2600 game.

    The reward is the game's own score in the frames of the step. ``terminated``: the game is
    over, or a life is lost with ``terminal_on_life_loss`` or ``restart_on_life_loss``;
    ``truncated``: the limit of frames. ``info["game_score"]`` is the score since the game began
    and, where an episode ends, ``info["game_over"]`` whether the game did.

    Args:
        settings: see ``Settings``; what is not given comes from the ``ATARI_*`` variables, else
            from its defaults.

    Raises:
        InvalidOption: there is no such game, mode, … or setting.
    """

    name = "atari"
    # ALE holds the GIL while it emulates, so threads would only add their hand-over; a step takes
    # a quarter of a millisecond. More cores: ``--workers N``.
    isolation: ClassVar[Isolation | None] = declared_isolation()
    session_options = frozenset(Settings.names())

    def __init__(
        self,
        game_name: str | None = None,
        obs_type: ObsType | None = None,
        full_action_space: bool | None = None,
        mode: int | None = None,
        difficulty: int | None = None,
        repeat_action_probability: float | None = None,
        frameskip: int | None = None,
        max_pool: bool | None = None,
        frame_stack: int | None = None,
        noop_max: int | None = None,
        terminal_on_life_loss: bool | None = None,
        restart_on_life_loss: bool | None = None,
        fire_reset: bool | None = None,
        clip_reward: bool | None = None,
        max_num_frames_per_episode: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        self._served = Settings.from_environ().changed(given)
        self._emulators: dict[str, Emulator] = {}
        self._emulator = self._console(self._served.game_name)
        self._random = random.Random()
        self._goes_on = False  # the next episode goes on with the game of the last one
        self._begin(self._served, None)

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
        from atari_env.certification import certification

        return certification(**params)

    def reset(
        self,
        seed: int | None = None,
        *,
        game_name: str | None = None,
        obs_type: ObsType | None = None,
        full_action_space: bool | None = None,
        mode: int | None = None,
        difficulty: int | None = None,
        repeat_action_probability: float | None = None,
        frameskip: int | None = None,
        max_pool: bool | None = None,
        frame_stack: int | None = None,
        noop_max: int | None = None,
        terminal_on_life_loss: bool | None = None,
        restart_on_life_loss: bool | None = None,
        fire_reset: bool | None = None,
        clip_reward: bool | None = None,
        max_num_frames_per_episode: int | None = None,
        new_game: bool = False,
    ) -> StepResult[AtariObservation]:
        """Begin an episode; the options change the server's settings for it.

        It begins a game, unless the last episode ended with a life under
        ``terminal_on_life_loss``: then it goes on with that game, if the settings are the same.

        Args:
            new_game: begin a game in any case.
        """
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        settings = self._served.changed(given)
        if new_game or not self._goes_on or settings != self._settings:
            self._begin(settings, seed)
        else:
            self._random = random.Random(seed)
            self._skip(0, seed)
        if settings.fire_reset and [action.name for action in self._actions[1:2]] == ["FIRE"]:
            for action_id in (1, 2)[: len(self._actions) - 1]:
                self._skip(action_id, seed)
        self._goes_on = False
        return StepResult(self._observation(), info={"game_score": self._score})

    def _console(self, game: str) -> Emulator:
        emulator = self._emulators.get(game)
        if emulator is None:
            emulator = self._emulators[game] = Emulator(game)
            if len(self._emulators) > 4:  # each may hold 0.8 MB; the oldest goes
                self._emulators.pop(next(iter(self._emulators))).release()
        return emulator

    def _begin(self, settings: Settings, seed: int | None) -> None:
        emulator = self._console(settings.game_name)
        mode, difficulty, lives, picture = emulator.start(
            settings.mode, settings.difficulty, settings.obs_type
        )
        self._play(emulator, settings, mode, difficulty)
        self._random = random.Random(seed)
        self._last_action = 0
        self._score = 0.0
        self._episode_frame_number = 0
        self._lives = lives
        frame = resize(picture) if settings.obs_type == "resized" else picture
        if settings.noop_max:
            for _ in range(self._random.randint(1, settings.noop_max)):
                self._emulate(0)
            frame = self._frame(None)
        self._stack.fill(frame)
        self._goes_on = False

    def _skip(self, action_id: int, seed: int | None) -> None:
        """Take a step that is not the agent's; what it ends begins again."""
        _, over, truncated, lost = self._advance(action_id)
        if lost and not (over or truncated) and self._settings.terminal_on_life_loss:
            _, over, truncated, _ = self._advance(0)
        if over or truncated:
            self._begin(self._settings, seed)

    def _play(self, emulator: Emulator, settings: Settings, mode: int, difficulty: int) -> None:
        self._emulator = emulator
        self._settings = settings
        self._mode, self._difficulty = mode, difficulty
        self._actions = emulator.actions(settings.full_action_space)
        self._legal = list(range(len(self._actions)))
        self._stack = FrameStack(settings.frame_stack or 1)

    def step(self, action: AtariAction) -> StepResult[AtariObservation]:
        settings = self._settings
        if not 0 <= action.action_id < len(self._actions):
            raise InvalidAction(
                f"action_id {action.action_id} is not in the action set of {settings.game_name}:"
                f" it must be from 0 to {len(self._actions) - 1}"
            )
        reward, over, truncated, lost = self._advance(action.action_id)
        info: dict[str, Any] = {"game_score": self._score}
        if settings.clip_reward:
            info["raw_reward"] = float(reward)
            reward = (reward > 0) - (reward < 0)
        # Qbert shows 0 lives for some frames before it is over: then the game itself ends.
        lost_one = lost and self._lives > 0 and settings.terminal_on_life_loss
        terminated = over or lost_one or (lost and settings.restart_on_life_loss)
        self._goes_on = lost_one and not (over or truncated)
        if terminated or truncated:
            info["game_over"] = over
        return StepResult(
            self._observation(), float(reward), terminated, truncated and not terminated, info
        )

    def _advance(self, action_id: int) -> tuple[int, bool, bool, bool]:
        """Hold an action for ``frameskip`` frames and look at the screen.

        Returns:
            The score of these frames, and whether the game is over, the limit of frames is
            reached, a life was lost.
        """
        settings, ale = self._settings, self._emulator.ale
        reward, last = 0, settings.frameskip - 1
        before: NDArray[np.uint8] | None = None
        limit = settings.max_num_frames_per_episode
        if ale.game_over(with_truncation=False):  # nothing moves or is drawn any more
            self._stack.push(self._stack.frames()[-1])
            return 0, True, bool(limit) and self._episode_frame_number >= limit, False
        over = truncated = False
        for index in range(settings.frameskip):
            if index == last and index and settings.max_pool:
                before = self._picture()
            reward += self._emulate(action_id)
            over = ale.game_over(with_truncation=False)
            truncated = bool(limit) and self._episode_frame_number >= limit
            if over or truncated:
                break
        lives = ale.lives()
        lost = lives < self._lives
        self._lives = lives
        self._score += reward
        self._stack.push(self._frame(before))
        return reward, over, truncated, lost

    def _emulate(self, action_id: int) -> int:
        """One frame; the action before sticks with the probability that is set."""
        stick = self._settings.repeat_action_probability
        if not stick or self._random.random() >= stick:
            self._last_action = action_id
        self._episode_frame_number += 1
        return self._emulator.ale.act(self._actions[self._last_action])

    def _picture(self) -> NDArray[np.uint8]:
        return self._emulator.read(self._settings.obs_type)

    def _frame(self, before: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        picture = self._picture()
        if before is not None:
            np.maximum(picture, before, out=picture)
        return resize(picture) if self._settings.obs_type == "resized" else picture

    def _observation(self) -> AtariObservation:
        return AtariObservation(
            screen=self._stack.observe(),
            legal_actions=self._legal,
            lives=self._lives,
            episode_frame_number=self._episode_frame_number,
            frame_number=self._episode_frame_number,
        )

    def state(self) -> AtariState:
        settings = self._settings
        return AtariState(
            game_name=settings.game_name,
            obs_type=settings.obs_type,
            full_action_space=settings.full_action_space,
            mode=self._mode,
            difficulty=self._difficulty,
            repeat_action_probability=settings.repeat_action_probability,
            frameskip=settings.frameskip,
            max_pool=bool(settings.max_pool),
            frame_stack=settings.frame_stack or 1,
            noop_max=settings.noop_max,
            terminal_on_life_loss=settings.terminal_on_life_loss,
            restart_on_life_loss=settings.restart_on_life_loss,
            fire_reset=settings.fire_reset,
            clip_reward=settings.clip_reward,
            max_num_frames_per_episode=settings.max_num_frames_per_episode,
            action_meanings=[action.name for action in self._actions],
            available_modes=self._emulator.modes,
            available_difficulties=self._emulator.difficulties,
            score=self._score,
        )

    def close(self) -> None:
        """Leave the consoles to sessions to come."""
        for emulator in self._emulators.values():
            emulator.release()
        self._emulators.clear()

    def snapshot(self) -> bytes:
        """Return the episode's position and random generator: about 20 KB and the frames."""
        return Snapshot(
            settings=self._settings,
            mode=self._mode,
            difficulty=self._difficulty,
            console=self._emulator.save(),
            frames=self._stack.frames(),
            random=self._random.getstate()[1],
            last_action=self._last_action,
            score=self._score,
            lives=self._lives,
            episode_frame_number=self._episode_frame_number,
            goes_on=self._goes_on,
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, of this or of another session.

        Raises:
            InvalidOption: it is not a snapshot of this environment.
        """
        saved = Snapshot.decode(snapshot)
        self._play(
            self._console(saved.settings.game_name), saved.settings, saved.mode, saved.difficulty
        )
        self._emulator.load(saved.console)
        self._stack.load(saved.frames)
        self._random.setstate((3, saved.random, None))
        self._last_action = saved.last_action
        self._score = saved.score
        self._lives = saved.lives
        self._episode_frame_number = saved.episode_frame_number
        self._goes_on = saved.goes_on

    @classmethod
    def prepare_process(cls, sessions: int, **params: Any) -> None:
        """Load consoles of the served game, and find its beginning.

        Inline sessions share the consoles of their process.
        """
        if cls.isolation == "inline":
            Emulator.share()
        settings = Settings.from_environ().changed(params)
        Emulator.reserve(settings.game_name, min(sessions, reserved()))
        emulator = Emulator(settings.game_name)
        emulator.start(settings.mode, settings.difficulty, settings.obs_type)
        emulator.release()

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas for the game that is served: its number of actions, its screen."""
        return schemas(Settings.from_environ().changed(params))
