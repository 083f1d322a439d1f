"""The results of calls, as agents read them: texts, pictures and structured content."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from openenv_async.models.observed import Picture, is_image, png, without_pictures
from openenv_async.protocol.codec import json_reward
from openenv_async.protocol.frames import Begun, Observation, StateIs
from openenv_async.server.mcp.offer import OF_RESULT, TOLD_ALWAYS, Offer
from openenv_async.types import Tool

__all__ = ["Told", "failure_result", "frame_result", "state_result", "tell"]

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


@dataclass(frozen=True, slots=True)
class Told:
    """The last reset or step, as an agent was told of it.

    Attributes:
        structured: as JSON has it.
        pictures: those that it names.
    """

    structured: Mapping[str, Any]
    pictures: list[Picture]

    def result(self) -> dict[str, Any]:
        """The result of the call."""
        text = {"type": "text", "text": _encode(self.structured).decode()}
        images = map(_image, self.pictures)
        return {"content": [text, *images], "structuredContent": self.structured, "isError": False}

    def resource(self, uri: str) -> dict[str, Any]:
        """The contents of the resource that is the last observation."""
        observation = self.structured.get("observation", self.structured.get("result"))
        text = _encode(observation).decode()
        contents: list[dict[str, Any]] = [
            {"uri": uri, "mimeType": "application/json", "text": text}
        ]
        for number, each in enumerate(self.pictures, 1):
            name = f"{uri}/picture/{number}"
            contents.append({"uri": name, "mimeType": each.media_type, "blob": each.base64})
        return {"contents": contents}


def tell(
    offer: Offer,
    reply: Begun | Observation,
    tool: Tool | None = None,
    handle: str | None = None,
) -> Told:
    """Return what an agent is told of a reset or step.

    Args:
        offer: what agents may see.
        reply: in MessagePack.
        tool: the one that was called; ``None`` for reset.
        handle: of the session, where the agent has to name it from now on.
    """
    decode = offer.spec.codec("any", "msgpack").decode
    observation = decode(reply.payload)
    if isinstance(observation, dict):
        hidden = offer.hides(observation)
        observation = {
            name: value
            for name, value in observation.items()
            if name not in hidden and not _is_of_result(name, value)
        }
    value, pictures = without_pictures(observation)
    value = _finite(value)
    told: dict[str, Any] = {} if handle is None else {offer.handle: handle}
    if tool is not None and tool.result_field is not None:
        told["result"] = tool.told(value)
    else:
        told["observation"] = value
    told["done"] = reply.terminated or reply.truncated
    if reply.truncated:
        told["truncated"] = True
    info = {} if reply.info is None else decode(reply.info)
    for name in TOLD_ALWAYS:
        if info.get(name) is not None:
            told[name] = _finite(without_pictures(info[name])[0])
    if "reward" in offer.access:
        told["reward"] = json_reward(reply.reward)
    if "info" in offer.access:
        told["info"] = _finite(without_pictures(info)[0])
    if isinstance(reply, Begun) and "seed" in offer.access:
        told["seed"] = reply.seed
    return Told(told, pictures)


def state_result(offer: Offer, reply: StateIs) -> dict[str, Any]:
    """Return the result that has the environment's state."""
    state = offer.spec.codec("any", "msgpack").decode(reply.payload)
    told = _finite(without_pictures(state)[0])
    if not isinstance(told, Mapping):
        told = {"state": told}
    return Told(told, []).result()


def frame_result(offer: Offer, reply: StateIs) -> dict[str, Any]:
    """Return the result that has what the environment renders: a picture, or a text."""
    state = offer.spec.codec("any", "msgpack").decode(reply.payload)
    frame = state.get("frame") if isinstance(state, Mapping) else None
    if frame is None:
        return failure_result("there is no picture: the session was opened without a render_mode")
    if isinstance(frame, str):
        return {"content": [{"type": "text", "text": frame}], "isError": False}
    if is_image(frame):
        return {"content": [_image(Picture("image/png", png(frame)))], "isError": False}
    value, pictures = without_pictures(frame)
    text = {"type": "text", "text": _encode(_finite(value)).decode()}
    return {"content": [text, *map(_image, pictures)], "isError": False}


def failure_result(message: str) -> dict[str, Any]:
    """Return the result of a call that went wrong, for the model to read."""
    return {"content": [{"type": "text", "text": message}], "isError": True}


def _image(picture: Picture) -> dict[str, Any]:
    return {"type": "image", "data": picture.base64, "mimeType": picture.media_type}


def _is_of_result(name: str, value: Any) -> bool:
    """Return whether a field says what stands beside the observation."""
    return name in OF_RESULT and isinstance(value, bool | int | float | None)


def _finite(value: Any) -> Any:
    """Return a value whose numbers JSON has: the others are texts."""
    kind = type(value)
    if kind is dict:
        return {name: _finite(item) for name, item in value.items()}
    if kind is list:
        return [_finite(item) for item in value]
    if kind is float and not math.isfinite(value):
        return json_reward(value)
    return value
