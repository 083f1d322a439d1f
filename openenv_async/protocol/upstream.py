"""Upstream's JSON shapes: what its clients send, and how our replies look to them.

The WebSocket without a subprotocol and the HTTP bodies share these. Rules:

- A result is ``{"observation": …, "reward": …, "done": …}``. In plain JSON ``metadata`` is taken
  out of the observation, and so are ``reward`` and ``done`` where they say what stands beside it:
  a field that only has such a name stays. msgpack and tagged JSON carry an observation whole.
- A state is one flat object; ``episode_id`` and ``step_count`` come from the environment where
  it has them, else from the engine.
- A reward that JSON has no number for is one of "NaN", "Infinity" and "-Infinity"; null says that
  there is none.
- Payloads are moved as they are, never decoded further than their top-level keys.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import msgspec

from openenv_async.errors import (
    EnvironmentRaised,
    InvalidModel,
    InvalidOption,
    OpenEnvError,
    PayloadTooLarge,
    ProtocolError,
    ServerBusy,
)
from openenv_async.models import Format
from openenv_async.models.depth import (
    check_json_containers,
    check_json_depth,
    check_msgpack_containers,
)
from openenv_async.protocol.codec import json_reward
from openenv_async.protocol.frames import MAX_INT, Begun, Observation, StateIs
from openenv_async.types import MAX_DEPTH

__all__ = [
    "Call",
    "Fields",
    "Refusal",
    "error_message",
    "problems",
    "read_fields",
    "read_message",
    "read_reset",
    "refusal_of",
    "result_body",
    "result_message",
    "rpc_message",
    "state_body",
    "state_message",
]

Kind = Literal["reset", "step", "state", "close", "mcp"]
Fields = dict[str, msgspec.Raw]
"""The top level of an object; each value still encoded."""

_ENVELOPE: Final = 2
"""Containers that an envelope adds around a payload."""
_MAX_TEXT: Final = 255
_MAX_SEED: Final = 2 * MAX_INT + 1
_EMPTY: Final = (b"{}", b"null", b"[]")
_TYPE_ALLOWS_DATA: Final[dict[str, bool]] = {
    "reset": True,
    "step": True,
    "state": False,
    "close": False,
    "mcp": True,
}
_KINDS: Final[dict[bytes, Any]] = {f'"{kind}"'.encode(): kind for kind in _TYPE_ALLOWS_DATA}

_json_fields: Final = msgspec.json.Decoder(Fields).decode
_msgpack_fields: Final = msgspec.msgpack.Decoder(Fields).decode
_json_value: Final = msgspec.json.Decoder().decode
_msgpack_value: Final = msgspec.msgpack.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


# -- what clients send ----------------------------------------------------------------------


class Call(msgspec.Struct):
    """One request.

    ``payload`` is the action, or the request of JSON-RPC; ``options`` are a reset's own, still
    encoded.
    """

    kind: Kind
    payload: bytes = b""
    seed: int | None = None
    episode_id: str | None = None
    options: Fields = {}


class Refusal(msgspec.Struct):
    """An error of upstream's dialect: its code, and what stands beside it in ``data``."""

    code: str
    message: str
    beside: dict[str, Any] = {}

    def encode(self) -> str:
        """The message on the socket."""
        data = {"message": self.message, "code": self.code, **self.beside}
        return _encode({"type": "error", "data": data}).decode()


