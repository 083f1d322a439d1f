"""Column frames of one connection: they do what their rows would do one by one."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async import EngineOptions, Environment, Limits, StepResult, Timeouts
from openenv_async.deadlines import Deadlines
from openenv_async.engine import Engine
from openenv_async.engine.interfaces import RowBatch
from openenv_async.engine.rows import RowReplies
from openenv_async.environment import Isolation
from openenv_async.errors import SessionClosed
from openenv_async.models import PayloadCodec
from openenv_async.protocol.codec import BadFrame
from openenv_async.protocol.columns import (
    REWARDED,
    apart,
    fields,
    pack_channels,
    pack_numbers,
    replies_of,
    requests_of,
    stacked,
)
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Chunk,
    Close,
    Failed,
    Observation,
    ObservationColumns,
    Open,
    Opened,
    Renew,
    Reset,
    State,
    Step,
    StepColumns,
)
from openenv_async.protocol.replies import SharedReply
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ManualClock
from tests.engine.odd_rows import (
    BEHAVIOURS,
    GYMNASIUM_RESULTS,
    RESET,
    Odd,
    OddGymnasium,
    OddModels,
    OddSubclass,
    Row,
    in_columns,
    in_rows,
    made_odd,
    normal,
    told,
)
from tests.engine.scripted import ScriptedExecutor
from tests.helpers import Peer, make_engine, pack, settle, token, unpack
from tests.step_calls import PACKAGE

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

    def __init__(
        self, in_columns: bool, env: Any = Odd, field: str | None = None, **options: Any
    ) -> None:
        self.field = field
        self.engine: Engine = make_engine(env, options=EngineOptions(**options))
        self.engine.epoch = "e" * 16
        self.in_columns = in_columns
        self.peer = Peer(self.engine)

    def open(self) -> None:
        self.peer.send(*(Open(n, token(n), token(n + 1000)) for n in range(1, SESSIONS + 1)))

    def ask(self, rows: list[Row], form: int | None) -> None:
        if self.in_columns and form is not None:
            self.peer.send(in_columns(rows, form, self.field))
        else:
            self.peer.send(*in_rows(rows, self.field))

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
    operations = [plain_step, odd, odd, plain_step, begin, plain_step]
    assert await play(operations, OddGymnasium) >= 5
    for env in (OddModels, OddSubclass, made_odd):
        apart = [("columns", [(1, 0, 0, 0), (2, action if action >= 0 else 9, 0, 0)], 1)]
        assert await play([*operations, *apart], env, field="value") >= 5


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
    assert (side.engine.stats.steps, side.engine.stats.column_frames) == (4, 2)
    await side.engine.aclose()


async def test_the_deadline_of_episodes_holds_for_rows() -> None:
    assert await play([("all", [0] * SESSIONS)], timeouts=Timeouts(episode=60.0)) == 0


# -- episodes that follow in the same step --------------------------------------------------------


class Short(Environment[Any, Any, Any]):
    """The action 1 ends an episode, 2 cuts it short; each observation is in the same memory.

    Options of a reset: what it does, where it is not what it should.
    """

    isolation: ClassVar[Isolation | None] = "inline"
    size = 3

    def __init__(self) -> None:
        self.memory = np.zeros(self.size)
        self.episodes = 0

    def reset(self, seed: int | None = None, how: str = "") -> Any:
        if how == "raises":
            raise RuntimeError("no more episodes")
        self.episodes += 1
        self.memory[:] = -self.episodes
        if how == "awaitable":
            return self.later()
        if how == "unfit":
            return StepResult(object())
        return StepResult(self.memory, info={"seed": seed})

    async def later(self) -> Any:
        return self.memory

    def step(self, action: Any) -> Any:
        self.memory[:] = action
        return StepResult(
            self.memory, action + 0.5, action == 1, action == 2, {"was": action} if action else {}
        )

    def state(self) -> Any:
        return self.episodes


class ShortInThreads(Short):
    isolation = "thread"


class Wide(Short):
    size = 4096


async def begun_side(env: Any = Short) -> Side:
    side = Side(True, env)
    side.open()
    await replies(side.peer, SESSIONS)
    side.peer.send(*(Reset(n, 1, 0) for n in range(1, SESSIONS + 1)))
    await replies(side.peer, SESSIONS)
    return side


async def replies(peer: Peer, count: int) -> list[Any]:
    """Wait for so many replies, and return them one by one."""
    found: list[Any] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            await asyncio.sleep(0)
            for frame in peer.take():
                found += replies_of(frame) if isinstance(frame, ObservationColumns) else [frame]
    return sorted(found, key=lambda reply: reply.channel)


def stepped(seq: int, actions: list[int], **how: Any) -> StepColumns:
    channels = pack_channels(range(1, SESSIONS + 1))
    again = pack_numbers([-1, 7, 8, 9])
    return StepColumns(
        channels, pack_numbers([seq]), stacked(np.array(actions)), again=again, **how
    )


def shown(reply: Any) -> Any:
    """A reply as plain data: kind, observation, reward, ends, info, and the end before it."""
    if isinstance(reply, Failed):
        return reply.code
    final = getattr(reply, "final", None)
    info = None if reply.info is None else unpack(reply.info)
    decoded: Any = PayloadCodec(Any, "msgpack").decode(reply.payload)
    each = decoded[0].item(), reply.reward, reply.terminated, reply.truncated
    before = None if final is None else shown(msgspec.msgpack.decode(final, type=Observation))
    return type(reply).__name__, *each, info, before


@pytest.mark.parametrize("env", [Short, ShortInThreads])
async def test_an_episode_that_ends_is_followed_in_the_same_frame(env: Any) -> None:
    side = await begun_side(env)
    side.peer.send(stepped(2, [0, 1, 2, 0]))
    found = await replies(side.peer, SESSIONS)
    plain = ("Observation", 0.0, 0.5, False, False, None, None)
    ended = ("Observation", 1.0, 1.5, True, False, {"was": 1}, None)
    short = ("Observation", 2.0, 2.5, False, True, {"was": 2}, None)
    expected = [
        plain,
        ("Begun", -2.0, None, False, False, {"seed": 7}, ended),
        ("Begun", -2.0, None, False, False, {"seed": 8}, short),
        plain,
    ]
    assert [shown(reply) for reply in found] == expected
    assert [reply.seed for reply in found[1:3]] == [7, 8]
    assert side.engine.stats.steps == SESSIONS
    # Each row asked for again is what it was, in either form, and no environment is called.
    side.peer.send(*(Step(n, 2, 1, pack(a)) for n, a in enumerate([0, 1, 2, 0], 1)))
    assert await replies(side.peer, SESSIONS) == found
    side.peer.send(stepped(2, [0, 1, 2, 0]))
    assert await replies(side.peer, SESSIONS) == found
    side.peer.send(stepped(3, [2, 2, 2, 2]))
    assert [shown(reply)[1] for reply in await replies(side.peer, SESSIONS)] == [-2, -3, -3, -2]
    assert {session.runner.steps for session in side.engine.sessions.values()} == {0}
    assert side.engine.stats.steps == 2 * SESSIONS
    await side.engine.aclose()


@pytest.mark.parametrize("env", [Short, ShortInThreads])
@pytest.mark.parametrize("how", ["raises", "awaitable"])
async def test_an_episode_that_cannot_be_begun_leaves_the_end_of_the_last(
    env: Any, how: str
) -> None:
    side = await begun_side(env)
    side.peer.send(stepped(2, [0, 1, 1, 0], options=pack({"how": how})))
    found = await replies(side.peer, SESSIONS)
    ended = ("Observation", 1.0, 1.5, True, False, {"was": 1}, None)
    assert [shown(reply) for reply in found][1:3] == [ended, ended]
    assert side.engine.stats.errors == {}
    side.peer.send(Reset(2, 3, 2, pack({"how": how})), Reset(3, 3, 2))
    second, third = await replies(side.peer, 2)
    assert shown(second) == "environment_raised" if how == "raises" else second.seq == 3
    assert shown(third)[0] == "Begun"
    await side.engine.aclose()


@pytest.mark.parametrize("env", [Short, ShortInThreads])
async def test_a_beginning_that_cannot_be_sent_costs_its_own_row(env: Any) -> None:
    side = await begun_side(env)
    side.peer.send(stepped(2, [0, 1, 0, 2], options=pack({"how": "unfit"})))
    found = [shown(reply) for reply in await replies(side.peer, SESSIONS)]
    plain = ("Observation", 0.0, 0.5, False, False, None, None)
    assert found == [plain, "invalid_observation", plain, "invalid_observation"]
    side.peer.send(Reset(2, 3, 2), Reset(4, 3, 2))
    assert [shown(reply)[0] for reply in await replies(side.peer, 2)] == ["Begun", "Begun"]
    side.peer.send(stepped(4, [0, 0, 0, 0]))
    first, second, *_ = await replies(side.peer, SESSIONS)
    assert isinstance(first, Failed)  # it leaves out a number
    assert shown(second) == plain
    await side.engine.aclose()


async def test_a_large_end_is_followed_when_that_is_asked() -> None:
    side = await begun_side(Wide)
    side.peer.send(stepped(2, [1, 0, 0, 2]))
    found = await replies(side.peer, SESSIONS)
    assert [shown(reply)[0] for reply in found] == ["Observation"] * SESSIONS
    assert [reply.terminated or reply.truncated for reply in found] == [True, False, False, True]
    await side.engine.aclose()


async def test_the_end_of_an_episode_is_one_where_nothing_is_to_follow() -> None:
    side = await begun_side()
    side.peer.send(msgspec.structs.replace(stepped(2, [1, 2, 0, 0]), again=None))
    found = [shown(reply) for reply in await replies(side.peer, SESSIONS)]
    assert [each[0] for each in found] == ["Observation"] * SESSIONS
    side.peer.send(Step(1, 3, 2, pack(0)))
    assert shown((await replies(side.peer, 1))[0]) == "episode_ended"
    await side.engine.aclose()


# -- frames of any content ------------------------------------------------------------------------


@dataclass
class Move:
    to: int
    fast: bool = False


@dataclass
class Place:
    at: int
    done: bool = False
    reward: float | None = None


class Walk(Environment[Move, Place, Any]):
    """Declared models: their fields are read one row at a time."""

    isolation = "inline"
    owns_thread = True

    def reset(self) -> Place:
        return Place(0)

    def step(self, action: Move) -> Place:
        assert type(action.to) is int
        return Place(action.to, action.to > 2, 0.5 if action.fast else None)


class Turn(msgspec.Struct):
    to: float
    fast: bool = False


class Turned(msgspec.Struct):
    at: float
    kind: bool


class Wind(Environment[Turn, Turned, Any]):
    """The same as Structs, with a field of float that takes integers too."""

    isolation = "inline"
    owns_thread = True

    def reset(self) -> Turned:
        return Turned(0.0, False)

    def step(self, action: Turn) -> Turned:
        assert type(action.to) is float
        return Turned(action.to, action.fast)


@dataclass
class Any1:
    to: Any

    def __init__(self) -> None:
        raise AssertionError("what is decoded is not built")


class Look(Environment[Any1, Any, Any]):
    """The observation is the value of the one field, with its type."""

    isolation = "inline"
    owns_thread = True

    def reset(self) -> Any:
        return 0

    def step(self, action: Any1) -> Any:
        return {"kind": type(action.to).__name__, "is": repr(action.to)}


@dataclass
class Checked:
    to: int
    fast: bool = False

    def __post_init__(self) -> None:
        if self.to == 3:
            raise ValueError("3 is not a place")


class Check(Environment[Checked, Place, Any]):
    isolation = "inline"
    owns_thread = True

    def reset(self) -> Place:
        return Place(0)

    def step(self, action: Checked) -> Place:
        return Place(action.to, action.to > 2, 0.5 if action.fast else None)


class Count(Environment[int, int, Any]):
    isolation = "inline"
    owns_thread = True

    def reset(self) -> int:
        return 0

    def step(self, action: int) -> int:
        assert type(action) is int
        return action + 1

    def legal_actions(self) -> list[int]:
        return [0, 1]


class Free(Environment[Any, Any, Any]):
    """The observation is the action, with its type."""

    isolation = "inline"
    owns_thread = True

    def reset(self) -> Any:
        return 0

    def step(self, action: Any) -> Any:
        return {"kind": type(action).__name__, "is": repr(action)}


def fields_of(**columns: Any) -> bytes:
    return fields({name: stacked(np.array(column)) for name, column in columns.items()})


@pytest.mark.parametrize("env", [Walk, Wind, Look, Check, Count, Free])
@pytest.mark.parametrize(
    "column",
    [
        stacked(np.array([1, 2, 3, 4])),
        stacked(np.array([1.0, 2.0, 3.5, np.nan])),
        stacked(np.array([True, False, True, True])),
        stacked(np.arange(8, dtype=np.uint8).reshape(4, 2)),
        stacked(np.array([[1], [2], [3], [4]])),
        stacked(np.array(["a", "b", "c", "d"])),
        fields_of(to=[1, 2, 3, 4]),
        fields_of(to=[1, 2, 3, 4], fast=[True, False, True, False]),
        fields_of(to=[1.5, 2.0, 3.0, 4.0]),
        fields_of(to=[True, False, True, True], fast=[True, False, True, False]),
        fields_of(to=[1.5, 2.0, 3.0, 4.0], fast=[True, False, True, False]),
        fields_of(to=[[1.5], [2.0], [3.0], [4.0]], fast=[True, False, True, False]),
        fields_of(fast=[True, False, True, False], to=[1, 2, 3, 2**40]),
        fields_of(to=[1, 2, 3, 4], fast=[True, False, True, False], more=[1, 2, 3, 4]),
        fields_of(to=[1, 2, 3], fast=[True, False, True]),
        fields({"to": fields_of(to=[1, 2, 3, 4])}),
        fields_of(nothing=[1, 2, 3, 4]),
        apart([pack({"to": 1}), pack(2), pack("x"), b"\xc1"]),
        apart([pack({"to": n}) for n in range(4)]),
        apart([pack(n) for n in range(3)]),
        stacked(np.array([1, 2, 3])),
        stacked(np.array(7)),
        pack([5, 5]),
        pack(5),
        b"",
        b"\xc1",
        b"\x92\x02",
    ],
    ids=range(27),
)
async def test_any_column_of_actions_is_read_as_row_by_row(env: Any, column: bytes) -> None:
    sides = [Side(True, env), Side(False, env)]
    for side in sides:
        side.open()
        side.peer.send(*(Reset(n, 1, seed=0) for n in range(1, 5)))
    frame = StepColumns(pack_channels([1, 2, 3, 4]), pack_numbers([2]), column)
    sides[0].peer.send(frame)
    rows = list(requests_of(frame, 4))
    for row in rows:
        if isinstance(row, BadFrame):
            sides[1].peer.connection._on_bad(row)
            sides[1].peer.collect()
        else:
            sides[1].peer.send(row)
    await settle()
    first, second = (told(side.peer.take()) for side in sides)
    assert first == second
    bad = sum(isinstance(row, BadFrame) for row in rows)
    assert sides[0].engine.stats.bad_frames == min(bad, 1)
    assert sides[0].kept() == sides[1].kept()
    for side in sides:
        side.peer.send(*(Step(n, 2 if bad else 3, 1, pack(1)) for n in range(1, 5)))
    assert told(sides[0].peer.take()) == told(sides[1].peer.take())
    for side in sides:
        await side.engine.aclose()


@pytest.mark.parametrize(
    "frame",
    [
        StepColumns(b"", pack_numbers([2]), stacked(np.array([1]))),
        StepColumns(b"\x01" * 7, pack_numbers([2]), stacked(np.array([1]))),
        StepColumns(pack_channels([1, 2]), b"", stacked(np.array([1, 2]))),
        StepColumns(pack_channels([1, 2]), b"1" * 24, stacked(np.array([1, 2]))),
        StepColumns(b"\x01\0\0\0\xff\xff\xff\xff", pack_numbers([2]), stacked(np.array([1]))),
    ],
)
async def test_a_frame_of_no_known_sessions_is_refused_as_a_whole(frame: StepColumns) -> None:
    side = Side(True)
    side.open()
    side.peer.take()
    side.peer.send(frame, Reset(1, 1, seed=0))
    failed, begun = side.peer.take()
    assert (failed.channel, failed.code) == (0, "protocol_error")
    assert isinstance(begun, Begun)
    await side.engine.aclose()


@pytest.mark.parametrize(
    "changes",
    [
        {"resets": b"\0"},
        {"resets": bytes([1, 0, 0, 0]), "seeds": b"12345678" * 2},
        {"resets": bytes([1, 0, 0, 0])},
    ],
)
async def test_a_frame_that_contradicts_itself_is_refused_row_by_row(changes: Any) -> None:
    side = Side(True)
    side.open()
    side.ask([(n, 1, RESET, 0) for n in range(1, 5)], 0)
    side.peer.take()
    channels = pack_channels([1, 2, 3, 4])
    side.peer.send(
        StepColumns(channels, pack_numbers([2]), stacked(np.array([0, 0, 0, 0])), **changes)
    )
    rows = side.peer.take()
    assert {(row.channel, row.seq, row.code) for row in rows} == {
        (n, 2, "protocol_error") for n in range(1, 5)
    }
    assert side.engine.stats.bad_frames == 1
    side.ask([(n, 2, 0, 0) for n in range(1, 5)], 0)  # the numbers may be used again
    [reply] = side.peer.take()
    assert isinstance(reply, ObservationColumns)
    await side.engine.aclose()


async def test_a_column_with_too_many_containers_is_refused_row_by_row() -> None:
    side = Side(True, Free, limits=Limits(max_containers=1000))
    side.open()
    side.peer.send(*(Reset(n, 1, seed=0) for n in range(1, 5)))
    side.peer.take()
    many = pack([[]] * 2000)
    side.peer.send(
        StepColumns(pack_channels([1, 2]), pack_numbers([2]), apart([many, pack(1)])),
        StepColumns(pack_channels([3, 4]), pack_numbers([2]), pack([1, {"a": [[]] * 2000}])),
    )
    rows = {row["channel"]: row for row in told(side.peer.take())}
    assert {channel for channel, row in rows.items() if row["kind"] == "Failed"} == {"1", "3", "4"}
    assert all("containers" in rows[channel]["message"] for channel in "134")
    await side.engine.aclose()


async def test_pieces_of_channel_0_are_of_a_column_frame() -> None:
    side = Side(True)
    side.open()
    side.ask([(n, 1, RESET, 0) for n in range(1, 5)], 0)
    side.peer.take()
    frame = in_columns([(n, 2, 0, 0) for n in range(1, 5)])
    payload, frame.payload = bytes(frame.payload), b""
    side.peer.send(Chunk(0, 0, payload[:9]), Chunk(0, 0, payload[9:]), frame)
    [reply] = side.peer.take()
    assert isinstance(reply, ObservationColumns)
    side.peer.send(frame)  # without the pieces
    assert [failed.code for failed in side.peer.take()] == ["protocol_error"] * 4
    await side.engine.aclose()


# -- sizes ----------------------------------------------------------------------------------------


class Picture(Environment[Any, Any, Any]):
    isolation = "inline"
    owns_thread = True

    def __init__(self) -> None:
        self.picture = np.zeros((84, 84, 4), np.uint8)

    def reset(self) -> Any:
        return self.picture

    def step(self, action: Any) -> Any:
        self.picture += 1
        return StepResult(self.picture, 1.0, info={"action": action})


async def seen(side: Side, count: int, seq: int) -> list[Any]:
    """The replies to a step of every session, each frame within what the client takes."""
    frame = StepColumns(pack_channels(range(1, count + 1)), pack_numbers([seq]), APART_ZEROS[count])
    side.peer.send(frame)
    frames = side.peer.take()
    replies = [
        reply
        for frame in frames
        for reply in (replies_of(frame) if isinstance(frame, ObservationColumns) else [frame])
    ]
    assert sorted(reply.channel for reply in replies) == list(range(1, count + 1))
    assert all(isinstance(reply, Observation) and reply.seq == seq for reply in replies)
    return frames


APART_ZEROS = {count: apart([pack(0)] * count) for count in (8, 40, 64)}


@pytest.mark.parametrize("max_message_size", [1 << 30, 200_000, 40_000])
async def test_large_replies_come_in_frames_that_the_client_takes(max_message_size: int) -> None:
    engine = make_engine(Picture)
    side = Side.__new__(Side)
    side.engine, side.peer = engine, Peer(engine, max_message_size=max_message_size)
    count = 64
    side.peer.send(*(Open(n, token(n), token(n)) for n in range(1, count + 1)))
    side.peer.send(*(Reset(n, 1) for n in range(1, count + 1)))
    side.peer.take()
    for seq in range(2, 6):
        frames = await seen(side, count, seq)
        sizes = [len(side.peer.codec.encode([frame])) for frame in frames]
        assert max(sizes) <= min(max_message_size, engine.options.limits.chunk_size)
        for frame in frames:
            for reply in replies_of(frame) if isinstance(frame, ObservationColumns) else [frame]:
                assert PayloadCodec(Any, "msgpack").decode(reply.payload)[5, 5, 0] == seq - 1
    assert len(frames) == {1 << 30: 2, 200_000: 12, 40_000: 64}[max_message_size]
    await engine.aclose()


async def test_a_row_that_the_client_cannot_take_fails_alone() -> None:
    engine = make_engine(Picture)
    peer = Peer(engine, max_message_size=20_000)
    peer.send(Open(1, token(1), token(1)), Open(2, token(2), token(2)))
    peer.send(Reset(1, 1), Reset(2, 1))
    peer.take()
    peer.send(StepColumns(pack_channels([1, 2]), pack_numbers([2]), apart([pack(0)] * 2)))
    assert {(f.channel, f.seq, f.code) for f in peer.take()} == {
        (1, 2, "payload_too_large"),
        (2, 2, "payload_too_large"),
    }
    await engine.aclose()


async def test_a_long_frame_is_handled_in_parts() -> None:
    engine = make_engine(Odd)
    peer = Peer(engine)
    count = 40
    peer.send(*(Open(n, token(n), token(n)) for n in range(1, count + 1)))
    peer.take()
    connection = peer.connection
    rows = [(n, 1, RESET, 0) for n in range(1, count + 1)]
    frames = connection.decode(peer.codec.encode([in_columns(rows), Renew(1)]))
    assert connection.handle(frames, 0, 2) == 0
    assert len(connection.ready) == 1  # of the first part
    taker = Peer(engine)
    taker.send(Open(40, token(40), token(40), True))  # another connection takes a session over
    assert [type(frame) for frame in taker.take()] == [Opened]
    while (at := connection.handle(frames, 0, 2)) == 0:
        pass
    assert at == 2
    peer.collect()
    failed = [frame for frame in peer.take() if isinstance(frame, Failed)]
    assert [(f.channel, f.code) for f in failed] == [
        (40, "session_lost"),
        (40, "session_not_found"),
    ]
    assert engine.sessions[token(40)].log.taken == 0
    assert engine.sessions[token(39)].log.taken == 1
    await engine.aclose()


async def test_few_replies_are_kept_whole() -> None:
    engine = make_engine(Picture)
    side = Side.__new__(Side)
    side.engine, side.peer = engine, Peer(engine)
    count = 40
    side.peer.send(*(Open(n, token(n), token(n)) for n in range(1, count + 1)))
    side.peer.send(*(Reset(n, 1) for n in range(1, count + 1)))
    side.peer.take()
    # In each round one session more stays behind, with its part of a reply to all the others.
    for left in range(1, 20):
        rows = range(left, count + 1)
        seq = 2 * left
        column = apart([pack(0)] * len(rows))
        side.peer.send(StepColumns(pack_channels(rows), pack_numbers([seq]), column))
        side.peer.send(*(Step(n, seq + 1, seq, pack(0)) for n in rows[1:]))
        side.peer.take()
    lasts = [session.log._last for session in engine.sessions.values()]
    assert sum(isinstance(last, SharedReply) for last in lasts) <= 8
    assert all(session.log.get(session.log.taken) for session in engine.sessions.values())
    await engine.aclose()


async def test_rows_that_are_reset_alone_leave_a_reply_whole() -> None:
    engine = make_engine(Picture)
    peer = Peer(engine)
    count = 12
    rows = range(1, count + 1)
    peer.send(*(Open(n, token(n), token(n)) for n in rows))
    peer.send(in_columns([(n, 1, RESET, 0) for n in rows]))
    peer.send(StepColumns(pack_channels(rows), pack_numbers([2]), apart([pack(0)] * count)))
    peer.take()
    columns = peer.connection._columns
    assert columns is not None
    logs = [engine.sessions[token(n)].log for n in rows]
    (together,) = {log._last for log in logs}
    assert isinstance(together, SharedReply)
    seqs = [2] * count
    for at in (3, 7):  # each in a frame of its own
        peer.send(in_columns([(at + 1, 3, RESET, 0)]))
        seqs[at] = 3
        assert {log._last for log, seq in zip(logs, seqs, strict=True) if seq == 2} == {together}
    assert list(columns._left) == [together]
    kept = logs[0].get(2)
    assert kept is not None
    assert type(kept.reply) is Observation
    assert kept.reply.channel == 1
    peer.take()
    numbers = pack_numbers([seq + 1 for seq in seqs])
    peer.send(StepColumns(pack_channels(rows), numbers, apart([pack(0)] * count)))
    (after,) = {log._last for log in logs}
    assert after is not together
    # Nothing is kept that no session needs; the session that was asked still counts for it.
    assert list(columns._whole) == [after]
    assert list(columns._left) == [together]
    assert together.left == 1  # type: ignore[attr-defined]  # an answer
    await engine.aclose()


# -- rows that an executor runs -------------------------------------------------------------------


class RowsExecutor(ScriptedExecutor):
    """Keep batches, and single requests, until the test answers them."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[RowBatch] = []

    def start_rows(self, batch: RowBatch) -> None:
        self.batches.append(batch)


