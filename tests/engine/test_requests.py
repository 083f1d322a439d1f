"""The names of requests, their errors as frames, and payloads from one format into another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from openenv_async import Environment
from openenv_async.engine.requests import (
    OPERATIONS,
    Codecs,
    Unfinished,
    error_frame,
    failed,
    operation,
    transcode,
)
from openenv_async.errors import InvalidModel, ServerBusy, SessionClosed, error_from_wire
from openenv_async.protocol.codec import decode_map
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Observation,
    Open,
    Opened,
    Partial,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.spec import EnvironmentSpec
from tests.helpers import pack, token, unpack


@dataclass
class Act:
    word: str


@dataclass
class Obs:
    words: list[str]


@dataclass
class Where:
    room: int


class Talking(Environment[Act, Obs, Where]):
    def reset(self) -> Obs:
        return Obs([])

    def step(self, action: Act) -> Obs:
        return Obs([action.word])

    def state(self) -> Where:
        return Where(1)


SPEC = EnvironmentSpec(Talking)
OBS = {"words": ["a"]}
JSON_OBS = b'{"words":["a"]}'


def test_every_request_has_a_name() -> None:
    requests: list[Any] = [
        Open(1, token(1), token(2)),
        Reset(1, 1),
        Step(1, 1, 0, b""),
        State(1, 1),
        Close(1, 1),
    ]
    names = [operation(request) for request in requests]
    assert names == ["open", "reset", "step", "state", "close"]
    assert names == list(OPERATIONS.values())


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_an_error_travels_whole(format: Any) -> None:
    error = ServerBusy("all taken", limit=3, active=3, depth=0, retry_after=1.0)
    frame = failed(Step(4, 7, 6, b""), error, format)
    assert (frame.channel, frame.seq, frame.code) == (4, 7, "server_busy")
    assert (frame.message, frame.retryable) == ("all taken", True)
    again = error_from_wire(
        frame.code, frame.message, frame.retryable, decode_map(frame.payload, format)
    )
    assert type(again) is ServerBusy
    assert again.detail == error.detail


def test_a_failed_opening_has_no_number() -> None:
    frame = failed(Open(4, token(1), token(2)), SessionClosed("gone"), "msgpack")
    assert (frame.channel, frame.seq) == (4, 0)
    assert error_frame(2, 9, SessionClosed("gone"), "msgpack").seq == 9


def test_codecs_are_those_of_the_environment() -> None:
    codecs = Codecs(SPEC, "msgpack")
    assert codecs.format == "msgpack"
    assert codecs.decode_action(pack({"word": "hi"})) == Act("hi")
    assert unpack(codecs.encode_observation(Obs(["a"]))) == OBS
    assert unpack(codecs.encode_state(Where(2))) == {"room": 2}
    assert codecs.decode_any(codecs.encode_any({"x": [1]})) == {"x": [1]}
    with pytest.raises(InvalidModel):
        codecs.decode_action(pack({"word": 1}))


def test_a_reply_that_is_not_awaited_is_closed() -> None:
    async def call() -> None: ...

    coroutine = call()
    Unfinished(Step(1, 1, 0, b""), coroutine).drop()
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coroutine.send(None)
    future: Any = object()  # nothing to close
    Unfinished(Step(1, 1, 0, b""), future).drop()


FRAMES: list[tuple[Any, Any]] = [
    (Step(1, 2, 1, pack({"word": "a"})), Step(1, 2, 1, b'{"word":"a"}')),
    (Reset(1, 2, 0, pack({"level": 3})), Reset(1, 2, 0, b'{"level":3}')),
    (Reset(1, 2), Reset(1, 2)),
    (Open(1, "s", "k", payload=pack({"a": 1})), Open(1, "s", "k", payload=b'{"a":1}')),
    (Observation(1, 2, pack(OBS), 1.5), Observation(1, 2, JSON_OBS, 1.5)),
    (
        Observation(1, 2, pack(OBS), 1.5, info=pack({"hint": 2})),
        Observation(1, 2, JSON_OBS, 1.5, info=b'{"hint":2}'),
    ),
    (Begun(1, 2, pack(OBS), "e", 5), Begun(1, 2, JSON_OBS, "e", 5)),
    (Partial(1, 2, 0, pack(OBS), True), Partial(1, 2, 0, JSON_OBS, True)),
    (Partial(1, 2, 0, pack("half"), False), Partial(1, 2, 0, b'"half"', False)),
    (StateIs(1, 2, pack({"room": 1})), StateIs(1, 2, b'{"room":1}')),
    (
        Failed(1, 2, "session_closed", "gone", False, pack({"x": 1})),
        Failed(1, 2, "session_closed", "gone", False, b'{"x":1}'),
    ),
]


@pytest.mark.parametrize(("packed", "text"), FRAMES, ids=lambda frame: f"{type(frame).__name__}")
def test_payloads_are_written_in_the_other_format(packed: Any, text: Any) -> None:
    assert transcode(SPEC, packed, "msgpack", "json") == text
    assert transcode(SPEC, text, "json", "msgpack") == packed


@pytest.mark.parametrize("frame", [Closed(1, 1), Opened(1), Close(1, 1), State(1, 1)])
def test_a_frame_without_a_payload_stays_as_it_is(frame: Any) -> None:
    assert transcode(SPEC, frame, "msgpack", "json") is frame


def test_the_same_format_changes_nothing() -> None:
    broken = Step(1, 2, 1, b"\xc1")
    assert transcode(SPEC, broken, "msgpack", "msgpack") is broken
    with pytest.raises(InvalidModel):
        transcode(SPEC, Step(1, 2, 1, pack({"word": 5})), "msgpack", "json")
