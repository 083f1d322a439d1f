"""Policies: what chooses the actions of a rollout.

A policy is a callable, sync or async::

    def policy(observation, turn): ...        # or just policy(observation)

``turn`` says where the episode stands (``Turn``). One policy serves every concurrent episode of
a ``collect``. A policy that keeps something per episode has a method ``for_episode(index)`` that
returns the policy of one episode; it is called once when the episode begins.

What a policy raises is a bug or a decision of the caller: it is never turned into an outcome.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Final, Protocol, Self

from openenv_async.client.server_info import fetch_schema
from openenv_async.errors import TargetNotFound
from openenv_async.models import PayloadCodec
from openenv_async.schemas.sample import sample
from openenv_async.targets.discovery import import_object
from openenv_async.types import EpisodeInfo, StepResult

__all__ = ["Policy", "RandomPolicy", "Turn", "bind", "load_policy"]

_UNTYPED: Final = (None, Any, dict)


@dataclass(slots=True)
class Turn:
    """Where an episode stands when its next action is chosen. Valid during that call.

    Attributes:
        index: which rollout of its batch.
        t: steps taken so far.
        episode: id and seed, where the environment reports them.
        result: what the last ``reset`` or ``step`` returned.
    """

    index: int
    t: int
    episode: EpisodeInfo | None
    result: StepResult[Any]


class Policy(Protocol):
    """Chooses actions; may also be async, or take the observation alone."""

    def __call__(self, observation: Any, turn: Turn, /) -> Any: ...


def bind(policy: Callable[..., Any], index: int) -> Callable[[Any, Turn], Any]:
    """The policy of one episode as a callable of observation and turn; decided once."""
    for_episode = getattr(policy, "for_episode", None)
    if for_episode is not None:
        policy = for_episode(index)
    if _takes_turn(policy):
        return policy
    return lambda observation, turn: policy(observation)


def _takes_turn(policy: Callable[..., Any]) -> bool:
    """Whether a second positional argument is wanted; one with a default is the policy's own."""
    try:
        parameters = list(inspect.signature(policy).parameters.values())
    except ValueError:  # a builtin without a signature
        return False
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "turn"
    )


def is_pending(action: Any) -> bool:
    """Whether a policy returned something to await. Cheap for the usual actions."""
    return type(action) is CoroutineType or inspect.isawaitable(action)


class RandomPolicy:
    """Random actions that fit the server's action schema.

    Each episode draws from a generator of its own, seeded by ``seed`` and the episode's index:
    how many episodes run at once does not change what any of them does.

    Args:
        schema: JSON Schema of the action, such as ``(await fetch_schema(url))["action"]``.
        seed: ``None`` draws one.
        action_type: build actions of this type; dicts when it is ``None``, ``Any`` or a dict.
    """

    def __init__(
        self, schema: Mapping[str, Any], seed: int | None = None, action_type: Any = None
    ) -> None:
        self.schema = schema
        self.seed = random.SystemRandom().getrandbits(31) if seed is None else seed
        self._convert = _converter(action_type)
        self._rng = random.Random(self.seed)

    @classmethod
    async def for_client(cls, client: Any, seed: int | None = None) -> Self:
        """A policy for an ``EnvClient`` (or a class's instance): its server's schema, its type."""
        schema = await fetch_schema(client.base_url, token=getattr(client, "_token", None))
        return cls(schema["action"], seed, client.instance_types()[0])

    def for_episode(self, index: int) -> Callable[[Any], Any]:
        """Random actions for one episode."""
        rng = random.Random(f"{self.seed}/{index}")
        schema, convert = self.schema, self._convert
        return lambda observation: convert(sample(schema, rng))

    def __call__(self, observation: Any) -> Any:
        """A random action."""
        return self._convert(sample(self.schema, self._rng))


def _converter(action_type: Any) -> Callable[[Any], Any]:
    if action_type in _UNTYPED or getattr(action_type, "__origin__", None) is dict:
        return lambda value: value
    anything: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
    typed: PayloadCodec[Any] = PayloadCodec(action_type, "msgpack")
    return lambda value: typed.decode(anything.encode(value))


def load_policy(text: str) -> Callable[..., Any]:
    """The policy that ``module:callable`` names; a class is called without arguments.

    Raises:
        ValueError: there is no such thing, or it is not callable.
    """
    module_name, colon, path = text.partition(":")
    if not colon or not module_name or not path:
        raise ValueError(f"{text!r} is no policy: write random or module:callable")
    try:
        found = import_object(text)
    except TargetNotFound as exc:
        reason = exc.message
        if module_name in sys.modules and "did you mean" not in reason:
            reason = f"{module_name!r} has no {path!r}"  # the message names environments
        raise ValueError(f"{text!r} is no policy: {reason}") from exc
    if inspect.isclass(found):
        try:
            inspect.signature(found).bind()
        except TypeError:
            why = f"{path} takes arguments, name an instance or a function"
            raise ValueError(f"{text!r} is no policy: {why}") from None
        except ValueError:
            pass  # a class without a signature
        found = found()
    if not callable(found):
        raise ValueError(f"{text!r} is no policy: a {type(found).__name__} is not callable")
    return found  # type: ignore[no-any-return]  # callable, as was checked
