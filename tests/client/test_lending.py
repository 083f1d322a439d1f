"""Loans of messages: one holder at a time, an end by either side, nothing lost in between."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from openenv_async.client.lending import DivertedMessages, Loan
from tests.helpers import settle, until


class Messages:
    """Messages that remember what became of them."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told
        self.woken = 0

    def send(self, message: bytes) -> None:
        raise NotImplementedError

    def receive(self, timeout: float, is_due: bool = False) -> bytes | None:
        raise NotImplementedError

    def wake(self) -> None:
        self.woken += 1

    def end(self, unread: list[Any], torn: bool) -> None:
        self.told.append(("messages", list(unread), torn))


class Connection:
    """A connection that lends, and remembers what became of it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.told: list[Any] = []
        self.received: list[Any] = []
        self.diverted: Any = None
        self.transport: Any = self
        self.sent: list[Any] = []
        self.given_up = False

    def end_loan(self, heard_at: float) -> None:
        self.told.append("connection")

    def divert(self, take: Any) -> None:
        self.diverted = take

    def receive(self, message: Any) -> None:
        self.received.append(message)

    def send(self, message: bytes, text: bool) -> None:
        self.sent.append((message, text))

    def is_on(self, transport: Any) -> bool:
        return transport is self.transport

    def give_up(self, transport: Any) -> None:
        self.given_up = True


def lent() -> tuple[Loan, Connection, Messages]:
    connection: Any = Connection()
    messages = Messages(connection.told)
    loan = Loan(connection, messages, lambda: connection.told.append("restored"))
    return loan, connection, messages


ENDED: list[Any] = ["connection", "restored", ("messages", [], False)]
"""The order of what happens at an end."""


async def test_a_loan_that_nobody_uses_now_ends_at_once() -> None:
    loan, connection, _ = lent()
    assert loan.recall()
    assert loan.ended
    assert connection.told == ENDED
    assert not loan.recall()
    loan.give_back()
    await settle()
    assert connection.told == ENDED


async def test_a_call_that_goes_on_ends_the_loan_when_it_is_over() -> None:
    loan, connection, messages = lent()
    later: list[str] = []
    with loan.lock:
        assert not loan.recall(lambda: later.append("then"))
        assert (loan.wanted, loan.ended, messages.woken) == (True, False, 1)
    loan.give_back()
    assert loan.ended
    assert connection.told == []  # what follows is a turn of the loop
    assert not loan.recall(lambda: later.append("too"))
    await settle()
    assert (connection.told, later) == (ENDED, ["then", "too"])


@pytest.mark.parametrize("torn", [True, False])
async def test_what_is_not_the_callers_is_handed_over(torn: bool) -> None:
    loan, connection, _ = lent()
    with loan.lock:
        loan.end_in_call(b"1", b"2", torn=torn)
        loan.end_in_call()
    await settle()
    assert connection.told[-1] == ("messages", [b"1", b"2"], torn)
    assert len(connection.told) == 3


async def test_the_end_is_waited_for() -> None:
    loan, connection, _ = lent()
    loan.lock.acquire()
    waiting = asyncio.ensure_future(loan.over())
    await settle()
    assert not waiting.done()
    loan.lock.release()
    loan.give_back()
    await waiting
    assert connection.told == ENDED
    loan, connection, _ = lent()
    await loan.over()
    assert connection.told == ENDED


async def test_a_loan_at_rest_ends_and_one_in_use_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.client.lending._REST", 0.01)
    loan, connection, _ = lent()
    for _ in range(3):
        loan.uses += 1
        seen = loan._uses_seen
        await until(lambda: loan._uses_seen > seen)  # noqa: B023  # waited for in the loop
        assert not loan.ended
    await until(lambda: loan.ended)
    assert connection.told == ENDED


# -- a transport that cannot lend -----------------------------------------------------------------


async def test_messages_are_passed_on_by_the_loop() -> None:
    connection: Any = Connection()
    messages = DivertedMessages(connection, connection)
    connection.diverted(b"one")
    connection.diverted("two")
    assert [messages.receive(5), messages.receive(5)] == [b"one", b"two"]
    assert messages.receive(0.0) is None
    assert messages.receive(-1.0) is None
    messages.wake()
    assert messages.receive(5) is None
    thread = threading.Thread(target=messages.send, args=(b"out",))
    thread.start()
    thread.join()
    await settle()
    assert connection.sent == [(b"out", False)]


@pytest.mark.parametrize(("torn", "current"), [(False, True), (True, True), (True, False)])
async def test_what_has_come_meanwhile_is_delivered(torn: bool, current: bool) -> None:
    connection: Any = Connection()
    messages = DivertedMessages(connection, connection)
    messages.wake()
    connection.diverted(b"late")
    if not current:
        connection.transport = None  # lost already
    messages.end([b"unread"], torn)
    assert connection.diverted is None
    assert connection.given_up is (torn and current)
    assert connection.received == ([] if torn and current else [b"unread", b"late"])