@dataclass
class Elsewhere:
    """Sessions whose rows an executor runs."""

    executor: RowsExecutor
    engine: Engine
    peer: Peer
    clock: ManualClock

    @classmethod
    def make(cls, **changes: Any) -> Elsewhere:
        executor, clock = RowsExecutor(), ManualClock()
        engine = Engine(
            EnvironmentSpec(Odd), EngineOptions(**changes), make_executor=lambda _: executor
        )
        engine._start()
        engine.clock = clock
        engine._deadlines = Deadlines(clock, clock.call_at)
        made = cls(executor, engine, Peer(engine), clock)
        made.peer.send(*(Open(n, token(n), token(n + 1000)) for n in range(1, SESSIONS + 1)))
        for call, request in list(executor.running.items()):
            made.executor.running.pop(call)
            call.complete(request, Opened(request.channel))
        made.peer.take()
        return made

    def ask(self, seq: int, timeout: float | None = None) -> RowBatch:
        frame = in_columns([(n, seq, n, 0) for n in range(1, SESSIONS + 1)])
        frame.timeout = timeout
        self.peer.send(frame)
        return self.executor.batches.pop()

    def answer(self, batch: RowBatch, rows: list[int]) -> None:
        batch.complete(RowReplies(rows, self.replies(rows)))

    def replies(self, rows: list[int]) -> ObservationColumns:
        observations = stacked(np.array(rows, np.int64))
        count = len(rows)
        return ObservationColumns(b"", b"", observations, bytes(8 * count), bytes([4] * count))

    async def aclose(self) -> None:
        for session in list(self.engine.sessions.values()):
            session.finish(None, SessionClosed("over"))
        await self.engine.aclose()


