"""Events of a stream, however its bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.hosts.event_streams import Event, EventStream, EventTooLarge

TEXT = (
    ": a comment\n\nevent: task_id\ndata: 7\n\nid: 3\ndata:one\ndata: two\ndata\n\n"
    "event: é\n\n\ndata:  {}\nretry: 5\n\n: ping\ndata: never ended\n"
)
EVENTS = [
    *(Event("task_id", b"7"), Event("", b"one\ntwo\n"), Event("é", b"")),
    Event("", b" {}"),
]


def read(parts: list[bytes], limit: int = 1000) -> list[Event]:
    stream = EventStream(limit)
    return [event for part in parts for event in stream.feed(part)]


@given(st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200)))
def test_events_are_the_same_however_they_are_cut(end: str, cuts: list[int]) -> None:
    data = TEXT.replace("\n", end).encode()
    places = [0, *sorted(cuts), len(data)]
    assert read([data[a:b] for a, b in itertools.pairwise(places)]) == EVENTS


def test_an_event_is_told_as_soon_as_it_has_ended() -> None:
    stream = EventStream(100)
    assert [*stream.feed(b"data: 1\r\n\r")] == [Event("", b"1")]
    assert [*stream.feed(b"\ndata: 2\r\n\r\n")] == [Event("", b"2")]


@pytest.mark.parametrize(
    "parts",
    [
        [b"data: 123456789"],
        [b"data: ", b"1234", b"56789"],
        [b"data: 1234\n", b"data: 1234\n", b"data: 1\n"],
        [b"data\n"] * 11,
        [b": 123456789"],
    ],
)
def test_an_event_has_a_bound(parts: list[bytes]) -> None:
    with pytest.raises(EventTooLarge, match="more than 10 bytes"):
        read(parts, limit=10)


def test_comments_and_ended_events_do_not_count() -> None:
    parts = [b": 123456\n"] * 5 + [b"data: 1\n\n"] * 5
    assert read(parts, limit=10) == [Event("", b"1")] * 5
