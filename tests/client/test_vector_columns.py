"""Rows of a vector in column frames: the same answers as one by one, failures and cuts too."""

from __future__ import annotations

import contextlib
import os
import random
import select
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from openenv_async import EngineOptions, Environment, StepResult
from openenv_async.client.lending import DivertedMessages
from openenv_async.client.local import LocalTransport
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.vector import Answer, ResetRequest, VectorSessions
from openenv_async.client.vector_columns import AnswerColumns, LentRows
from openenv_async.client.websocket import WebSocketTransport
from openenv_async.endpoints.lent_socket import SocketMessages
from openenv_async.environment import Isolation
from openenv_async.errors import (
    EpisodeNotStarted,
    InvalidAction,
    OpenEnvError,
    SessionBusy,
    SessionClosed,
)
from openenv_async.protocol.columns import apart
from tests.integrations.serving import served

Dict = dict[str, Any]


class Walk(Environment[Dict, Dict, Dict]):
    """Ends at 5 and is truncated at -5; a 9 fails, 8 is refused, 7 has no reward, an even sum has
    an info.

    Each observation tells the number of steps of its session: one taken twice would show.
    """

    isolation: ClassVar[Isolation | None] = "inline"

    def __init__(self) -> None:
        self.taken = 0

    def reset(self, seed: int = 0) -> Dict:
        self.total = seed % 3
        return {"total": self.total, "seed": seed, "taken": self.taken}

    def step(self, action: Dict) -> StepResult[Dict]:
        add = action["add"]
        if add == 9:
            raise RuntimeError("broken")
        if add == 8:
            raise InvalidAction("refused")
        self.taken += 1
        self.total += 0 if add == 7 else add
        return StepResult(
            {"total": self.total, "taken": self.taken},
            None if add == 7 else float(add),
            terminated=self.total >= 5,
            truncated=self.total <= -5,
            info={"even": self.total} if self.total % 2 == 0 else {},
        )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(Walk) as found:
        yield found


def opened(url: str, count: int, columns: bool, same_step: bool) -> VectorSessions:
    sessions = VectorSessions(url, count, same_step=same_step)
    sessions.open()
    if not columns:
        sessions._takes_columns = False
    return sessions


def told(sessions: VectorSessions, answer: Answer) -> Any:
    """An answer as plain data, without what differs from session to session."""

    def plain(reply: Any) -> Any:
        if reply is None or isinstance(reply, OpenEnvError):
            return reply and (type(reply), reply.message)
        wire = sessions.wire
        info = None if reply.info is None else wire.decode_any(reply.info)
        seq = None if sessions.same_step else reply.seq  # a reset may be a request of its own
        return (
            *(type(reply).__name__, seq, wire.decode_observation(reply.payload)),
            *(reply.reward, reply.terminated, reply.truncated, info),
        )

    return answer.slot, plain(answer.frame), plain(answer.final), plain(answer.error), answer.again


def answers(sessions: VectorSessions) -> list[Any]:
    found: list[Answer] = []
    while sessions.waiting:
        found += sessions.take(1, timeout=60)
    return sorted((told(sessions, answer) for answer in found), key=lambda each: each[0])


def cut(sessions: VectorSessions) -> None:
    """The network fails."""

    async def abort() -> None:
        transport: Any = sessions._connection and sessions._connection._transport
        if transport is not None:
            await transport.aclose(leaving=False)

    background_loop().run(abort())


def play(url: str, columns: bool, same_step: bool, seed: int, cuts: bool) -> list[Any]:
    """Random episodes: whole batches and parts, with failures, refusals and resets of all kinds."""
    drawn = random.Random(seed)
    count = drawn.choice([1, 3, 8])
    sessions = opened(url, count, columns, same_step)
    encode = sessions.wire.encode_action
    story: list[Any] = []
    over: set[int] = set()
    sessions.reset([ResetRequest(i, seed + i, None) for i in range(count)])
    story.append(answers(sessions))
    for _ in range(25):
        who = list(range(count))
        if drawn.random() < 0.3:
            who = drawn.sample(who, drawn.randint(1, count))
        steps = [i for i in who if i not in over]
        choices = [1, 1, 2, -2, 7, 8] + [9] * (drawn.random() < 0.3)
        actions = [encode({"add": drawn.choice(choices)}) for _ in steps]
        resets = [i for i in who if i in over]
        if drawn.random() < 0.5:
            sessions.step(steps, actions, resets)
        else:
            begins = np.array([i in over for i in who])
            sessions.step_columns(apart(actions), who, begins)
        if drawn.random() < 0.2 and cuts:
            cut(sessions)
        found = answers(sessions)
        story.append(found)
        for slot, frame, final, error, _ in found:
            ended = frame is not None and (frame[4] or frame[5])
            failed = error is not None and error[0].__name__ != "InvalidAction"
            over.discard(slot)
            if failed or (ended and final is None):
                over.add(slot)
        if not over and drawn.random() < 0.1:
            sessions.reset([ResetRequest(i, None, None) for i in who])
            story.append(answers(sessions))
    sessions.close()
    return story


