"""The tight loop over rows, and the column that their observations become."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from openenv_async.engine.requests import Codecs
from openenv_async.engine.rows import BEGINS, RowCall, RowReplies, Stack, Way, run_rows
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.errors import InvalidModel
from openenv_async.models import PayloadCodec
from openenv_async.protocol.columns import APART, BEGUN, FIELDS, REWARDED, STACKED, rows_of
from openenv_async.protocol.frames import Failed, Open, Reset, Step
from openenv_async.spec import EnvironmentSpec
from tests.engine.odd_rows import BEHAVIOURS, Odd
from tests.helpers import pack

ANY: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
PLAIN, RAISES = 0, 36


def gathered(*observations: Any) -> tuple[int, list[Any]]:
    """The form of the column of observations, and what it says, put by every way there is."""
    by_put, stack = Stack(len(observations), ANY.encode), Stack(len(observations), ANY.encode)
    way = Way()
    for place, observation in enumerate(observations):
        by_put.put(place, observation)
        of_kind = type(observation) is way.kind
        if not of_kind or way.store is None or not way.store(place, observation):
            way = stack.put(place, observation)
    assert by_put.column(0, len(observations)) == stack.column(0, len(observations))
    column = stack.column(0, len(observations))
    form = ANY.decode(column)[0]
    return form, [ANY.decode(payload) for payload in rows_of(column, len(observations))]


def array(*values: float, dtype: str = "<f4") -> Any:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("observations", "form"),
    [
        ([1, 2, -3], STACKED),
        ([True, False], STACKED),
        ([1.5, float("inf")], STACKED),
        ([{"a": 1, "b": {"c": 2.0}}, {"a": 2, "b": {"c": 3.0}}], FIELDS),
        ([1, 2.0], APART),
        ([True, 1], APART),
        ([1, 2**63], APART),
        ([{"a": 1}, {"b": 1}], APART),
        ([{"a": 1}, {"a": 1.0}], APART),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], APART),
        (["one", "two"], APART),
        ([None, None], APART),
        ([{}, {}], APART),
        ([[1], [2]], APART),
    ],
)
def test_the_form_of_a_column(observations: list[Any], form: int) -> None:
    found, told = gathered(*observations)
    assert found == form
    assert [repr(each) for each in told] == [repr(each) for each in observations]


@pytest.mark.parametrize(
    ("observations", "form"),
    [
        ([array(1, 2), array(3, 4)], STACKED),
        ([np.zeros((0, 3)), np.zeros((0, 3))], STACKED),
        ([np.ones((2, 2), order="F"), np.arange(4.0).reshape(2, 2).T], STACKED),
        ([array(1, dtype=">i2"), array(2, dtype=">i2")], STACKED),
        ([array(1), array(1, 2)], APART),
        ([array(1), array(1, dtype="<f8")], APART),
        ([np.array(1.0), np.array(2.0)], APART),
        ([np.array(["a"]), np.array(["b"])], APART),
    ],
)
def test_arrays_are_stacked_where_they_are_alike(observations: list[Any], form: int) -> None:
    found, told = gathered(*observations)
    assert found == form
    for was, came in zip(observations, told, strict=True):
        assert was.dtype == came.dtype
        np.testing.assert_array_equal(was, came)


@dataclass
class Seen:
    """An observation with fields."""

    frame: Any
    score: Any


@dataclass(slots=True)
class Slotted(Seen):
    """One without a dict."""


class Plain(msgspec.Struct):
    """A Struct that travels as the map of its fields."""

    frame: Any
    score: Any


class Named(msgspec.Struct, rename="upper"):
    """One whose fields have other names on the wire."""

    frame: Any
    score: Any


class Listed(Plain, array_like=True):
    """One that travels as a list."""


class Tagged(Plain, tag="seen"):
    """One that has more on the wire than its fields."""


class Brief(msgspec.Struct, omit_defaults=True):
    """One that may have less."""

    frame: Any
    score: Any = 0


@dataclass
class Hidden:
    """One with a field that does not travel."""

    frame: Any
    _score: int = 0


@pytest.mark.parametrize(
    ("observations", "form"),
    [
        ([Seen(array(1, 2), 1), Seen(array(3, 4), 2)], FIELDS),
        ([Seen({"deep": array(1)}, 1.5), Seen({"deep": array(3)}, 2.5)], FIELDS),
        ([Seen(array(1), 1), Seen(array(1, 2), 1)], APART),
        ([Seen(array(1), 1), Seen(array(1), "x")], APART),
        ([Seen(array(1), None), Seen(array(1), None)], APART),
        ([Slotted(array(1), 1), Slotted(array(2), 1)], APART),
        ([Seen(array(1), 1), array(1)], APART),
        ([Seen(array(1), n) for n in (1, 2, 2**63)], APART),
        ([Seen(array(1), n) for n in (1, 2, 2.0)], APART),
        ([Seen(array(1), 1), Seen(array(2), 2), Seen(array(3, 4), 1)], APART),
        ([Plain(array(1, 2), 1.5), Plain(array(3, 4), 2.5), Plain(array(5, 6), 3.5)], FIELDS),
        ([Plain(array(1), 1.5), Plain(array(2), 2.5), Plain(array(3), 3)], APART),
        ([Plain(array(1), 1.5), {"frame": array(2), "score": 2.5}], FIELDS),
        ([Named(array(1), 1), Named(array(2), 2)], APART),
        ([Listed(array(1), 1), Listed(array(2), 2)], APART),
        ([Tagged(array(1), 1), Tagged(array(2), 2)], APART),
        ([Brief(array(1), 0), Brief(array(2), 2)], APART),
    ],
)
def test_fields_of_dataclasses_are_stacked_each(observations: list[Any], form: int) -> None:
    found, told = gathered(*observations)
    assert found == form
    expected = [ANY.decode(ANY.encode(each)) for each in observations]
    assert [repr(each) for each in told] == [repr(each) for each in expected]


def test_a_dataclass_that_holds_more_than_its_fields_is_judged_by_the_codec() -> None:
    """The codec refuses to leave anything out; a column must not do so either."""
    extra, unset = Seen(array(1), 1), Seen(array(1), 1)
    extra.more = 1  # type: ignore[attr-defined]  # what is tested
    del unset.score
    for odd in (extra, unset, Hidden(array(1))):
        try:
            alone = ANY.encode(odd)
        except InvalidModel:
            with pytest.raises(InvalidModel):
                Stack(1, ANY.encode).put(0, odd)
            continue
        stack = Stack(1, ANY.encode)
        stack.put(0, odd)
        assert rows_of(stack.column(0, 1), 1) == [alone]


def test_an_array_that_is_used_again_is_not_what_was_put() -> None:
    stack = Stack(2, ANY.encode)
    again = array(1, 2)
    stack.put(0, again)
    again[:] = 0
    stack.put(1, again)
    assert [ANY.decode(p).tolist() for p in rows_of(stack.column(0, 2), 2)] == [[1, 2], [0, 0]]


class Places:
    """Memory for columns, as a connection that shares some has; or none of it."""

    def __init__(self, has_room: bool) -> None:
        self.has_room = has_room
        self.given: list[memoryview] = []
        self.before: list[int] = []

    def __call__(self, size: int, before: int) -> memoryview | None:
        if not self.has_room:
            return None
        self.given.append(memoryview(bytearray(b"?" * size)))
        self.before.append(before)
        return self.given[-1]


LARGE = np.arange(20_000, dtype="<i2").reshape(100, 200)


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("stop", [3, 2])
@pytest.mark.parametrize(
    "observations",
    [
        [LARGE, LARGE + 1, LARGE + 2],
        [Seen(LARGE, 1), Seen(LARGE + 1, 2), Seen(LARGE + 2, 3)],
        [
            {"a": True, "b": {"c": LARGE, "d": 0.5}},
            *[{"a": False, "b": {"c": LARGE, "d": 1.5}}] * 2,
        ],
        [Seen(LARGE, np.zeros((0, 2))), *[Seen(LARGE + 1, np.zeros((0, 2)))] * 2],
    ],
)
def test_a_large_column_is_stacked_where_there_is_memory_for_it(
    observations: list[Any], stop: int, has_room: bool
) -> None:
    places = Places(has_room)
    stack = Stack(3, ANY.encode, place=places)
    plain = Stack(3, ANY.encode)
    for place, observation in enumerate(observations):
        stack.put(place, observation)
        plain.put(place, observation)
    column = stack.column(0, stop)
    assert bytes(column) == bytes(plain.column(0, stop))
    told = [ANY.decode(each) for each in rows_of(column, stop)]
    assert repr(told) == repr([ANY.decode(ANY.encode(each)) for each in observations[:stop]])
    if has_room:
        assert column is places.given[-1]


def test_the_memory_of_a_column_is_told_where_its_first_array_begins() -> None:
    places = Places(True)
    stack = Stack(1, ANY.encode, place=places)
    stack.put(0, Seen(LARGE, 1))
    [before] = places.before
    assert stack.column(0, 1)[before : before + LARGE.nbytes] == LARGE.tobytes()


def test_a_small_column_takes_no_memory_of_the_connection() -> None:
    places = Places(True)
    stack = Stack(1, ANY.encode, place=places)
    stack.put(0, array(1, 2))
    assert rows_of(stack.column(0, 1), 1) == [ANY.encode(array(1, 2))]
    assert not places.given


def test_what_was_put_is_put_again_where_stacking_ends() -> None:
    places = Places(True)
    stack = Stack(3, ANY.encode, place=places)
    stack.put(0, LARGE)
    stack.put(1, LARGE + 1)
    stack.put(2, "no array")
    column = stack.column(0, 3)
    assert ANY.decode(column)[0] == APART
    first, second, third = (ANY.decode(payload) for payload in rows_of(column, 3))
    np.testing.assert_array_equal(first, LARGE)
    np.testing.assert_array_equal(second, LARGE + 1)
    assert third == "no array"


def test_an_observation_that_cannot_be_encoded_costs_only_itself() -> None:
    stack = Stack(3, ANY.encode)
    stack.put(0, array(1))
    with pytest.raises(InvalidModel):
        stack.put(1, object())
    stack.put(1, array(2))
    column = stack.column(0, 2)
    assert ANY.decode(column)[0] == STACKED
    assert [ANY.decode(payload).tolist() for payload in rows_of(column, 2)] == [[1.0], [2.0]]


def runners(count: int) -> tuple[Codecs, list[EnvironmentRunner]]:
    spec = EnvironmentSpec(Odd)
    codecs = Codecs(spec, "msgpack")
    made = [EnvironmentRunner(spec) for _ in range(count)]
    for runner in made:
        runner.handle(Open(1, "", ""), codecs)
        runner.handle(Reset(1, 1, seed=0), codecs)
    return codecs, made


def run(
    codecs: Codecs, made: list[EnvironmentRunner], actions: list[Any], claims: Any
) -> RowReplies:
    def request(row: int) -> Step | Reset:
        action = actions[row]
        return Reset(1, 2, 1, seed=0) if action is BEGINS else Step(1, 2, 1, pack(action))

    calls = [RowCall(runner, *runner.row_step()) for runner in made]
    stack = Stack(len(made), codecs.encode_observation)
    return run_rows(calls, actions, request, codecs, stack, None, claims)


def test_rows_are_answered_together_and_failures_apart() -> None:
    codecs, made = runners(4)
    replies = run(codecs, made, [PLAIN, RAISES, BEGINS, PLAIN], None)
    assert replies.rows == [0, 2, 3]
    assert replies.columns is not None
    assert replies.columns.flags == bytes([REWARDED, BEGUN | REWARDED, REWARDED])
    [(row, failed)] = replies.others
    assert row == 1
    assert isinstance(failed, Failed)
    assert failed.code == "environment_raised"
    assert [runner.steps for runner in made] == [1, 0, 0, 1]


def test_rows_are_claimed_one_by_one() -> None:
    codecs, made = runners(64)
    claims = iter(range(64))
    lock = threading.Lock()

    def claimed() -> Any:
        while True:
            with lock:
                row = next(claims, None)
            if row is None:
                return
            yield row

    found: list[RowReplies] = []

    def work() -> None:
        found.append(run(codecs, made, [PLAIN] * 64, claimed()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row for replies in found for row in replies.rows) == list(range(64))
    for replies in found:
        assert (replies.columns is None) == (not replies.rows)
        if replies.columns is not None:
            assert len(rows_of(replies.columns.payload, len(replies.rows))) == len(replies.rows)
    assert all(runner.steps == 1 for runner in made)


def test_the_behaviour_that_raises_is_the_one_that_is_meant() -> None:
    with pytest.raises(RuntimeError):
        BEHAVIOURS[RAISES](0)