async def test_an_executor_is_given_the_rows_of_a_frame() -> None:
    there = Elsewhere.make()
    batch = there.ask(1)
    assert [request.seq for request in batch.requests] == [1] * SESSIONS
    assert [unpack(request.payload) for request in batch.requests] == [1, 2, 3, 4]
    assert list(batch.places) == [0, 1, 2, 3]
    assert batch.count == SESSIONS
    assert [call.current for call in batch.calls] == list(batch.requests)
    there.answer(batch, [2, 0])
    [first] = there.peer.take()
    assert [(r.channel, r.seq, unpack(r.payload)) for r in replies_of(first)] == [
        (3, 1, 2),
        (1, 1, 0),
    ]
    there.answer(batch, [1, 3])
    there.answer(batch, [0, 1, 2, 3])  # too late: they are answered
    [second] = there.peer.take()
    assert [r.channel for r in replies_of(second)] == [2, 4]
    assert there.engine.stats.steps == SESSIONS
    there.peer.send(*in_rows([(n, 1, n, 0) for n in range(1, 5)]))  # sent again, in rows
    assert [(r.channel, unpack(r.payload)) for r in there.peer.take()] == [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
    ]
    await there.aclose()


async def test_a_row_of_a_batch_is_cancelled_and_the_others_are_not() -> None:
    there = Elsewhere.make()
    batch = there.ask(1)
    there.peer.send(Cancel(2, 1))
    assert there.executor.interrupted == [batch.calls[1]]
    there.answer(batch, [0, 2, 3])
    batch.complete(RowReplies(others=[(1, batch.calls[1].interruption(batch.requests[1]))]))
    together, cancelled = there.peer.take()
    assert [r.channel for r in replies_of(together)] == [1, 3, 4]
    assert (cancelled.channel, cancelled.code) == (2, "cancelled")
    await there.aclose()