@pytest.mark.parametrize("cuts", [False, True])
@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_columns_and_rows_give_the_same_answers(
    url: str, seed: int, same_step: bool, cuts: bool
) -> None:
    assert play(url, True, same_step, seed, cuts) == play(url, False, same_step, seed, False)


@pytest.mark.parametrize("way", ["tcp", "diverted", "impatient", "rows only"])
@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("seed", [7, 8, 9])
def test_every_way_of_a_message_gives_the_same_answers(
    monkeypatch: pytest.MonkeyPatch, url: str, seed: int, same_step: bool, way: str
) -> None:
    """Over TCP, through the I/O thread, with loans that end at once, without the feature."""
    expected = play(url, False, same_step, seed, False)
    match way:
        case "tcp":
            monkeypatch.setattr("openenv_async.client.websocket.local_address", lambda *about: None)
        case "diverted":
            monkeypatch.setattr("openenv_async.client.local.can_lend", lambda transport: False)
        case "impatient":
            monkeypatch.setattr("openenv_async.client.vector.PATIENCE", 0.0)
        case "rows only":
            monkeypatch.setattr("openenv_async.engine.connection.has_columns", lambda format: False)
    with served(Walk) as other:
        assert play(other, True, same_step, seed, True) == expected


class WalkInThreads(Walk):
    isolation = "thread"


@pytest.mark.parametrize(("env", "workers"), [(Walk, None), (WalkInThreads, None), (Walk, 2)])
def test_episodes_that_end_cost_no_message_of_their_own(
    monkeypatch: pytest.MonkeyPatch, env: type[Walk], workers: int | None
) -> None:
    sent: list[Any] = []
    message = LentRows._message

    def counted(rows: LentRows, frames: list[Any]) -> bytes:
        sent.append(frames)
        return message(rows, frames)

    monkeypatch.setattr(LentRows, "_message", counted)
    with served(env, options=EngineOptions(workers=workers)) as url:
        sessions = opened(url, 4, True, True)
        sessions.reset([ResetRequest(i, i, None) for i in range(4)])
        answers(sessions)
        encode = sessions.wire.encode_action
        ends = 0
        for _ in range(12):
            sessions.step_columns(apart([encode({"add": add}) for add in (2, 3, 1, 1)]))
            found = answers(sessions)
            ends += sum(final is not None for _, _, final, _, _ in found)
            for _, frame, final, error, again in found:
                assert error is None
                assert again == (final is not None) == (frame[0] == "Begun")
        sessions.close()
    assert ends > 10
    if workers is None:
        assert len(sent) == 12
    else:  # rows of a worker that is late go alone, and then their ends are asked for
        assert len(sent) < 12 + ends // 2


@pytest.mark.parametrize(
    ("patched", "transport", "messages"),
    [
        (None, LocalTransport, SocketMessages),
        ("openenv_async.client.websocket.local_address", WebSocketTransport, SocketMessages),
        ("openenv_async.client.local.can_lend", LocalTransport, DivertedMessages),
    ],
)
def test_the_calling_thread_reads_the_socket_itself_where_it_can(
    monkeypatch: pytest.MonkeyPatch, url: str, patched: str | None, transport: type, messages: type
) -> None:
    if patched is not None:
        monkeypatch.setattr(patched, lambda *about: None)
    sessions = opened(url, 2, True, False)
    sessions.reset([ResetRequest(i, 0, None) for i in range(2)])
    answers(sessions)
    sessions.step_columns(apart([sessions.wire.encode_action({"add": 1})] * 2))
    connection, loan = sessions._connection, sessions._loan
    assert connection is not None
    assert loan is not None
    assert type(connection._transport) is transport
    assert type(loan.messages) is messages
    assert [type(part) for part in sessions.take_columns(2)] == [AnswerColumns]
    sessions.close()


