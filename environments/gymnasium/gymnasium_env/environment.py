"""Any registered id as an environment with models of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from gymnasium_env.models import GymnasiumAction, GymnasiumObservation, GymnasiumState
from openenv_async import Certification, Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidOption
from openenv_async.hosts.gymnasium import GymnasiumHost, is_quick, make, schemas_of
from openenv_async.hosts.vectors import make_vector

__all__ = ["GymnasiumEnvironment", "InlineGymnasiumEnvironment"]


_WANTED: Final[Mapping[str, Isolation]] = {"inline": "inline", "thread": "thread"}


class GymnasiumEnvironment(
    GymnasiumHost, Environment[GymnasiumAction, GymnasiumObservation, GymnasiumState]
):
    """Any registered Gymnasium environment.

    Gymnasium's classic control and toy text run on the loop, since their steps take microseconds;
    others in threads, since a step may take long. ``GYMNASIUM_ISOLATION=inline`` or ``thread`` in
    the server's environment decides for all, as ``InlineGymnasiumEnvironment`` does.

    Args:
        id: a registered id, ``module:id`` to import the module that registers it first.
        make_kwargs: what ``gymnasium.make`` takes, the environment's own arguments included.

    Raises:
        InvalidOption: no environment has this id, or it takes no such argument.
    """

    name = "gymnasium"
    session_options: ClassVar[frozenset[str]] = frozenset({"render_mode"})
    isolation: ClassVar[Isolation | None] = _WANTED.get(os.environ.get("GYMNASIUM_ISOLATION", ""))

    def __init__(self, id: str = "CartPole-v1", **make_kwargs: Any) -> None:
        self._id = id
        super().__init__(make(id, make_kwargs))

    @classmethod
    def certification_for(cls, id: str = "CartPole-v1", **params: Any) -> Certification | None:
        """The statements for a certificate."""
        from gymnasium_env.certification import certification

        return certification(id, **params)

    def step(self, action: GymnasiumAction) -> StepResult[GymnasiumObservation]:
        """Take one action."""
        result: StepResult[Any] = super().step(action.value)
        result.observation = GymnasiumObservation(result.observation)
        return result

    @classmethod
    def _openenv_row_field(cls) -> str | None:
        """Return the field whose values rows are, unless a subclass has a step of its own."""
        return "value" if cls.step is GymnasiumEnvironment.step else None

    def _openenv_row_step(self) -> Callable[[Any], Any] | None:
        return self._stepped if self._openenv_row_field() is not None else None

    def _written(self, call: str, observation: Any) -> GymnasiumObservation:
        return GymnasiumObservation(super()._written(call, observation))

    def state(self) -> GymnasiumState:
        """Progress, and a frame where the session has a render mode."""
        state = super().state()
        return GymnasiumState(self._id, state.elapsed_steps, state.max_episode_steps, state.frame)

    @classmethod
    def vectorized(cls, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the factory of vectors of an id, and its arguments."""
        rest = dict(params)
        return functools.partial(make_vector, rest.pop("id", "CartPole-v1")), rest

    @classmethod
    def isolation_for(cls, id: str = "CartPole-v1", **make_kwargs: Any) -> Isolation | None:
        """Return where calls run, by the id unless it is decided for all."""
        if cls.isolation is not None:
            return cls.isolation
        try:
            return "inline" if is_quick(id) else "thread"
        except InvalidOption:  # told when its schema is made
            return "thread"

    @classmethod
    def schemas(cls, id: str = "CartPole-v1", **make_kwargs: Any) -> dict[str, Any]:
        """The schemas of the environment's spaces."""
        env = make(id, make_kwargs)
        try:
            return schemas_of(env, _of_value)
        finally:
            env.close()


class InlineGymnasiumEnvironment(GymnasiumEnvironment):
    """The same on the server's loop: for ids whose steps take microseconds."""

    isolation: ClassVar[Isolation | None] = "inline"


def _of_value(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": f"Gymnasium{name.capitalize()}",
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    }