async def test_a_row_that_was_cancelled_and_came_all_the_same_is_answered() -> None:
    there = Elsewhere.make()
    batch = there.ask(1)
    there.peer.send(Cancel(2, 1))
    there.answer(batch, [0, 1, 2, 3])
    alone, together = there.peer.take()
    assert (alone.channel, unpack(alone.payload)) == (2, 1)
    assert [r.channel for r in replies_of(together)] == [1, 3, 4]
    await there.aclose()


async def test_a_batch_has_a_deadline_and_its_rows_end_one_by_one() -> None:
    there = Elsewhere.make()
    there.executor.can_interrupt = False
    batch = there.ask(1, timeout=5.0)
    there.answer(batch, [0, 1, 2])
    there.peer.take()
    there.clock.advance(6.0)
    there.clock.advance(1.0)  # a look that comes late is postponed once
    assert there.executor.abandoned == [batch.calls[3]]
    there.peer.collect()
    late = there.peer.take()[0]
    assert (late.channel, late.code) == (4, "deadline_exceeded")
    there.answer(batch, [3])
    assert there.peer.take() == []
    await there.aclose()


async def test_rows_whose_client_is_away_are_kept_for_it() -> None:
    there = Elsewhere.make()
    batch = there.ask(1)
    there.peer.connection.lost(left=False)
    there.answer(batch, [0, 1, 2, 3])
    peer = Peer(there.engine)
    peer.send(*(Open(n, token(n), token(n + 1000), True) for n in range(1, 5)))
    assert [opened.seq for opened in peer.take()] == [1] * 4
    peer.send(in_columns([(n, 1, n, 0) for n in range(1, 5)]))
    assert [(r.channel, unpack(r.payload)) for r in peer.take()] == [(1, 0), (2, 1), (3, 2), (4, 3)]
    await there.aclose()


