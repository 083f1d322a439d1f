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
    (
        "an answer whose end did not leave before the gateway was killed",
        call(),
        [sample(0)],
        Replay(0),
    ),
    (
        "one whose end did not leave, and one that failed",
        call(),
        [sample(0), sample(1, "error", state="failed")],
        Replay(0),
    ),
    ("broken twice", call(), [sample(0, "broken", "broken")], Replay(0)),
    ("an error was answered", call(), [sample(0, "error", state="failed")], Again(0)),
    ("an error, then an answer that broke", call(), [sample(0, "error", "broken")], Replay(0)),
    ("its client left", call(), [sample(0, "broken", state="running")], Join(0)),
    ("twins in flight", call(), [sample(0, state="running", connected=1)], New(0)),
    ("an answer on its way", call(), [sample(0, connected=1)], New(0)),
    ("asked twice on purpose", call(), [sample(0, "whole")], New(0)),
    (
        "an answer that one client had, and another had not",
        call(),
        [sample(0, "broken", "whole")],
        New(0),
    ),
    (
        "the twin's, whose client had none",
        call(),
        [sample(0, "whole"), sample(1, "whole"), sample(2, "error", "broken")],
        Replay(2),
    ),
    ("twins, one broke", call(), [sample(0, state="running", connected=1), sample(1)], Replay(1)),
    (
        "a failed call is asked again already",
        call(),
        [sample(0, "error", state="running", connected=1), sample(1, "error", state="failed")],
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


# -- any number of clients --------------------------------------------------------------------


@dataclasses.dataclass
class Client:
    """A client that wants one answer and asks until it has it."""

    sample: int | None = None
    is_connected: bool = False
    has_answer: bool = False
    asked: int = 0


class Clients:
    """Clients that send the same content to a gateway that is killed now and then.

    Connections break, and the engine fails. As sessions do, it keeps one ``Sample`` for each call,
    and what the journal has of it outlives a kill.
    """

    def __init__(self, count: int) -> None:
        self.clients = [Client() for _ in range(count)]
        self.samples: dict[int, Sample] = {}
        self.count = 0
        self.asked = self.missed = 0

    def ask(self, client: Client) -> None:
        if client.is_connected or client.has_answer:
            return
        self.asked += client.asked == 0
        match decide(call(), DIGEST, self.samples.values()):
            case New(ambiguous):
                assert (ambiguous is None) == (not self.samples)
                client.sample = self.count
                self.count += 1
                self.samples[client.sample] = Sample(
                    number=client.sample, digest=DIGEST, thread={}, ambiguous=ambiguous
                )
            case Replay(number):
                assert self.samples[number].state == "answered"
                self._join(client, number)
            case Join(number):
                assert self.samples[number].state == "running"
                self._join(client, number)
            case Again(number):
                assert self.samples[number].state == "failed"
                self.samples[number].state = "running"
                self._join(client, number)
        client.is_connected = True
        client.asked += 1
        # A client that asked before finds none only where another has taken its sample, or where
        # nobody can tell that it had not the answer.
        assert len(self.samples) <= self.asked + self.missed

    def _join(self, client: Client, number: int) -> None:
        client.sample = number
        self.samples[number].connected += 1

    def sample_of(self, client: Client) -> Sample:
        assert client.sample is not None
        return self.samples[client.sample]

    def break_off(self, client: Client) -> None:
        """The connection ends before the end of the answer leaves."""
        if client.is_connected:
            self._leave(client, "broken")

    def _leave(self, client: Client, delivery: Delivery) -> None:
        sample = self.sample_of(client)
        client.is_connected = False
        sample.connected -= 1
        sample.deliveries.append(delivery)

    def deliver(self, client: Client, way: str) -> None:
        """The end of the answer leaves, and arrives, or is lost so that one can see it or not."""
        if not client.is_connected or self.sample_of(client).state != "answered":
            return
        self._leave(client, "whole")
        if way == "reset":
            self.sample_of(client).deliveries[-1] = "broken"
        elif way == "lost":
            self.missed += 1
        else:
            client.has_answer = True

    def finish(self, number: int, state: Any) -> None:
        sample = self.samples.get(number)
        if sample is None or sample.state != "running":
            return
        sample.state = state
        if state == "failed":
            for client in self.clients:
                if client.sample == number and client.is_connected:
                    self._leave(client, "error")

    def kill(self) -> None:
        """All connections end, and samples that were running are nowhere."""
        for client in self.clients:
            client.is_connected = False
        for number, sample in list(self.samples.items()):
            sample.connected = 0
            if sample.state == "running":
                del self.samples[number]


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["ask", "break", "whole", "reset", "lost", "answer", "fail", "kill"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(moves=MOVES)
@settings(max_examples=200, deadline=None)
def test_each_client_has_one_sample_of_its_own_however_often_it_asks(
    moves: list[tuple[str, int]],
) -> None:
    world = Clients(4)
    for move, which in moves:
        client = world.clients[which]
        match move:
            case "ask":
                world.ask(client)
            case "break":
                world.break_off(client)
            case "whole" | "reset" | "lost":
                world.deliver(client, move)
            case "answer":
                world.finish(which, "answered")
            case "fail":
                world.finish(which, "failed")
            case _:
                world.kill()
    for client in world.clients:  # each goes on until it has its answer
        while not client.has_answer:
            world.ask(client)
            assert client.sample is not None
            world.finish(client.sample, "answered")
            world.deliver(client, "whole")
    had = [client.sample for client in world.clients]
    assert len(set(had)) == 4
    answered = [each for each in world.samples.values() if each.state == "answered"]
    assert len(answered) <= 4 + world.missed
    assert sum(each.ambiguous is None for each in answered) <= 1 + sum(
        move == "kill" for move, _ in moves
    )