@pytest.mark.parametrize("when", ["asking", "receiving"])
def test_an_interrupt_in_the_middle_of_a_message_loses_nothing(url: str, when: str) -> None:
    sessions = opened(url, 3, True, False)
    encode = sessions.wire.encode_action
    sessions.reset([ResetRequest(i, 0, None) for i in range(3)])
    answers(sessions)
    sessions.step_columns(apart([encode({"add": 1})] * 3))
    answers(sessions)
    loan = sessions._loan
    assert loan is not None
    lent: Any = loan.messages

    class Interrupted:
        wake, end = lent.wake, lent.end

        def send(self, message: bytes) -> None:
            if when == "receiving":
                lent.send(message)
                return
            lent.send(message[: len(message) // 2])
            raise KeyboardInterrupt

        def receive(self, timeout: float, is_due: bool = False) -> Any:
            lent.receive(60)  # and what it gave is lost
            raise KeyboardInterrupt

    loan.messages = Interrupted()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # in one of the two
        sessions.step_columns(apart([encode({"add": 1})] * 3))
        sessions.take(3)
    found = answers(sessions)
    assert [(each[1][2]["total"], each[1][2]["taken"]) for each in found] == [(2, 2)] * 3
    assert sessions.waiting == 0
    assert sessions.reconnects == 1
    sessions.step_columns(apart([encode({"add": 0})] * 3))
    assert [each[1][2]["taken"] for each in answers(sessions)] == [3, 3, 3]
    sessions.close()


@pytest.mark.parametrize("how", ["at once", "what is there"])
def test_answers_that_have_come_are_taken_without_waiting(url: str, how: str) -> None:
    sessions = opened(url, 3, True, False)
    sessions.reset([ResetRequest(i, 0, None) for i in range(3)])
    assert len(answers(sessions)) == 3
    encode = sessions.wire.encode_action
    sessions.step(range(3), [encode({"add": 0})] * 3)
    assert len(answers(sessions)) == 3
    sessions.step(range(3), [encode({"add": 1})] * 3)
    loan = sessions._loan
    assert loan is not None
    assert select.select([loan.messages._fd], [], [], 60)[0]  # type: ignore[attr-defined]  # a socket's
    taken = sessions.take(0) if how == "what is there" else sessions.take(1, timeout=1e-9)
    assert sorted(answer.slot for answer in taken) == [0, 1, 2]
    assert sessions._loan is loan
    with pytest.raises(SessionBusy):
        sessions.take(1)
    sessions.close()


def test_a_forked_child_leaves_the_loan_to_its_parent(url: str) -> None:
    sessions = opened(url, 2, True, False)
    encode = sessions.wire.encode_action
    sessions.reset([ResetRequest(i, 0, None) for i in range(2)])
    answers(sessions)
    step = apart([encode({"add": 1})] * 2)
    sessions.step_columns(step)
    child = os.fork()
    if not child:
        with contextlib.suppress(EpisodeNotStarted):
            sessions.step_columns(step)
            os._exit(1)
        sessions.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [each[1][2]["taken"] for each in answers(sessions)] == [1, 1]
    assert sessions._loan is not None
    assert not sessions._loan.ended
    sessions.close()


def test_another_thread_may_close_what_is_lent(url: str) -> None:
    sessions = opened(url, 2, True, False)
    encode = sessions.wire.encode_action
    sessions.reset([ResetRequest(i, 0, None) for i in range(2)])
    answers(sessions)
    sessions.step_columns(apart([encode({"add": 1})] * 2))
    answers(sessions)
    loan = sessions._loan
    assert loan is not None
    assert [loan.ended] == [False]
    thread = threading.Thread(target=sessions.close)
    thread.start()
    thread.join(60)
    assert [loan.ended] == [True]
    with pytest.raises(SessionClosed, match="make new ones"):
        sessions.open()


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (apart([b"\x01"] * 2), "too few"),
        (apart([b"\x01"] * 4), "too many"),
        (b"\x92\x00\xc1", "malformed"),
        (b"", "empty"),
    ],
)
def test_a_column_that_does_not_fit_is_an_error_of_its_rows(
    url: str, column: bytes, what: str
) -> None:
    sessions = opened(url, 3, True, False)
    encode = sessions.wire.encode_action
    sessions.reset([ResetRequest(i, 0, None) for i in range(3)])
    answers(sessions)
    sessions.step_columns(column)
    found = answers(sessions)
    assert [each[1] for each in found] == [None] * 3
    assert all(each[3] is not None for each in found)
    sessions.reset([ResetRequest(i, 0, None) for i in range(3)])
    answers(sessions)
    sessions.step_columns(apart([encode({"add": 1})] * 3))
    assert [each[1][2]["total"] for each in answers(sessions)] == [1, 1, 1]
    sessions.close()


def test_a_batch_is_one_frame_each_way_in_the_calling_thread(url: str) -> None:
    sessions = opened(url, 4, True, False)
    encode = sessions.wire.encode_action
    sessions.reset([ResetRequest(i, 0, None) for i in range(4)])
    answers(sessions)
    sessions.step_columns(apart([encode({"add": 1})] * 4))
    loan = sessions._loan
    assert loan is not None
    sent: list[bytes] = []
    lent: Any = loan.messages

    class Watched:
        receive, wake, end = lent.receive, lent.wake, lent.end

        def send(self, message: bytes) -> None:
            sent.append(message)
            lent.send(message)

    loan.messages = Watched()
    for _ in range(3):
        parts = sessions.take_columns(4)
        assert sum(len(p) if isinstance(p, AnswerColumns) else 1 for p in parts) == 4
        sessions.step_columns(apart([encode({"add": 1})] * 4))
    assert [len(answers(sessions)), len(sent)] == [4, 3]
    assert (sessions._loan is loan, loan.ended) == (True, False)
    sessions.close()
