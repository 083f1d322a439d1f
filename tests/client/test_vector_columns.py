"""Rows of a vector in column frames: the same answers as one by one, failures and cuts too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from openenv_async import Environment, StepResult
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.vector import Answer, ResetRequest, VectorSessions
from openenv_async.client.vector_columns import AnswerColumns
from openenv_async.errors import InvalidAction, OpenEnvError
from openenv_async.protocol.columns import apart
from tests.integrations.serving import served

Dict = dict[str, Any]


class Walk(Environment[Dict, Dict, Dict]):
    """Ends at 5 and is truncated at -5; a 9 fails, 8 is refused, 7 has no reward, an even sum has
    an info.

    Each observation tells the number of steps of its session: one taken twice would show.
    """

    isolation = "inline"

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
        return (
            *(type(reply).__name__, reply.seq, wire.decode_observation(reply.payload)),
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