async def test_a_busy_session_is_refused_and_its_neighbours_run() -> None:
    there = Elsewhere.make()
    there.peer.step(1, 0, channel=2)
    frame = in_columns([(n, 1 + (n == 2), n, 0) for n in range(1, 5)])
    there.peer.send(frame)
    [batch] = there.executor.batches
    assert list(batch.places) == [0, 2, 3]
    [refused] = there.peer.take()
    assert (refused.channel, refused.seq, refused.code) == (2, 2, "session_busy")
    there.answer(batch, [0, 1, 2])
    [together] = there.peer.take()
    assert [(r.channel, r.seq) for r in replies_of(together)] == [(1, 1), (3, 1), (4, 1)]
    await there.aclose()


async def test_a_batch_can_be_run_where_it_stands() -> None:
    there = Elsewhere.make()
    batch = there.ask(1)
    for call in batch.calls:
        call.runner.handle(Open(1, "", ""), batch.codecs)
        call.runner.handle(Reset(1, 1, seed=0), batch.codecs)
    batch.complete(batch.run(iter([3, 1])))
    batch.complete(batch.run(iter([0, 2])))
    frames = there.peer.take()
    assert [[r.channel for r in replies_of(frame)] for frame in frames] == [[4, 2], [1, 3]]
    await there.aclose()