def read_message(message: str | None, max_containers: int = sys.maxsize) -> Call | Refusal:
    """One WebSocket message; ``None`` stands for a binary one.

    Args:
        message: its text.
        max_containers: arrays and objects that it may have.
    """
    if message is None:
        return Refusal("SESSION_ERROR", "a message must be text: this dialect has no binary ones")
    try:
        data = message.encode()
        check_json_depth(data, MAX_DEPTH + _ENVELOPE)
        check_json_containers(data, max_containers)
        fields = _json_fields(data)
    except PayloadTooLarge as exc:
        return _invalid(problems(exc))
    except msgspec.ValidationError:
        return Refusal("SESSION_ERROR", "a message must be a JSON object")
    except (msgspec.MsgspecError, ProtocolError, RecursionError, UnicodeError) as exc:
        return Refusal("INVALID_JSON", f"Invalid JSON: {exc}")
    kind = _KINDS.get(bytes(fields.get("type", b"")))
    if kind is not None:  # as all but a few clients write it
        del fields["type"]
    else:
        kind = scalar(fields, "type", "plain")
        kind = "" if kind is None else kind
        if not isinstance(kind, str) or kind not in _TYPE_ALLOWS_DATA:
            return Refusal("UNKNOWN_TYPE", f"Unknown message type: {kind}")
    payload = fields.pop("data", None) if _TYPE_ALLOWS_DATA[kind] else None
    extra = [
        _problem("extra_forbidden", [name], "Extra inputs are not permitted") for name in fields
    ]
    if extra:
        return _invalid(extra)
    call = Call(cast(Kind, kind))
    try:
        if kind == "reset":
            options = {} if payload is None else _object(payload, "data")
            call.seed, call.episode_id, call.options = read_reset(options, "plain")
        elif kind in ("step", "mcp"):
            if payload is None:
                return _invalid([_problem("missing", ["data"], "Field required")])
            _object(payload, "data")
            call.payload = bytes(payload)
    except OpenEnvError as exc:
        return _invalid(problems(exc))
    return call


def read_fields(body: bytes, format: Format, max_containers: int = sys.maxsize) -> Fields:
    """The top level of an HTTP body; an empty one and null are an empty object.

    Args:
        body: all of it.
        format: of it.
        max_containers: arrays and objects that it may have.

    Raises:
        InvalidModel: it is malformed, too deep or no object.
        PayloadTooLarge: it has too many of these.
    """
    if not body or body.strip() == b"null" or (format == "msgpack" and body == b"\xc0"):
        return {}
    try:
        if format == "msgpack":
            # Only the skipping of values recurses; msgspec bounds that itself.
            check_msgpack_containers(body, max_containers)
            return _msgpack_fields(body)
        check_json_depth(body, MAX_DEPTH + _ENVELOPE)
        check_json_containers(body, max_containers)
        return _json_fields(body)
    except PayloadTooLarge:
        raise
    except msgspec.ValidationError:
        raise InvalidModel(
            "the body must be an object", type="model_attributes_type", loc=["body"]
        ) from None
    except (msgspec.MsgspecError, ProtocolError, RecursionError, ValueError) as exc:
        name = "MessagePack" if format == "msgpack" else "JSON"
        raise InvalidModel(
            f"the body is not valid {name}: {exc}", type="json_invalid", loc=["body"]
        ) from None


def read_reset(fields: Fields, format: Format) -> tuple[int | None, str | None, Fields]:
    """Seed, episode id and the environment's own options of a reset; ``fields`` is emptied.

    Raises:
        InvalidOption: seed or episode id have the wrong type or are out of range.
    """
    seed = scalar(fields, "seed", format)
    if seed is not None and (type(seed) is not int or not 0 <= seed <= _MAX_SEED):
        kind = "int_type" if type(seed) is not int else "greater_than_equal"
        if type(seed) is int and seed > 0:
            kind = "less_than_equal"
        raise InvalidOption(
            f"seed must be an integer of 0 to {_MAX_SEED} or null, got {seed!r:.40}",
            option="seed",
            type=kind,
        )
    episode_id = scalar(fields, "episode_id", format)
    if episode_id is not None and (
        type(episode_id) is not str or not 0 < len(episode_id) <= _MAX_TEXT
    ):
        raise InvalidOption(
            f"episode_id must be a string of 1 to {_MAX_TEXT} characters or null",
            option="episode_id",
            type="string_type" if type(episode_id) is not str else "string_length",
        )
    return seed, episode_id, fields


