"""Legal actions, of environments that tell them: in every info, over every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from openenv_async import Environment, GenericEnvClient, StepResult, serve
from openenv_async.checks.transports import network_transports
from openenv_async.engine.requests import Codecs
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.environment import read_contract
from openenv_async.errors import EnvironmentRaised, InvalidAction, InvalidObservation
from openenv_async.protocol.frames import Open
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.served import connect
from tests.helpers import token


@dataclass
class Take:
    """An action: how many to take."""

    count: int


@dataclass
class Heap:
    """An observation."""

    left: int


class Nim(Environment[Take, Heap, Any]):
    """A heap of seven, of which one to three are taken."""

    isolation: ClassVar[Any] = "inline"

    def reset(self) -> Heap:
        self.left = 7
        return Heap(7)

    def legal_actions(self) -> list[Take]:
        return [Take(count) for count in range(1, min(3, self.left) + 1)]

    def step(self, action: Take) -> StepResult[Heap]:
        if action not in self.legal_actions():
            raise InvalidAction(f"{action.count} cannot be taken")
        self.left -= action.count
        return StepResult(Heap(self.left), 1.0, self.left == 0)


class InThreads(Nim):
    isolation = "thread"


class InProcesses(Nim):
    isolation = "process"


class Async(Nim):
    isolation = None

    async def step(self, action: Take) -> StepResult[Heap]:  # type: ignore[override]  # async
        return super().step(action)


class Streaming(Async):
    async def step_stream(self, action: Take) -> AsyncIterator[Any]:
        yield "thinking"
        self.left -= action.count
        yield Heap(self.left)


class Masked(Environment[int, dict[str, int], Any]):
    """A corridor of four cells; the mask is an array that is written again."""

    isolation: ClassVar[Any] = "inline"

    def reset(self) -> dict[str, int]:
        self.place = 0
        self.mask = np.zeros(2, bool)
        return {"place": 0}

    def legal_actions(self) -> Any:
        self.mask[:] = (self.place > 0, True)
        return self.mask

    def step(self, action: int) -> StepResult[dict[str, int]]:
        self.place += 1 if action else -1
        end = self.place == 3
        return StepResult({"place": self.place}, 0.0, end, info={"at": self.place})


def counts(listed: Any) -> list[int]:
    return [each["count"] for each in listed]


@pytest.mark.parametrize("env", [Nim, InThreads, InProcesses, Async, Streaming])
async def test_each_executor_puts_what_is_legal_into_the_info(env: type) -> None:
    async with serve(env) as url, GenericEnvClient(url) as client:
        result = await client.reset()
        assert counts(result.info["legal_actions"]) == [1, 2, 3]
        await client.step({"count": 3})
        result = await client.step({"count": 2})
        assert counts(result.info["legal_actions"]) == [1, 2]
        result = await client.step({"count": 2})
        assert result.terminated
        assert "legal_actions" not in result.info  # nothing is left to do


@pytest.mark.parametrize("env", [Nim, Masked])
async def test_each_transport_carries_it(env: Any) -> None:
    async with serve(env) as url, connect(env, client=GenericEnvClient) as local:
        ways = [way for way in network_transports(url) if {"reset", "held"} <= way.features]
        assert len(ways) == 6
        results = {"in process": await local.reset()}
        for way in ways:
            async with way.session() as session:
                results[way.name] = await session.reset()
    for name, result in results.items():
        info = result.info or result.observation["metadata"]  # upstream has no other place
        if env is Nim:
            assert counts(info["legal_actions"]) == [1, 2, 3], name
        else:
            assert list(info["action_mask"]) == [0, 1], name


async def test_a_mask_travels_as_int8_and_beside_the_environments_own_info() -> None:
    async with connect(Masked, client=GenericEnvClient) as client:
        first = await client.reset()
        second = await client.step(1)
    for result, mask in ((first, [0, 1]), (second, [1, 1])):
        assert result.info["action_mask"].dtype == np.int8
        assert result.info["action_mask"].tolist() == mask
    assert second.info["at"] == 1


async def test_a_streamed_step_has_it_too() -> None:
    async with serve(Streaming) as url, GenericEnvClient(url) as client:
        await client.reset()
        stream = client.stream_step({"count": 6})
        seen = [each async for each in stream]
    assert counts(seen[-1].info["legal_actions"]) == [1]


class OwnWords(Nim):
    def step(self, action: Take) -> StepResult[Heap]:
        result = super().step(action)
        result.info["legal_actions"] = "see the rules"
        return result


async def test_an_info_of_the_environments_own_with_that_name_is_kept() -> None:
    async with connect(OwnWords, client=GenericEnvClient) as client:
        await client.reset()
        assert (await client.step({"count": 1})).info == {"legal_actions": "see the rules"}


@dataclass
class Bid:
    amount: int


@dataclass
class Fold:
    reason: str


class Poker(Environment[Bid | Fold, dict[str, Any], Any]):
    """Actions of two kinds, which are told apart when they are sent."""

    isolation: ClassVar[Any] = "inline"

    def reset(self) -> dict[str, Any]:
        return {"pot": 1}

    def legal_actions(self) -> list[Bid | Fold]:
        return [Bid(2), Fold("weak")]

    def step(self, action: Bid | Fold) -> dict[str, Any]:
        return {"took": repr(action)}


async def test_what_is_listed_can_be_sent_back_as_it_came() -> None:
    async with serve(Poker) as url:
        for way in network_transports(url):
            if not {"choice", "held"} <= way.features:
                continue  # an agent calls a tool, and sends no action as it is listed
            async with way.session() as session:
                for number, took in enumerate(("Bid(amount=2)", "Fold(reason='weak')")):
                    result = await session.reset()
                    info = result.info or result.observation["metadata"]
                    result = await session.step(info["legal_actions"][number])
                    assert result.observation["took"] == took, way.name


class Telling(Environment[int, int, Any]):
    """Its ``legal_actions`` are what the test says."""

    isolation: ClassVar[Any] = "inline"
    told: ClassVar[Any] = None

    def reset(self) -> int:
        return 0

    def legal_actions(self) -> Any:
        told = type(self).told
        if isinstance(told, Exception):
            raise told
        return told() if callable(told) else told

    def step(self, action: int) -> int:
        return action


@pytest.fixture
def telling() -> type[Telling]:
    return type("Telling", (Telling,), {})


@pytest.mark.parametrize(
    ("told", "listed"),
    [
        ([2, 3], [2, 3]),
        ((2, 3), [2, 3]),
        (range(2, 4), [2, 3]),
        (np.array([2, 3]), [2, 3]),
        (lambda: (n for n in (2, 3)), [2, 3]),
    ],
)
async def test_a_list_may_be_any_collection(
    telling: type[Telling], told: Any, listed: list[int]
) -> None:
    telling.told = staticmethod(told) if callable(told) else told
    async with connect(telling, client=GenericEnvClient) as client:
        assert (await client.reset()).info == {"legal_actions": listed}


async def test_none_says_nothing(telling: type[Telling]) -> None:
    async with connect(telling, client=GenericEnvClient) as client:
        assert (await client.reset()).info == {}


async def a_call() -> list[int]:
    return [1]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "gave no action though the episode goes on"),
        (np.zeros(3, bool), "gave no action though the episode goes on"),
        (np.ones((2, 2), np.int8), r"gave a mask of the shape \(2, 2\)"),
        (np.array([0.5]), "gave an array of float64"),
        ("up", "gave a str"),
        ({"up": 1}, "gave a dict"),
        (3, "gave a int"),
        (lambda: a_call(), "gave an awaitable: make it a plain function"),
    ],
)
async def test_what_is_none_is_the_environments_failure_and_names_it(
    telling: type[Telling], told: Any, message: str
) -> None:
    telling.told = staticmethod(told) if callable(told) else told
    async with connect(telling, client=GenericEnvClient) as client:
        with pytest.raises(InvalidObservation, match=f"legal_actions.. of Telling {message}"):
            await client.reset()


@pytest.mark.parametrize("isolation", ["inline", "thread"])
async def test_an_exception_of_it_is_the_environments_and_says_where(
    telling: type[Telling], isolation: str
) -> None:
    telling.isolation = isolation
    async with connect(telling, client=GenericEnvClient) as client:
        await client.reset()
        telling.told = ZeroDivisionError("by zero")
        with pytest.raises(EnvironmentRaised, match=r"legal_actions\(\) of Telling") as caught:
            await client.step(1)
        assert caught.value.detail["raised"] == "ZeroDivisionError"
        assert caught.value.phase == "step"
        telling.told = None
        await client.reset()  # the session goes on


def test_the_contract_is_read_once() -> None:
    assert read_contract(Nim).tells_legal
    assert not read_contract(Bare).tells_legal
    assert EnvironmentSpec(Nim).schema["action"]["x-legal-actions"] is True
    assert "x-legal-actions" not in EnvironmentSpec(Bare).schema["action"]


class Bare(Environment[int, int, Any]):
    def reset(self) -> int:
        return 0

    def step(self, action: int) -> int:
        return 0


class OfAPlayer(Bare):
    def legal_actions(self, player: int) -> list[int]:
        return [player]


class AsData(Bare):
    legal_actions: ClassVar[Any] = (1, 2)


class AsProperty(Bare):
    @property
    def legal_actions(self) -> list[int]:
        return [1]


class OfTheClass(Bare):
    @classmethod
    def legal_actions(cls, more: int = 0) -> list[int]:
        return [more]


def test_a_thing_of_that_name_that_is_the_authors_own_is_left_alone() -> None:
    for env in (OfAPlayer, AsData, AsProperty):
        assert not read_contract(env).tells_legal
    assert read_contract(OfTheClass).tells_legal


def test_an_async_one_is_refused_when_it_is_declared() -> None:
    async def legal_actions(self: Any) -> list[int]:
        return []

    with pytest.raises(TypeError, match="legal_actions is async: make it a plain function"):
        read_contract(type("Late", (Bare,), {"legal_actions": legal_actions}))


async def test_the_steps_of_others_read_their_results_as_before() -> None:
    """The reader is the one that all sessions share."""
    spec = EnvironmentSpec(Bare)
    runner = EnvironmentRunner(spec)
    runner.handle(Open(1, token(1), token(2)), Codecs(spec, "msgpack"))
    assert runner._known is spec.read.known
