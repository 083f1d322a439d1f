"""The subject of a check: the actions that it draws, and the errors that it expects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async.checks.conformance import NativeTransport, Subject, UpstreamTransport
from openenv_async.checks.registry import CheckFailed, Skipped
from openenv_async.errors import EpisodeEnded, InvalidAction

NATIVE = NativeTransport("http://127.0.0.1:9")
SCHEMA = {"action": {"type": "integer", "minimum": 0, "maximum": 10**9}}


def drawn(subject: Subject, count: int = 5) -> list[Any]:
    return [subject.action() for _ in range(count)]


def test_actions_are_drawn_from_the_seed() -> None:
    first, other = (Subject(NATIVE, False, SCHEMA, None, seed) for seed in (1, 2))
    again = Subject(NATIVE, False, SCHEMA, None, 1)
    actions = drawn(first)
    assert actions == drawn(again) != drawn(other)
    assert len(set(actions)) > 1
    first.reseed(1)
    assert drawn(first) == actions


def test_given_actions_are_chosen_from() -> None:
    subject = Subject(NATIVE, False, SCHEMA, ["left", "right"], 0)
    assert set(drawn(subject, 50)) == {"left", "right"}


def test_the_conformance_environment_needs_neither() -> None:
    assert Subject(NATIVE, True, None, None, 0).action()["command"] == "echo"


def test_without_a_schema_there_is_no_action() -> None:
    with pytest.raises(Skipped, match="no action schema"):
        Subject(NATIVE, False, None, None, 0).action()


def test_plain_json_carries_arrays_as_lists() -> None:
    np = pytest.importorskip("numpy")
    schema = {"action": {"x-ndarray": {"dtype": "<f4", "shape": [2]}}}
    assert isinstance(Subject(NATIVE, False, schema, None, 0).action(), np.ndarray)
    upstream = UpstreamTransport("http://127.0.0.1:9")
    assert isinstance(Subject(upstream, False, schema, None, 0).action(), list)


class Refusing:
    """A session that refuses its first actions."""

    def __init__(self, refusals: int, error: Exception | None = None) -> None:
        self.refusals = refusals
        self.error = error or InvalidAction("not now")

    async def step(self, action: Any) -> str:
        self.refusals -= 1
        if self.refusals >= 0:
            raise self.error
        return "taken"


async def test_refused_actions_are_left_out() -> None:
    subject = Subject(NATIVE, False, SCHEMA, None, 0)
    assert await subject.step(Refusing(19)) == "taken"
    with pytest.raises(Skipped, match="not now"):
        await subject.step(Refusing(20))


async def test_another_error_is_not_left_out() -> None:
    subject = Subject(NATIVE, False, SCHEMA, None, 0)
    with pytest.raises(EpisodeEnded):
        await subject.step(Refusing(1, EpisodeEnded("over")))
    with pytest.raises(InvalidAction):  # the conformance environment takes whatever is drawn
        await Subject(NATIVE, True, None, None, 0).step(Refusing(1))


async def raised(error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return "a result"


async def test_an_expected_error_is_returned() -> None:
    subject = Subject(NATIVE, True, None, None, 0)
    error = EpisodeEnded("over")
    assert await subject.expect(EpisodeEnded, raised(error)) is error
    with pytest.raises(CheckFailed, match=r"expected EpisodeEnded \(episode_ended\), got KeyError"):
        await subject.expect(EpisodeEnded, raised(KeyError("field")))
    with pytest.raises(CheckFailed, match="got 'a result'"):
        await subject.expect(EpisodeEnded, raised(None))


@pytest.mark.parametrize("error", [CheckFailed("found"), Skipped("no"), asyncio.CancelledError()])
async def test_a_finding_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        await Subject(NATIVE, True, None, None, 0).expect(EpisodeEnded, raised(error))