def scalar(fields: Fields, name: str, format: Format) -> Any:
    """Take a field out and decode it; a container, whose decoding would recurse, is a list."""
    raw = fields.pop(name, None)
    if raw is None:
        return None
    octets = bytes(raw)
    try:
        if format == "msgpack":
            is_scalar = octets[0] < 0x80 or 0xA0 <= octets[0] < 0xDC or octets[0] > 0xDF
            return _msgpack_value(octets) if is_scalar else []
        return [] if octets[:1] in (b"[", b"{") else _json_value(octets)
    except (msgspec.MsgspecError, ValueError):
        return []


def _object(raw: msgspec.Raw, name: str) -> Fields:
    try:
        return _json_fields(raw)
    except (msgspec.MsgspecError, ValueError):
        raise InvalidModel(
            "Input should be a valid dictionary", type="dict_type", loc=[name]
        ) from None


# -- results and states -----------------------------------------------------------------------


def result_body(frame: Begun | Observation, format: Format) -> dict[str, Any]:
    """The body of a result, to be encoded in ``format``'s family."""
    observation: Any = msgspec.Raw(frame.payload)
    metadata: msgspec.Raw | None = None
    if format == "plain":
        observation, metadata = _split(frame)
    body: dict[str, Any] = {
        "observation": observation,
        "reward": frame.reward if format == "msgpack" else json_reward(frame.reward),
        "done": frame.terminated or frame.truncated,
        "terminated": frame.terminated,
        "truncated": frame.truncated,
    }
    if frame.info is not None:
        body["info"] = msgspec.Raw(frame.info)
    if metadata is not None and bytes(metadata) not in _EMPTY:
        body["metadata"] = metadata
    if isinstance(frame, Begun):
        body["episode_id"] = frame.episode_id
        body["seed"] = frame.seed
    return body


def result_message(frame: Begun | Observation) -> str:
    """A result on upstream's socket.

    Metadata stands where upstream 0.10 has it: inside the observation always, beside it when
    there is any. ``info``, which upstream lacks, is merged into it.
    """
    observation, raw = _split(frame)
    metadata: Any = raw if raw is not None and bytes(raw) != b"null" else {}
    if frame.info is not None:
        try:
            own = {} if metadata == {} else _json_fields(metadata)
            metadata = {**_json_fields(frame.info), **own}
        except msgspec.ValidationError:
            pass  # one of them is not an object: the environment's own metadata stays
    if isinstance(observation, dict):
        observation = {"metadata": metadata, **observation}
    data: dict[str, Any] = {
        "observation": observation,
        "reward": json_reward(frame.reward),
        "done": frame.terminated or frame.truncated,
    }
    if metadata and not (isinstance(metadata, msgspec.Raw) and bytes(metadata) in _EMPTY):
        data["metadata"] = metadata
    return _encode({"type": "observation", "data": data}).decode()


def state_body(frame: StateIs, format: Format) -> dict[str, Any]:
    """The body of a state: flat in plain JSON; else whole, beside the engine's facts.

    That of a picture has it as ``frame``.
    """
    facts: dict[str, Any] = {"episode_id": frame.episode_id, "step_count": frame.step_count}
    if frame.rendered:
        return {"frame": msgspec.Raw(frame.payload), **facts}
    if format != "plain":
        return {"state": msgspec.Raw(frame.payload), **facts, "seed": frame.seed}
    try:
        state = _json_fields(frame.payload)
    except msgspec.ValidationError:  # the state is not an object
        return {**facts, "state": msgspec.Raw(frame.payload)}
    return {
        **facts,
        **{key: raw for key, raw in state.items() if key not in facts or bytes(raw) != b"null"},
    }


def state_message(frame: StateIs) -> str:
    """A state on upstream's socket."""
    return _encode({"type": "state", "data": state_body(frame, "plain")}).decode()


