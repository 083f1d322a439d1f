"""The conversion of a client's own types into payloads and back: codecs, or the author's hooks."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Final, Generic, Protocol

import msgspec

from openenv_async.errors import InvalidModel
from openenv_async.models import Format, PayloadCodec, field_names
from openenv_async.models.results import counted_fields
from openenv_async.spec import model_types
from openenv_async.types import ActT, ObsT, StateT, StepResult

__all__ = ["ModelHooks", "WireModels", "wire_models"]


class _Outcome(Protocol):
    """A reply to a reset or a step, whatever transport it came by."""

    @property
    def reward(self) -> float | None: ...

    @property
    def terminated(self) -> bool: ...

    @property
    def truncated(self) -> bool: ...


class WireModels:
    """Encode actions, decode observations and states in one payload format.

    Args:
        client: whose types and hooks these are.
        format: of the payloads.
        upstream: whether observations come as ``[observation, reward, done]``.

    Attributes:
        fill: puts the reward and the end of a step into an observation whose model has fields for
            them; ``None`` for other models.
    """

    __slots__ = (
        "decode_action",
        "decode_any",
        "decode_observation",
        "decode_state",
        "encode_action",
        "encode_any",
        "fill",
        "format",
        "upstream",
    )

    def __init__(
        self, client: ModelHooks[Any, Any, Any], format: Format, upstream: bool = False
    ) -> None:
        self.format = format
        self.upstream = upstream
        cls = type(client)
        action, observation, state = client.instance_types()
        anything: PayloadCodec[Any] = PayloadCodec(Any, format)
        self.encode_any: Callable[[Any], bytes] = anything.encode
        self.decode_any: Callable[[Any], Any] = anything.decode
        self.encode_action: Callable[[Any], bytes] = PayloadCodec(
            action, format, unchecked=True
        ).encode
        self.decode_action: Callable[[Any], Any] = PayloadCodec(action, format).decode
        self.decode_observation: Callable[[Any], Any] = PayloadCodec(observation, format).decode
        self.decode_state: Callable[[Any], Any] = PayloadCodec(state, format).decode
        if cls._serialize_action is not ModelHooks._serialize_action:
            self.encode_action = lambda action: anything.encode(client._serialize_action(action))
            self.decode_action = anything.decode
        if cls._parse_observation is not ModelHooks._parse_observation:
            self.decode_observation = lambda data: client._parse_observation(anything.decode(data))
        if cls._parse_state is not ModelHooks._parse_state:
            self.decode_state = lambda data: client._parse_state(anything.decode(data))
        hooked = cls._parse_observation is not ModelHooks._parse_observation
        names = _OUTSIDE if hooked else field_names(observation)
        if names is None:  # pydantic models that take more fields have some of their own
            names = frozenset(getattr(observation, "model_fields", ()))
        said = names if hooked else names & _OUTSIDE & counted_fields(observation)  # others: data
        self.fill = _filler(said) if said and not hooked else None
        if upstream:
            self.decode_observation = _putting_back(self.decode_observation, anything, names, said)

    def result(self, reply: _Outcome, observation: Any, info: Any) -> StepResult[Any]:
        """Return the result that a reply tells; ``EnvClient.step`` has this written out.

        Args:
            reply: what was answered.
            observation: its observation, encoded.
            info: its info, encoded; ``None`` where it has none.
        """
        decoded = self.decode_observation(observation)
        if self.fill is not None:
            self.fill(decoded, reply.reward, reply.terminated or reply.truncated)
        return StepResult(
            decoded,
            reply.reward,
            reply.terminated,
            reply.truncated,
            {} if info is None else self.decode_any(info) or {},
        )


_OF_UPSTREAM: Final = ("_step_payload", "_parse_result")
"""Hooks of OpenEnv's client that there are none of here."""
_OUTSIDE: Final = frozenset({"reward", "done"})
"""Fields of an observation that upstream's dialect has beside it."""


Fill = Callable[[Any, float | None, bool], None]


def _filler(said: frozenset[str]) -> Fill:
    """Return what fills the fields of a model that are told beside its observations.

    A reward of the observation's own stays, unless it is ``None`` or zero.
    """
    has_reward, has_done = "reward" in said, "done" in said

    def fill(observation: Any, reward: float | None, done: bool) -> None:
        if has_reward and reward is not None and not _field(observation, "reward"):
            _put(observation, "reward", reward)
        if has_done and done and not _field(observation, "done"):
            _put(observation, "done", True)

    return fill


def _field(observation: Any, name: str) -> Any:
    if isinstance(observation, dict):
        return observation.get(name)
    return getattr(observation, name, None)