# -- cost -----------------------------------------------------------------------------------------


class Still(Environment[Any, Any, Any]):
    isolation = "inline"
    owns_thread = True

    def __init__(self) -> None:
        self.result = StepResult(np.zeros(4, np.float32), 1.0)

    def reset(self) -> Any:
        return self.result

    def step(self, action: Any) -> Any:
        return self.result


async def calls_of(count: int) -> int:
    """Calls of the package's own functions for a frame that steps so many sessions."""
    engine = make_engine(Still)
    peer = Peer(engine)
    channels = range(1, count + 1)
    peer.send(*(Open(n, token(n), token(n)) for n in channels))
    await replies(peer, count)  # on a busy machine a constructor may run in a thread
    peer.send(*(Reset(n, 1) for n in channels))
    for seq in range(2, 10):
        column = stacked(np.zeros(count, np.int64))
        frame = StepColumns(pack_channels(channels), pack_numbers([seq]), column)
        message = peer.codec.encode([frame])
        profile = cProfile.Profile()
        profile.enable()
        peer.connection.receive(message)
        profile.disable()
        peer.collect()
    await engine.aclose()
    stats: Any = pstats.Stats(profile)
    return sum(times for (path, *_), (_, times, *_) in stats.stats.items() if PACKAGE in path)


async def test_a_row_costs_hardly_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows that take long on a busy machine would make more parts of a frame.
    monkeypatch.setattr("openenv_async.engine.columns._LONG", 60.0)
    few, many = await calls_of(64), await calls_of(192)
    a_row = (many - few) / 128
    assert 0.5 <= a_row <= 1.5  # the reader of its result
    assert few - 64 * a_row <= 60
