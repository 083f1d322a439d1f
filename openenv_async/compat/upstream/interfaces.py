"""Upstream's base class of environments, its transforms, and the protocols that go with them."""

from __future__ import annotations

import functools
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from typing_extensions import TypedDict

from openenv_async.compat.upstream.types import Action, EnvironmentMetadata, Observation, State

__all__ = [
    "ActT",
    "CompositeTransform",
    "Environment",
    "Message",
    "ModelTokenizer",
    "NullTransform",
    "ObsT",
    "StateT",
    "TaskProvider",
    "Transform",
    "load_environment_metadata",
]

ActT = TypeVar("ActT", bound=Action)
ObsT = TypeVar("ObsT", bound=Observation)
StateT = TypeVar("StateT", bound=State)


class Message(TypedDict):
    """One message of a conversation, as chat templates take it."""

    role: str
    content: str


class ModelTokenizer(Protocol):
    """The part of a tokenizer that chat environments use."""

    def apply_chat_template(
        self,
        conversation: list[Message],
        tokenize: bool = True,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a conversation as one text, or as its tokens."""
        ...

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """Return the text of tokens."""
        ...


class TaskProvider(Protocol):
    """Methods by which an environment tells its tasks; each may be async.

    A class need not name this one: having the methods is enough.
    """

    def list_splits(self) -> list[Any]:
        """Return the splits: names, or maps with ``name`` and ``type``."""
        ...

    def list_tasks(self, split: str) -> list[Any]:
        """Return the tasks of a split."""
        ...

    def num_tasks(self, split: str) -> int:
        """Return how many tasks a split has."""
        ...

    def get_task(self, split: str, index: int) -> Any:
        """Return one task.

        Raises:
            IndexError: there is none at that place.
        """
        ...

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[Any]:
        """Return the tasks from ``start`` to before ``stop``."""
        ...


class Transform(ABC, Generic[ObsT]):
    """A change of observations: of their reward, their metadata, anything."""

    @abstractmethod
    def __call__(self, observation: ObsT) -> ObsT:
        """Return the observation as it is to be sent."""


class CompositeTransform(Transform[Any]):
    """Several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Transform[Any]]) -> None:
        self.transforms = transforms

    def __call__(self, observation: Any) -> Any:
        for transform in self.transforms:
            observation = transform(observation)
        return observation


class NullTransform(Transform[Any]):
    """A transform that changes nothing."""

    def __call__(self, observation: Any) -> Any:
        return observation


class Environment(ABC, Generic[ActT, ObsT, StateT]):
    """Upstream's base class of environments; every session has an instance of its own.

    ``reset`` and ``step`` return an observation whose ``reward`` and ``done`` count; ``state`` is a
    property. ``reset_async`` and ``step_async`` are called in their place where a class has them.

    Args:
        transform: what ``_apply_transform`` applies.
        rubric: what ``_apply_rubric`` asks for the reward.

    Attributes:
        SUPPORTS_CONCURRENT_SESSIONS: whether there may be several instances at once.
        REQUIRES_SINGLE_THREAD_EXECUTOR: whether all calls of all instances must come from one and
            the same thread.
    """

    SUPPORTS_CONCURRENT_SESSIONS: bool = False
    REQUIRES_SINGLE_THREAD_EXECUTOR: bool = False

    rubric: Any

    def __init__(self, transform: Transform[ObsT] | None = None, rubric: Any = None) -> None:
        self.transform = transform
        self.rubric = rubric

    @abstractmethod
    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> ObsT:
        """Begin an episode and return its first observation."""

    async def reset_async(
        self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any
    ) -> ObsT:
        """Begin an episode; override it for an async environment."""
        return self.reset(seed=seed, episode_id=episode_id, **kwargs)

    @abstractmethod
    def step(self, action: ActT, timeout_s: float | None = None, **kwargs: Any) -> ObsT:
        """Take one action and return the observation."""

    async def step_async(self, action: ActT, timeout_s: float | None = None, **kwargs: Any) -> ObsT:
        """Take one action; override it for an async environment."""
        return self.step(action, timeout_s=timeout_s, **kwargs)

    @property
    @abstractmethod
    def state(self) -> StateT:
        """The state of the episode."""

    def get_metadata(self) -> EnvironmentMetadata:
        """Return what ``/metadata`` shows: by default the name of the class."""
        name = type(self).__name__
        return EnvironmentMetadata(name=name, description=f"{name} environment", version="1.0.0")

    def _apply_transform(self, observation: ObsT) -> ObsT:
        """Return the observation as the transform changes it."""
        return observation if self.transform is None else self.transform(observation)

    def _apply_rubric(self, action: ActT, observation: ObsT) -> Any:
        """Return the rubric's reward; 0.0 without a rubric."""
        return 0.0 if self.rubric is None else self.rubric(action, observation)

    async def _apply_rubric_async(self, action: ActT, observation: ObsT) -> Any:
        """Return the rubric's reward, of a rubric that may be async."""
        reward = self._apply_rubric(action, observation)
        return await reward if inspect.isawaitable(reward) else reward

    def _reset_rubric(self) -> None:
        """Have the rubric forget the last episode."""
        if self.rubric is not None:
            self.rubric.reset()

    async def _reset_rubric_async(self) -> None:
        """Have the rubric forget the last episode, by its ``reset_async`` where it has one."""
        reset = getattr(self.rubric, "reset_async", None)
        if reset is None:
            self._reset_rubric()
            return
        done = reset()
        if inspect.isawaitable(done):
            await done

    def render_web(self, observation: dict[str, Any]) -> str | None:
        """Return HTML that shows an observation. This runtime's page does not ask for it."""
        return None

    def web_actions(self, observation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Return actions with their labels. This runtime's page does not ask for them."""
        return []

    def close(self) -> None:  # a hook that may stay empty
        """Release what the environment holds."""


def load_environment_metadata(env: Any, env_name: str | None = None) -> EnvironmentMetadata:
    """Return what an environment says of itself; of a class or factory its name and README.

    Args:
        env: an environment, its class, or what makes it, which is not called.
        env_name: the environment's name.
    """
    if isinstance(env, Environment):
        return env.get_metadata()
    while isinstance(env, functools.partial):
        env = env.func
    name: str = env_name or getattr(env, "__name__", None) or "environment"
    return EnvironmentMetadata(
        name=name, description=f"{name} environment", readme_content=_readme(), version="1.0.0"
    )


def _readme() -> str | None:
    """The README that the environment variable ``ENV_README_PATH`` names, if there is one."""
    path = os.environ.get("ENV_README_PATH")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
