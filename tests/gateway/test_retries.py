"""Tests of what is a retry and what is a sample of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async.gateway.calls import Call, Delivery
from openenv_async.gateway.retries import (
    Again,
    Decision,
    Join,
    New,
    Replay,
    Sample,
    content_digest,
    decide,
    retry_count_of,
)

DIGEST = b"the content"


def call(thread: dict[str, str] | None = None, **fields: Any) -> Call:
    return Call(dialect="chat", messages=[], thread=thread or {}, **fields)


def sample(number: int = 0, *deliveries: Delivery, **fields: Any) -> Sample:
    known: dict[str, Any] = {"digest": DIGEST, "thread": {}, "connected": 0, "state": "answered"}
    return Sample(number=number, deliveries=list(deliveries), **(known | fields))


CASES: list[tuple[str, Call, list[Sample], Decision]] = [
    ("the first call", call(), [], New()),
    ("an answer whose connection broke", call(), [sample(0, "broken")], Replay(0)),
    ("an answer without a note of delivery", call(), [sample(0)], Replay(0)),
    (
        "one whose note may be lost, and one that failed",
        call(),
        [sample(0), sample(1, "error", state="failed")],
        Again(1),
    ),
    ("broken twice", call(), [sample(0, "broken", "broken")], Replay(0)),
    ("an error was answered", call(), [sample(0, "error", state="failed")], Again(0)),
    ("an error, then an answer that broke", call(), [sample(0, "error", "broken")], Replay(0)),
    ("its client left", call(), [sample(0, "broken", state="running")], Join(0)),
    ("twins in flight", call(), [sample(0, state="running", connected=1)], New(0)),
    (
        "twins in flight, one counts",
        call(retry_count=1),
        [sample(0, state="running", connected=1)],
        New(0),
    ),
    ("an answer on its way", call(), [sample(0, connected=1)], New(0)),
    ("asked twice on purpose", call(retry_count=0), [sample(0, "whole")], New(0)),
    (
        "whole, but its connection ended, and the client says again",
        call(retry_count=1),
        [sample(0, "whole", is_disconnected=True)],
        Replay(0),
    ),
    ("whole, and its client is there", call(retry_count=1), [sample(0, "whole")], New(0)),
    (
        "whole, its connection ended, uncounted",
        call(),
        [sample(0, "whole", is_disconnected=True)],
        New(0),
    ),
    (
        "given out more often than the client asked",
        call(retry_count=1),
        [sample(0, "broken", "whole", is_disconnected=True)],
        New(0),
    ),
    (
        "two whole, one connection ended, one again",
        call(retry_count=1),
        [sample(0, "whole"), sample(1, "whole", is_disconnected=True)],
        Replay(1),
    ),
    (
        "two whole, both connections ended, one again",
        call(retry_count=1),
        [sample(0, "whole", is_disconnected=True), sample(1, "whole", is_disconnected=True)],
        New(1),
    ),
    ("twins, one broke", call(), [sample(0, state="running", connected=1), sample(1)], Replay(1)),
    (
        "a failed call is asked again already",
        call(),
        [sample(0, "error", state="running", connected=1), sample(1, "error", state="failed")],
        Again(1),
    ),
    (
        "a counted retry of the twin that failed",
        call(retry_count=1),
        [sample(0, state="running", connected=1), sample(1, "error", state="failed")],
        Again(1),
    ),
    ("another thread", call({"thread-id": "b"}), [sample(0, thread={"thread-id": "a"})], New()),
    ("the same thread", call({"t": "a"}), [sample(0, "broken", thread={"t": "a"})], Replay(0)),
    ("other content", call(), [sample(0, "broken", digest=b"other")], New()),
    (
        "more tokens after an answer that was cut at its limit",
        call(sampling={"max_tokens": 64000}),
        [sample(0, "whole", max_tokens=32000)],
        New(),
    ),
    (
        "more tokens after an answer that broke",
        call(sampling={"max_tokens": 64000}),
        [sample(0, "broken", max_tokens=32000)],
        Replay(0),
    ),
]


@pytest.mark.parametrize(
    ("asked", "samples", "expected"), [pytest.param(*rest, id=name) for name, *rest in CASES]
)
def test_the_rules(asked: Call, samples: list[Sample], expected: Decision) -> None:
    assert decide(asked, DIGEST, samples) == expected


def test_fields_that_agents_change_are_no_content() -> None:
    def digest(**sampling: Any) -> bytes:
        return content_digest(b"m", b"t", "auto", sampling)

    assert digest(temperature=1.0, max_tokens=1, top_p=1) == digest(top_p=1, temperature=1.0)
    assert digest(seed=1) != digest(seed=2)
    assert digest(seed=True) != digest(seed=1)
    assert content_digest(b"m", b"t", "auto", {}) != content_digest(b"m", b"t", "none", {})
    assert content_digest(b"m", b"t", "auto", {}) != content_digest(b"n", b"t", "auto", {})


@pytest.mark.parametrize(
    ("told", "count"), [("0", 0), ("12", 12), ("", None), ("-1", None), ("x", None), ("²", None)]
)
def test_a_count_of_retries_is_a_number_or_nothing(told: str, count: int | None) -> None:
    assert retry_count_of({"x-stainless-retry-count": told}) == count
    assert retry_count_of({}) is None


# -- any number of clients --------------------------------------------------------------------


@dataclasses.dataclass
class Client:
    """A client that wants one answer and asks until it has it."""

    sample: int | None = None
    is_connected: bool = False
    has_answer: bool = False
    asked: int = 0


class Clients:
    """Clients that send the same content, over connections that break, to an engine that fails.

    As sessions do, it keeps one ``Sample`` for each call.
    """

    def __init__(self, count: int, *, counts_retries: bool) -> None:
        self.clients = [Client() for _ in range(count)]
        self.samples: list[Sample] = []
        self.counts_retries = counts_retries
        self.new = 0

    def ask(self, client: Client) -> None:
        if client.is_connected or client.has_answer:
            return
        count = client.asked if self.counts_retries else None
        self.new += client.asked == 0
        match decide(call(retry_count=count), DIGEST, self.samples):
            case New(ambiguous):
                self.samples.append(
                    Sample(number=len(self.samples), digest=DIGEST, thread={}, deliveries=[])
                )
                client.sample = len(self.samples) - 1
                assert (ambiguous is None) == (client.sample == 0)
                # A client that asked before finds none only where a new one took its sample.
                assert len(self.samples) <= self.new
            case Replay(number):
                assert self.samples[number].state == "answered"
                client.sample = number
                self.samples[number].connected += 1
            case Join(number):
                assert self.samples[number].state == "running"
                client.sample = number
                self.samples[number].connected += 1
            case Again(number):
                assert self.samples[number].state == "failed"
                client.sample = number
                self.samples[number].state = "running"
                self.samples[number].connected += 1
        client.is_connected = True
        client.asked += 1

    def leave(self, client: Client, delivery: Delivery) -> None:
        if not client.is_connected:
            return
        assert client.sample is not None
        sample = self.samples[client.sample]
        if delivery == "whole" and sample.state != "answered":
            delivery = "broken"
        client.is_connected = False
        client.has_answer = delivery == "whole"
        sample.connected -= 1
        sample.deliveries.append(delivery)

    def finish(self, number: int, state: Any) -> None:
        if number >= len(self.samples) or self.samples[number].state != "running":
            return
        self.samples[number].state = state
        if state == "failed":
            for client in self.clients:
                if client.sample == number:
                    self.leave(client, "error")


MOVES = st.lists(
    st.tuples(st.sampled_from(["ask", "break", "whole", "answer", "fail"]), st.integers(0, 3)),
    max_size=40,
)


@given(moves=MOVES, counts_retries=st.booleans())
@settings(max_examples=100, deadline=None)
def test_each_client_has_one_sample_of_its_own_however_often_it_asks(
    moves: list[tuple[str, int]], counts_retries: bool
) -> None:
    world = Clients(4, counts_retries=counts_retries)
    for move, which in moves:
        client = world.clients[which]
        match move:
            case "ask":
                world.ask(client)
            case "break" | "whole":
                world.leave(client, "broken" if move == "break" else "whole")
            case "answer":
                world.finish(which, "answered")
            case _:
                world.finish(which, "failed")
    for client in world.clients:  # each goes on until it has its answer
        while not client.has_answer:
            world.ask(client)
            assert client.sample is not None
            world.finish(client.sample, "answered")
            world.leave(client, "whole")
    had = [client.sample for client in world.clients]
    assert sorted(had, key=lambda each: -1 if each is None else each) == list(range(4))
    assert len(world.samples) == 4
