"""The results of calls, as agents read them."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np

from openenv_async import Environment, Tool
from openenv_async.models.observed import png
from openenv_async.protocol.frames import Begun, Observation, StateIs
from openenv_async.server.mcp.content import failure_result, frame_result, state_result, tell
from openenv_async.server.mcp.offer import Offer
from openenv_async.spec import EnvironmentSpec


class Anything(Environment[dict[str, Any], Any, Any]):
    def reset(self) -> Any:
        return {}

    def step(self, action: dict[str, Any]) -> Any:
        return {}


def offer(*access: str) -> Offer:
    return Offer(EnvironmentSpec(Anything), frozenset(access))


def packed(value: Any) -> bytes:
    return EnvironmentSpec(Anything).codec("any", "msgpack").encode(value)


def observed(value: Any, *access: str, info: Any = None, **more: Any) -> Any:
    reply = Observation(0, 1, packed(value), **more)
    if info is not None:
        reply.info = packed(info)
    return tell(offer(*access), reply)


def test_the_text_is_the_structured_content() -> None:
    told = observed({"board": np.arange(3), "n": None}).result()
    assert told["structuredContent"] == {
        "observation": {"board": [0, 1, 2], "n": None},
        "done": False,
    }
    assert json.loads(told["content"][0]["text"]) == told["structuredContent"]
    assert told["isError"] is False


def test_pictures_stand_beside_it() -> None:
    png = b"\x89PNG\r\n\x1a\n and more"
    screen = np.zeros((20, 20, 3), np.uint8)
    told = observed({"seen": [png, screen], "bytes": b"\0"})
    assert told.structured["observation"] == {
        "seen": ["<picture 1>", "<picture 2>"],
        "bytes": "AA==",
    }
    text, first, second = told.result()["content"]
    assert first == {
        "type": "image",
        "data": base64.b64encode(png).decode(),
        "mimeType": "image/png",
    }
    assert base64.b64decode(second["data"]).startswith(png[:8])
    whole, *blobs = told.resource("openenv://x")["contents"]
    assert json.loads(whole["text"]) == told.structured["observation"]
    assert [blob["uri"] for blob in blobs] == ["openenv://x/picture/1", "openenv://x/picture/2"]
    assert text["type"] == "text"


def test_numbers_that_json_has_not_are_texts() -> None:
    value = {"a": math.nan, "b": [math.inf, np.float32(-np.inf)], "c": np.array([np.nan, 1.0])}
    told = observed(value).structured["observation"]
    assert told == {"a": "NaN", "b": ["Infinity", "-Infinity"], "c": ["NaN", 1.0]}


def test_the_end_of_an_episode() -> None:
    assert observed(1, terminated=True).structured == {"observation": 1, "done": True}
    stopped = observed(1, truncated=True).structured
    assert (stopped["done"], stopped["truncated"]) == (True, True)
    fields = {"done": True, "terminated": None, "place": 1}
    assert observed(fields).structured["observation"] == {"place": 1}
    assert observed({"done": "soon"}).structured["observation"] == {"done": "soon"}


def test_rewards_and_infos_are_kept_from_agents() -> None:
    info = {"score": 3.5, "action_mask": np.array([1, 0], np.int8), "legal_actions": [1]}
    value = {"place": 1, "reward": 3.5}
    told = observed(value, info=info, reward=3.5).structured
    assert told == {
        "observation": {"place": 1},
        "done": False,
        "legal_actions": [1],
        "action_mask": [1, 0],
    }
    shown = observed(value, "reward", "info", info=info, reward=math.inf).structured
    assert shown["reward"] == "Infinity"
    assert shown["info"]["score"] == 3.5
    assert shown["observation"]["reward"] == 3.5


def test_a_reset_gives_the_handle_and_perhaps_the_seed() -> None:
    begun = Begun(0, 1, packed({}), "episode", 5)
    assert tell(offer(), begun, handle="h").structured == {
        "session": "h",
        "observation": {},
        "done": False,
    }
    assert tell(offer("seed"), begun).structured["seed"] == 5


def test_a_tool_may_give_one_field() -> None:
    reply = Observation(0, 1, packed({"echo": "hi", "at": 3}))
    told = tell(offer(), reply, Tool("say", result_field="echo"))
    assert told.structured == {"result": "hi", "done": False}
    assert told.resource("u")["contents"][0]["text"] == '"hi"'


def test_a_state_and_a_failure() -> None:
    told = state_result(offer("state"), StateIs(0, 1, packed([1, math.nan]), "e", 2, 3))
    assert told["structuredContent"] == {"state": [1, "NaN"]}
    assert failure_result("no") == {"content": [{"type": "text", "text": "no"}], "isError": True}


def test_frames_are_pictures_or_texts() -> None:
    def shown(state: Any) -> Any:
        return frame_result(offer("render"), StateIs(0, 1, packed(state), "e", 2, 3))

    small = np.zeros((2, 3, 3), np.uint8)  # a board in an observation, but a picture here
    [image] = shown({"frame": small})["content"]
    assert (image["type"], image["mimeType"]) == ("image", "image/png")
    assert base64.b64decode(image["data"]) == png(small)
    assert shown({"frame": "S.\n.G"})["content"] == [{"type": "text", "text": "S.\n.G"}]
    listed, first, second = shown({"frame": [np.zeros((20, 20, 3), np.uint8)] * 2})["content"]
    assert json.loads(listed["text"]) == ["<picture 1>", "<picture 2>"]
    assert first["type"] == second["type"] == "image"
    odd = shown({"frame": np.array([1.5, math.inf])})["content"]
    assert json.loads(odd[0]["text"]) == [1.5, "Infinity"]
    for nothing in ({"frame": None}, {}, [1]):
        told = shown(nothing)
        assert told["isError"]
        assert "without a render_mode" in told["content"][0]["text"]
