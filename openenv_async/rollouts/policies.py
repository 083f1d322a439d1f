"""Policies: what chooses the actions of a rollout.

A policy is a callable, sync or async::

    def policy(observation, turn): ...        # or just policy(observation)

``turn`` says where the episode stands (``Turn``). One policy serves every concurrent episode of
a ``collect``. A policy that keeps something per episode has a method ``for_episode(index)`` that
returns the policy of one episode; it is called once when the episode begins.

An exception of a policy is a bug or a decision of the caller.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any, Final, Protocol, Self

from openenv_async.client.server_info import fetch_schema
from openenv_async.errors import TargetNotFound
from openenv_async.models import PayloadCodec
from openenv_async.schemas.legal import LEGAL_ACTIONS, choices_of, sample_legal
from openenv_async.schemas.sample import sample
from openenv_async.targets.discovery import import_object
from openenv_async.types import EpisodeInfo, Mistake, ModelCall, StepResult, Task

__all__ = ["Policy", "RandomPolicy", "Turn", "bind", "load_policy", "takes_turn"]

_UNTYPED: Final = (None, Any, dict)


@dataclass(slots=True)
class Turn:
    """The stage of an episode when its next action is chosen. Valid during that call.

    Attributes:
        index: which rollout of its batch.
        t: steps taken so far.
        episode: id and seed, where the environment reports them.
        result: what the last ``reset`` or ``step`` returned.
        mistake: what was wrong with the policy's last choice, when it is asked again for that;
            the observation is the one it saw then.
        task: which task the episode is about, without its private part.
        model_calls: a policy that asks a model appends each call; they are recorded with the
            action that it returns, or with its mistake.
        timings: a policy may add seconds by name, such as ``queue``.
        action_mask: a policy that knows which actions are legal may note it for the record;
            the environment's own, in ``result.info``, is recorded by itself.
    """

    index: int
    t: int
    episode: EpisodeInfo | None
    result: StepResult[Any]
    mistake: Mistake | None = None
    task: Task | None = None
    model_calls: list[ModelCall] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    action_mask: Any = None


class Policy(Protocol):
    """A callable that chooses actions; it may be async, or take the observation alone.

    One that can make something of ``turn.mistake`` has a true ``corrects_mistakes``: by default
    it is told its mistakes.
    """

    def __call__(self, observation: Any, turn: Turn, /) -> Any: ...


def bind(policy: Callable[..., Any], index: int) -> Callable[[Any, Turn], Any]:
    """Return the policy of one episode as a callable of observation and turn."""
    for_episode = getattr(policy, "for_episode", None)
    if for_episode is not None:
        policy = for_episode(index)
    if takes_turn(policy):
        return policy
    return lambda observation, turn: policy(observation)


def takes_turn(policy: Callable[..., Any]) -> bool:
    """Tell whether a second positional argument is wanted; one with a default is its own."""
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
    """Tell whether a policy returned something to await. Cheap for the usual actions."""
    return type(action) is CoroutineType or inspect.isawaitable(action)


class RandomPolicy:
    """Random actions that fit the server's action schema, legal ones where it tells them.

    If an info has ``legal_actions`` or an ``action_mask``, the next action is one of these, and
    the mask is noted for the record.

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
        self._given_seed = seed
        self._convert = _converter(action_type)
        self._rng = random.Random(self.seed)
        self._choices = choices_of(schema)

    @classmethod
    async def for_client(cls, client: Any, seed: int | None = None) -> Self:
        """Return a policy for a client: with its server's schema and its action type."""
        schema = await fetch_schema(client.base_url, token=client.settings.token)
        return cls(schema["action"], seed, client.instance_types()[0])

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other policies, for the manifest of a run."""
        return {"seed": self._given_seed, "schema": dict(self.schema)}

    def for_episode(self, index: int) -> Callable[..., Any]:
        """Return the policy of one episode: of an observation and its turn."""
        rng = random.Random(f"{self.seed}/{index}")
        return lambda observation, turn=None: self._drawn(rng, turn)

    def __call__(self, observation: Any, turn: Turn | None = None) -> Any:
        """Return a random action.

        Raises:
            InvalidObservation: by the info of ``turn.result`` nothing is legal, or its mask does
                not fit the schema.
        """
        return self._drawn(self._rng, turn)

    def _drawn(self, rng: random.Random, turn: Turn | None) -> Any:
        info = turn.result.info if turn is not None else None
        if not info:
            return self._convert(sample(self.schema, rng))
        action = sample_legal(self.schema, info, rng, self._choices)
        if turn is not None and turn.action_mask is None and LEGAL_ACTIONS in info:
            turn.action_mask = self._mask(info[LEGAL_ACTIONS])
        return self._convert(action)

    def _mask(self, listed: Any) -> Any:
        """Return the mask of a list of actions, as an array where NumPy is installed."""
        if self._choices is None or not isinstance(listed, list | tuple):
            return None
        mask = self._choices.mask_of(self._choices.understood(listed) or ())
        if mask is None:
            return None
        try:
            import numpy as np
        except ModuleNotFoundError:
            return mask
        return np.array(mask, np.int8)


def _converter(action_type: Any) -> Callable[[Any], Any]:
    if action_type in _UNTYPED or getattr(action_type, "__origin__", None) is dict:
        return lambda value: value
    anything: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
    typed: PayloadCodec[Any] = PayloadCodec(action_type, "msgpack")
    return lambda value: typed.decode(anything.encode(value))


def load_policy(text: str) -> Callable[..., Any]:
    """Return the policy that ``module:callable`` names; a class is called without arguments.

    Raises:
        ValueError: there is no such thing, or it is not callable.
    """
    module_name, colon, path = text.partition(":")
    if not colon or not module_name or not path:
        raise ValueError(f"{text!r} is not a policy: write random or module:callable")
    try:
        found = import_object(text)
    except TargetNotFound as exc:
        reason = exc.message
        if module_name in sys.modules and "did you mean" not in reason:
            reason = f"{module_name!r} has no {path!r}"  # the message names environments
        raise ValueError(f"{text!r} is not a policy: {reason}") from exc
    if inspect.isclass(found):
        try:
            inspect.signature(found).bind()
        except TypeError:
            why = f"{path} takes arguments, name an instance or a function"
            raise ValueError(f"{text!r} is not a policy: {why}") from None
        except ValueError:
            pass  # a class without a signature
        found = found()
    if not callable(found):
        raise ValueError(f"{text!r} is not a policy: a {type(found).__name__} is not callable")
    return found  # type: ignore[no-any-return]  # callable, as was checked