def _putting_back(
    decode: Callable[[Any], Any],
    anything: PayloadCodec[Any],
    names: frozenset[str],
    said: frozenset[str],
) -> Callable[[Any], Any]:
    """``decode`` for an observation that came with reward and done beside it.

    Args:
        decode: of the observation alone.
        anything: the codec of plain values.
        names: of the fields of its type; none where it takes any.
        said: those of ``reward`` and ``done`` that it has.
    """

    def decode_observation(data: Any) -> Any:
        observation, reward, done = anything.decode(data)
        if not isinstance(observation, dict):
            return decode(anything.encode(observation))
        beside = {"reward": reward, "done": done}
        if names and "metadata" not in names and not observation.get("metadata"):
            observation.pop("metadata", None)  # which every upstream observation has
        whole = {**{name: beside[name] for name in said}, **observation}
        try:
            return decode(anything.encode(whole))
        except InvalidModel:
            if whole.get("reward", math.nan) is not None:
                raise
        # A field that takes numbers only: none was given, and a number would be made up.
        made = decode(anything.encode({**whole, "reward": math.nan}))
        return _without_reward(made)

    return decode_observation


def _without_reward(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {**observation, "reward": None}
    _put(observation, "reward", None)
    return observation


def _put(observation: Any, name: str, value: Any) -> None:
    """Set a field, of a frozen model as well, that is not checked again."""
    if isinstance(observation, dict):
        observation[name] = value
    elif not hasattr(observation, name):
        pass  # another member of a union has it
    elif isinstance(observation, msgspec.Struct):
        msgspec.structs.force_setattr(observation, name, value)
    elif hasattr(observation, "__pydantic_fields_set__"):
        observation.__dict__[name] = value
    else:
        object.__setattr__(observation, name, value)


class ModelHooks(Generic[ActT, ObsT, StateT]):
    """The type parameters of a client class and its overridable hooks.

    A subclass that overrides a hook gets and gives plain dicts there; one that does not gets
    codecs built from its type parameters, which are much faster.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _OF_UPSTREAM:
            if name in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__}.{name} is a hook of OpenEnv's client, which this one does not"
                    " call: subclass openenv_async.compat.upstream.EnvClient, or name the types as"
                    " EnvClient[Action, Observation, State] and leave hooks out"
                )

    action_type: ClassVar[Any] = None
    observation_type: ClassVar[Any] = None
    state_type: ClassVar[Any] = None
    _wire_models: ClassVar[dict[tuple[str, bool], WireModels]]

    @classmethod
    def model_types(cls) -> tuple[Any, Any, Any]:
        """Action, observation and state type; ``Any`` where none was given."""
        given = (cls.action_type, cls.observation_type, cls.state_type)
        found = model_types(cls, ModelHooks)
        return tuple(g if g is not None else f for g, f in zip(given, found, strict=True))

    def instance_types(self) -> tuple[Any, Any, Any]:
        """The types of this client, also of one made as ``EnvClient[A, O, S](url)``."""
        types = self.model_types()
        arguments = typing.get_args(getattr(self, "__orig_class__", None))
        if len(arguments) == len(types) and all(made is Any for made in types):
            return arguments[0], arguments[1], arguments[2]
        return types

    @classmethod
    def overrides_hooks(cls) -> bool:
        """Return whether any hook is the subclass's own."""
        return (
            cls._serialize_action is not ModelHooks._serialize_action
            or cls._parse_observation is not ModelHooks._parse_observation
            or cls._parse_state is not ModelHooks._parse_state
        )

    def _serialize_action(self, action: ActT) -> dict[str, Any]:
        """The action as a dict; override to replace the codec."""
        raise NotImplementedError

    def _parse_observation(self, data: dict[str, Any]) -> ObsT:
        """An observation from its dict; override to replace the codec."""
        raise NotImplementedError

    def _parse_state(self, data: dict[str, Any]) -> StateT:
        """A state from its dict; override to replace the codec."""
        raise NotImplementedError


def wire_models(
    client: ModelHooks[Any, Any, Any], format: Format, upstream: bool = False
) -> WireModels:
    """The codecs of a client in one format.

    One set per class, unless the instance has hooks or types of its own.
    """
    cls = type(client)
    made: dict[tuple[str, bool], WireModels] | None = cls.__dict__.get("_wire_models")
    if made is None:
        if cls.overrides_hooks():
            return WireModels(client, format, upstream)
        made = cls._wire_models = {}
    if hasattr(client, "__orig_class__"):
        return WireModels(client, format, upstream)
    wire = made.get((format, upstream))
    if wire is None:
        wire = made[format, upstream] = WireModels(client, format, upstream)
    return wire