def rpc_message(reply: dict[str, Any]) -> str:
    """A reply of JSON-RPC on upstream's socket."""
    return _encode({"type": "mcp", "data": reply}).decode()


def _split(
    frame: Begun | Observation,
) -> tuple[Fields | msgspec.Raw, msgspec.Raw | None]:
    """An observation without metadata and what stands beside it anyway, and its metadata."""
    try:
        fields = _json_fields(frame.payload)
    except msgspec.ValidationError:  # the observation is not an object
        return msgspec.Raw(frame.payload), None
    if "reward" in fields and _is_said(fields["reward"], frame.reward):
        del fields["reward"]
    if "done" in fields and _is_said(fields["done"], frame.terminated or frame.truncated):
        del fields["done"]
    return fields, fields.pop("metadata", None)


def _is_said(field: msgspec.Raw, beside: float | bool | None) -> bool:
    """Return whether a field repeats what stands beside the observation, or says nothing."""
    value: Any = msgspec.json.decode(field)
    if value is None or value is False:  # such as a default, where a StepResult says the rest
        return True
    if isinstance(value, int | float):
        return beside is not None and math.isclose(value, beside, rel_tol=1e-6)  # of float32
    return isinstance(value, str) and not isinstance(beside, bool) and value == json_reward(beside)


# -- errors -----------------------------------------------------------------------------------


def refusal_of(error: OpenEnvError) -> Refusal:
    """An error as upstream's dialect has it."""
    code, message = error.upstream_code, error.message
    beside: dict[str, Any] = {}
    match code:
        case "VALIDATION_ERROR":
            message, beside = f"Invalid message: {message}", {"errors": problems(error)}
        case "CAPACITY_REACHED" if isinstance(error, ServerBusy) and "active" in error.detail:
            active, limit = error.detail.get("active"), error.detail.get("limit")
            message = (
                f"Server at capacity: {active}/{limit} sessions active."
                f" Cannot accept new connections: {message}"
            )
            beside = {"active_sessions": active, "max_sessions": limit}
        case "FACTORY_ERROR":
            beside = {"factory_name": error.env}
        case _:
            if isinstance(error, EnvironmentRaised):
                message = error.detail.get("text") or message
    return Refusal(code, message, beside)


def error_message(error: OpenEnvError) -> str:
    """An error on upstream's socket."""
    return refusal_of(error).encode()


_LOCATION: Final = re.compile(r" - at `?([$\w.\[\]\-]+)`?")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_FIELD_PROBLEMS: Final = (
    ("missing", re.compile(r"missing required field `([^`]*)`"), "Field required"),
    ("extra_forbidden", re.compile(r"unknown field `([^`]*)`"), "Extra inputs are not permitted"),
)


def problems(error: OpenEnvError, prefix: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """A validation error as upstream lists them: ``[{"type", "loc", "msg"}]``.

    Args:
        error: its ``detail`` may have ``type``, ``loc`` or ``option``; else they are read off
            the message.
        prefix: of the location of an option.
    """
    detail: Mapping[str, Any] = error.detail
    kind = detail.get("type", "value_error")
    if "loc" in detail:
        return [_problem(kind, list(detail["loc"]), error.message)]
    if "option" in detail:
        return [_problem(kind, [*prefix, detail["option"]], error.message)]
    found = _LOCATION.search(error.message)
    path = found.group(1) if found else ""
    location: list[Any] = [int(i) if i else name for name, i in _STEP.findall(path)]
    for name, pattern, text in _FIELD_PROBLEMS:
        if match := pattern.search(error.message):
            return [_problem(name, [*location, match.group(1)], text)]
    return [_problem(kind, location, error.message)]


def _problem(kind: str, location: list[Any], text: str) -> dict[str, Any]:
    return {"type": kind, "loc": location, "msg": text}


def _invalid(errors: list[dict[str, Any]]) -> Refusal:
    text = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors)
    return Refusal("VALIDATION_ERROR", f"Invalid message: {text}", {"errors": errors})
