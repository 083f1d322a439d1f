"""Column frames of one connection: they do what their rows would do one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async import EngineOptions, Timeouts
from openenv_async.engine import Engine
from openenv_async.protocol.columns import REWARDED, replies_of
from openenv_async.protocol.frames import (
    Cancel,
    Close,
    ObservationColumns,
    Open,
    Renew,
    State,
)
from tests.engine.odd_rows import (
    BEHAVIOURS,
    GYMNASIUM_RESULTS,
    RESET,
    Odd,
    OddGymnasium,
    Row,
    in_columns,
    in_rows,
    normal,
    told,
)
from tests.helpers import Peer, make_engine, settle, token

SESSIONS = 4
ACTIONS = st.integers(0, len(BEHAVIOURS) - 1)
# Most rows are plain, as most steps are: else hardly any would run with others.
WHAT = st.one_of(st.just(0), st.just(0), ACTIONS, st.just(RESET))
ROW = st.tuples(
    st.integers(1, SESSIONS + 1), WHAT, st.sampled_from([0, 0, 0, 0, 0, -1, 1]), ACTIONS
)
ROWS = st.lists(ROW, min_size=1, max_size=SESSIONS + 1, unique_by=lambda row: row[0])
OPERATION = st.one_of(
    st.tuples(st.just("columns"), ROWS, st.integers(0, 1)),
    st.tuples(st.just("columns"), ROWS, st.integers(0, 1)),
    st.tuples(st.just("all"), st.lists(WHAT, min_size=SESSIONS, max_size=SESSIONS)),
    st.tuples(st.just("rows"), ROWS),
    st.tuples(st.sampled_from(["state", "close", "cancel", "renew"]), st.integers(1, SESSIONS)),
    st.tuples(st.just("again")),
    st.tuples(st.just("move")),
)


class Side:
    """A client of an engine of its own, which says the same as that of another side."""

    def __init__(self, in_columns: bool, env: Any = Odd, **options: Any) -> None:
        self.engine: Engine = make_engine(env, options=EngineOptions(**options))
        self.engine.epoch = "e" * 16
        self.in_columns = in_columns
        self.peer = Peer(self.engine)

    def open(self) -> None:
        self.peer.send(*(Open(n, token(n), token(n + 1000)) for n in range(1, SESSIONS + 1)))

    def ask(self, rows: list[Row], form: int | None) -> None:
        if self.in_columns and form is not None:
            self.peer.send(in_columns(rows, form))
        else:
            self.peer.send(*in_rows(rows))

    def move(self, acks: dict[int, int]) -> None:
        old = self.peer
        self.peer = Peer(self.engine)
        old.connection.lost(left=False)
        self.peer.send(*(Open(n, token(n), token(n + 1000), True, ack) for n, ack in acks.items()))

    def kept(self) -> dict[str, Any]:
        return {
            name: {
                seq: (normal(kept.reply), kept.size, repr(kept.request))
                for seq, kept in session.log.replies.items()
            }
            for name, session in self.engine.sessions.items()
        }

    def facts(self) -> Any:
        runners = {name: s.runner for name, s in self.engine.sessions.items()}
        each = {name: (r.steps, r.phase, r.seed) for name, r in runners.items()}
        logs = {name: (s.log.taken, s.log.passed) for name, s in self.engine.sessions.items()}
        stats = self.engine.stats
        return each, logs, stats.steps, stats.duplicates, stats.errors, stats.bad_frames


async def play(operations: list[tuple[Any, ...]], env: Any = Odd, **options: Any) -> int:
    """Say the same on two sides, once in columns; return how many column frames came back."""
    sides = [Side(True, env, **options), Side(False, env, **options)]
    for side in sides:
        side.open()
    taken = dict.fromkeys(range(1, SESSIONS + 2), 0)
    last: list[Row] = []
    columns = 0

    def numbered(rows: Any) -> list[Row]:
        each = []
        for channel, action, offset, seed in rows:
            seq = max(1, taken[channel] + 1 + offset)
            each.append((channel, seq, action, seed))
            taken[channel] += offset == 0
        return each

    for name, *arguments in [("all", [RESET] * SESSIONS), *operations]:
        form: int | None = 0
        rows: list[Row] = []
        match name:
            case "columns":
                rows, form = numbered(arguments[0]), arguments[1]
            case "all":
                rows = numbered((n, a, 0, 0) for n, a in enumerate(arguments[0], 1))
            case "rows":
                rows, form = numbered(arguments[0]), None
            case "again":
                rows = last
        for side in sides:
            match name:
                case "move":
                    side.move({n: max(0, taken[n] - 1) for n in range(1, SESSIONS + 1)})
                case "state":
                    [channel] = arguments
                    side.peer.send(State(channel, taken[channel] + 1, taken[channel]))
                case "close":
                    [channel] = arguments
                    side.peer.send(Close(channel, taken[channel] + 1, taken[channel]))
                case "cancel":
                    [channel] = arguments
                    side.peer.send(Cancel(channel, taken[channel]))
                case "renew":
                    [channel] = arguments
                    side.peer.send(Renew(channel, taken[channel]))
            if rows:
                side.ask(rows, form)
        if name in ("state", "close"):
            taken[arguments[0]] += 1
        last = rows or last
        await settle()
        first, second = (side.peer.take() for side in sides)
        columns += sum(isinstance(frame, ObservationColumns) for frame in first)
        assert told(first) == told(second)
        assert sides[0].facts() == sides[1].facts()
    assert sides[0].kept() == sides[1].kept()
    for side in sides:
        await side.engine.aclose()
    return columns


@settings(max_examples=60)
@given(operations=st.lists(OPERATION, max_size=8))
def test_columns_do_what_rows_do(operations: list[tuple[Any, ...]]) -> None:
    asyncio.run(play(operations))


@pytest.mark.parametrize("action", [-1, *range(len(GYMNASIUM_RESULTS) + 1)])
async def test_a_gymnasium_environment_does_the_same_in_columns(action: int) -> None:
    plain_step = ("all", [0] * SESSIONS)
    odd = ("all", [0, action if action >= 0 else 2**40, 0, 0])
    begin = ("columns", [(2, RESET, 0, 5), (1, 0, 0, 0)], 0)
    assert await play([plain_step, odd, odd, plain_step, begin, plain_step], OddGymnasium) >= 5


@pytest.mark.parametrize("action", range(len(BEHAVIOURS)))
async def test_each_result_in_columns_is_what_it_is_in_a_row(action: int) -> None:
    plain_step = ("all", [0] * SESSIONS)
    odd_steps = [("all", [*[0] * n, action, *[0] * (SESSIONS - 1 - n)]) for n in range(SESSIONS)]
    begin = ("columns", [(1, RESET, 0, action), (2, 0, 0, 0), (3, RESET, 0, action)], 1)
    everywhere = ("all", [action] * SESSIONS)
    operations = [plain_step, *odd_steps, everywhere, ("again",), begin, ("move",), ("again",)]
    assert await play(operations) >= 4


async def test_a_frame_is_answered_by_one_frame() -> None:
    side = Side(True)
    side.open()
    side.ask([(n, 1, RESET, 0) for n in range(1, 5)], 0)
    side.peer.take()
    side.ask([(n, 2, 0, 0) for n in range(1, 5)], 0)
    [reply] = side.peer.take()
    assert isinstance(reply, ObservationColumns)
    assert reply.flags == bytes([REWARDED] * 4)
    assert [row.seq for row in replies_of(reply)] == [2] * 4
    assert side.engine.stats.steps == 4
    await side.engine.aclose()


async def test_the_deadline_of_episodes_holds_for_rows() -> None:
    assert await play([("all", [0] * SESSIONS)], timeouts=Timeouts(episode=60.0)) == 0
