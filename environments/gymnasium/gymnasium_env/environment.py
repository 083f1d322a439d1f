"""The environment: one Gymnasium environment per session."""

from __future__ import annotations

import difflib
import os
from typing import Any, ClassVar

import gymnasium

from gymnasium_env import spaces
from gymnasium_env.models import GymnasiumAction, GymnasiumObservation, GymnasiumState
from openenv_async import Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidOption

__all__ = ["GymnasiumEnvironment", "InlineGymnasiumEnvironment"]


class GymnasiumEnvironment(
    Environment[GymnasiumAction, GymnasiumObservation, GymnasiumState],
):
    """Any registered Gymnasium environment.

    Calls run in threads, since a step may take long; ``GYMNASIUM_ISOLATION=inline`` in the
    server's environment, or ``InlineGymnasiumEnvironment``, runs them on the loop.

    Args:
        id: a registered id, ``module:id`` to import the module that registers it first.
        make_kwargs: what ``gymnasium.make`` takes, the environment's own arguments included.

    Raises:
        InvalidOption: no environment has this id, or it takes no such argument.
    """

    name = "gymnasium"
    isolation: ClassVar[Isolation | None] = (
        "inline" if os.environ.get("GYMNASIUM_ISOLATION") == "inline" else "thread"
    )

    def __init__(self, id: str = "CartPole-v1", **make_kwargs: Any) -> None:
        self._id = id
        self._env = _make(id, make_kwargs)
        self._read = spaces.reader(self._env.action_space)
        self._write = spaces.writer(self._env.observation_space)
        self._elapsed = 0

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        keep_rng: bool = False,
    ) -> StepResult[GymnasiumObservation]:
        """Begin an episode.

        Args:
            seed: of Gymnasium's generator.
            options: Gymnasium's own.
            keep_rng: go on with the generator as it stands, as Gymnasium does when it is given
                no seed; ``seed`` is then not used.
        """
        observation, info = self._env.reset(seed=None if keep_rng else seed, options=options)
        self._elapsed = 0
        return StepResult(GymnasiumObservation(self._write(observation)), info=info)

    def step(self, action: GymnasiumAction) -> StepResult[GymnasiumObservation]:
        observation, reward, terminated, truncated, info = self._env.step(self._read(action.value))
        self._elapsed += 1
        return StepResult(
            GymnasiumObservation(self._write(observation)),
            float(reward),
            bool(terminated),
            bool(truncated),
            info,
        )

    def state(self) -> GymnasiumState:
        limit = self._env.spec.max_episode_steps if self._env.spec is not None else None
        return GymnasiumState(self._id, self._elapsed, limit)

    def close(self) -> None:
        self._env.close()

    @classmethod
    def schemas(cls, id: str = "CartPole-v1", **make_kwargs: Any) -> dict[str, Any]:
        """The schemas of the environment's spaces."""
        env = _make(id, make_kwargs)
        try:
            return {
                "action": _of_value("GymnasiumAction", env.action_space),
                "observation": _of_value("GymnasiumObservation", env.observation_space),
            }
        finally:
            env.close()


class InlineGymnasiumEnvironment(GymnasiumEnvironment):
    """The same on the server's loop: for ids whose steps take microseconds."""

    isolation: ClassVar[Isolation | None] = "inline"


def _of_value(title: str, space: gymnasium.Space[Any]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "object",
        "properties": {"value": spaces.schema(space)},
        "required": ["value"],
        "additionalProperties": False,
    }


def _make(id: str, make_kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.make(id, **{"disable_env_checker": True, **make_kwargs})
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as exc:
        if isinstance(exc, ModuleNotFoundError) and ":" not in id:
            raise  # the environment exists; what it needs is missing
        raise InvalidOption(_unknown(id), option="id") from None
    except (TypeError, gymnasium.error.Error) as exc:
        text = " ".join(str(exc).split())
        raise InvalidOption(f"{id} cannot be made with {make_kwargs}: {text}") from exc


def _unknown(id: str) -> str:
    known = list(gymnasium.registry)
    near = (
        difflib.get_close_matches(id, known, n=3, cutoff=0.5)
        or [name for name in known if id.split("-")[0].lower() in name.lower()][:3]
    )
    hint = f"did you mean {', '.join(near)}?" if near else "gymnasium.registry lists them all"
    return f"Gymnasium has no environment {id!r}; {hint}"
