"""How a client turns its own types into payloads and back: codecs, or the author's hooks."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, ClassVar, Generic

from openenv_async.models import Format, PayloadCodec
from openenv_async.spec import model_types
from openenv_async.types import ActT, ObsT, StateT

__all__ = ["ModelHooks", "WireModels", "wire_models"]


class WireModels:
    """Encode actions, decode observations and states in one payload format."""

    __slots__ = (
        "decode_any",
        "decode_observation",
        "decode_state",
        "encode_action",
        "encode_any",
        "format",
    )

    def __init__(self, client: ModelHooks[Any, Any, Any], format: Format) -> None:
        self.format = format
        cls = type(client)
        action, observation, state = client.instance_types()
        anything: PayloadCodec[Any] = PayloadCodec(Any, format)
        self.encode_any: Callable[[Any], bytes] = anything.encode
        self.decode_any: Callable[[Any], Any] = anything.decode
        self.encode_action: Callable[[Any], bytes] = PayloadCodec(action, format).encode
        self.decode_observation: Callable[[Any], Any] = PayloadCodec(observation, format).decode
        self.decode_state: Callable[[Any], Any] = PayloadCodec(state, format).decode
        if cls._serialize_action is not ModelHooks._serialize_action:
            self.encode_action = lambda action: anything.encode(client._serialize_action(action))
        if cls._parse_observation is not ModelHooks._parse_observation:
            self.decode_observation = lambda data: client._parse_observation(anything.decode(data))
        if cls._parse_state is not ModelHooks._parse_state:
            self.decode_state = lambda data: client._parse_state(anything.decode(data))


class ModelHooks(Generic[ActT, ObsT, StateT]):
    """The type parameters of a client class and its overridable hooks.

    A subclass that overrides a hook gets and gives plain dicts there; one that does not gets
    codecs built from its type parameters, which are much faster.
    """

    action_type: ClassVar[Any] = None
    observation_type: ClassVar[Any] = None
    state_type: ClassVar[Any] = None
    _wire_models: ClassVar[dict[str, WireModels]]

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
        """Whether any hook is the subclass's own."""
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


def wire_models(client: ModelHooks[Any, Any, Any], format: Format) -> WireModels:
    """The codecs of a client in one format.

    One set per class, unless the instance has hooks or types of its own.
    """
    cls = type(client)
    made: dict[str, WireModels] | None = cls.__dict__.get("_wire_models")
    if made is None:
        if cls.overrides_hooks():
            return WireModels(client, format)
        made = cls._wire_models = {}
    if hasattr(client, "__orig_class__"):
        return WireModels(client, format)
    wire = made.get(format)
    if wire is None:
        wire = made[format] = WireModels(client, format)
    return wire
