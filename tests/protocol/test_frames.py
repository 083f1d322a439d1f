"""Frames: their numbers, their fields in order, and the bounds of every number in them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from openenv_async.protocol import frames
from openenv_async.protocol.frames import (
    CLIENT_FRAMES,
    MAX_INT,
    PAYLOAD_FIELDS,
    PROTOCOL_VERSION,
    SERVER_FRAMES,
    Cancel,
    Chunk,
    Close,
    Credit,
    Frame,
    GoingAway,
    Hello,
    Open,
    Partial,
    Reset,
    State,
    Step,
    Waiting,
)
from openenv_async.types import MAX_SECONDS

KINDS = {
    0: "Hello version payload",
    1: "Open channel session secret resume ack payload timeout traceparent tracestate lenient",
    2: "Reset channel seq ack payload seed episode_id timeout",
    3: "Step channel seq ack payload timeout credit",
    4: "State channel seq ack timeout render",
    5: "Close channel seq ack timeout",
    6: "Cancel channel seq",
    7: "Credit channel seq units",
    8: "Renew channel ack",
    9: "ListTasks channel seq split start stop tools",
    10: "StepColumns channels seqs payload timeout resets seeds options reset_timeout again",
    11: "Release loans",
    16: "Chunk channel seq payload",
    32: "Welcome version epoch payload",
    33: "Opened channel resumed seq",
    34: "Waiting channel position depth",
    35: "Begun channel seq payload episode_id seed reward terminated truncated info final",
    36: "Observation channel seq payload reward terminated truncated info",
    37: "Partial channel seq index payload whole",
    38: "StateIs channel seq payload episode_id seed step_count rendered",
    39: "Closed channel seq",
    40: "Failed channel seq code message retryable payload",
    41: "GoingAway reason grace",
    42: "TasksListed channel seq payload",
    43: "ObservationColumns channels seqs payload rewards flags infos begun finals",
}
ALL = sorted({*CLIENT_FRAMES, *SERVER_FRAMES}, key=lambda cls: cls.__name__)


def tag(cls: type[Frame]) -> Any:
    return cls.__struct_config__.tag


def written(frame: Frame) -> list[Any]:
    decoded: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(frame))
    return decoded


def read(cls: type[Frame], *fields: Any) -> Frame:
    return msgspec.msgpack.decode(msgspec.msgpack.encode([tag(cls), *fields]), type=cls)


def test_the_wire_has_these_frames_and_fields() -> None:
    """A field may only be appended: what stands here is spoken by clients of all versions."""
    found = {tag(cls): " ".join([cls.__name__, *cls.__struct_fields__]) for cls in ALL}
    assert found == KINDS
    assert PROTOCOL_VERSION == 1
    assert {"payload", "info", "final"} == PAYLOAD_FIELDS


def test_the_frames_of_a_side_are_numbered_apart() -> None:
    assert {tag(cls) for cls in CLIENT_FRAMES} & {tag(cls) for cls in SERVER_FRAMES} == {tag(Chunk)}
    assert all(tag(cls) < 32 for cls in CLIENT_FRAMES)
    assert all(tag(cls) >= 32 or cls is Chunk for cls in SERVER_FRAMES)
    assert set(CLIENT_FRAMES) == set(frames.ClientFrame.__args__)
    assert set(SERVER_FRAMES) == set(frames.ServerFrame.__args__)


@pytest.mark.parametrize(
    ("frame", "fields"),
    [
        (Hello(1), [0, 1, None]),
        (Open(1, "s", "k"), [1, 1, "s", "k", False, 0, None, None, None, None, False]),
        (Reset(1, 1), [2, 1, 1, 0, None, None, None, None]),
        (Step(1, 2, 1, b"a"), [3, 1, 2, 1, b"a", None, 0]),
        (State(1, 1), [4, 1, 1, 0, None, False]),
        (Close(1, 1), [5, 1, 1, 0, None]),
        (frames.Renew(0), [8, 0, 0]),
        (frames.ListTasks(0, 3), [9, 0, 3, None, 0, 0, False]),
        (frames.Welcome(1, "e"), [32, 1, "e", None]),
        (frames.Opened(1), [33, 1, False, 0]),
        (
            frames.Begun(1, 1, b"o", "e", 5),
            [35, 1, 1, b"o", "e", 5, None, False, False, None, None],
        ),
        (frames.Observation(1, 1, b"o"), [36, 1, 1, b"o", None, False, False, None]),
        (Partial(1, 1, 0, b"o"), [37, 1, 1, 0, b"o", False]),
        (frames.StateIs(1, 1, b"s"), [38, 1, 1, b"s", None, None, 0, False]),
        (frames.Failed(1, 1, "c", "m"), [40, 1, 1, "c", "m", False, None]),
    ],
)
def test_a_frame_is_an_array_with_its_defaults(frame: Frame, fields: list[Any]) -> None:
    assert written(frame) == fields
    assert read(type(frame), *fields[1:]) == frame


@pytest.mark.parametrize(
    ("cls", "before", "after"),
    [
        (Cancel, (1,), ()),
        (Close, (1,), ()),
        (Reset, (1,), ()),
        (Step, (1,), (0, b"")),
        (Waiting, (1,), (1,)),
        (Credit, (1, 1), ()),
        (Partial, (1, 1), (b"",)),
        (Hello, (), ()),
    ],
)
def test_an_integer_has_at_most_63_bits(
    cls: type[Frame], before: tuple[Any, ...], after: tuple[Any, ...]
) -> None:
    read(cls, *before, MAX_INT, *after)
    with pytest.raises(msgspec.ValidationError):
        read(cls, *before, MAX_INT + 1, *after)


def test_credit_of_a_step_is_a_count() -> None:
    for good in (0, 1, 2**31 - 1):
        read(Step, 1, 1, 0, b"", None, good)
    for bad in (-1, 2**31):
        with pytest.raises(msgspec.ValidationError):
            read(Step, 1, 1, 0, b"", None, bad)


@pytest.mark.parametrize("seconds", [0.0, -1.0, MAX_SECONDS, -MAX_SECONDS])
def test_seconds_that_a_loop_can_wait_are_read(seconds: float) -> None:
    read(State, 1, 1, 0, seconds)
    read(GoingAway, "bye", seconds)


@pytest.mark.parametrize(
    "seconds", [math.nan, math.inf, -math.inf, MAX_SECONDS * 1.001, -MAX_SECONDS * 1.001]
)
def test_other_seconds_are_not(seconds: float) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(State, 1, 1, 0, seconds)
    with pytest.raises(msgspec.ValidationError):
        read(GoingAway, "bye", seconds)


def test_a_strict_frame_has_no_unknown_fields() -> None:
    with pytest.raises(msgspec.ValidationError):
        read(Cancel, 1, 1, "what is this")
    with pytest.raises(msgspec.ValidationError):
        read(Cancel, 1)
