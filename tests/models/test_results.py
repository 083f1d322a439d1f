"""Results of environments arrive as they are meant, or are refused by name."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import Environment, StepResult
from openenv_async.client.env import GenericEnvClient
from openenv_async.engine import Engine, EngineOptions
from openenv_async.errors import InvalidModel, InvalidObservation
from openenv_async.models import PayloadCodec
from openenv_async.models.results import BadResult, ResultReader
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.served import connect
from tests.returned import ENDS, PLACES, REFUSED, RESULTS, REWARDS


@asynccontextmanager
async def returning(place: str, observation: Any = Any) -> AsyncIterator[Any]:
    cls, workers = PLACES[place]
    spec = EnvironmentSpec(cls, observation=observation)
    engine = Engine(spec, EngineOptions(workers=workers))
    try:
        async with connect(engine, client=GenericEnvClient) as env:
            yield env
    finally:
        await engine.aclose()


def same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)


async def check(env: Any, name: str, expected: Any) -> None:
    """The verdict on a result, of a step and of a reset."""
    calls: tuple[Callable[[], Any], ...] = (
        lambda: env.step({"name": name}),
        lambda: env.reset(name=name),
    )
    for call in calls:
        await env.reset()
        if expected is REFUSED:
            with pytest.raises(InvalidObservation) as caught:
                await call()
            message = caught.value.message
            assert re.match(r"(step|reset)\(\) of \w+ returned ", message), message
            await env.reset()  # the session goes on
            continue
        result = await call()
        got = (result.reward, result.terminated, result.truncated)
        assert all(map(same, got, expected)), (name, got, expected)


# -- across isolations --------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
async def test_every_end_and_reward_in_every_isolation(place: str) -> None:
    async with returning(place) as env:
        for how in ("dict", "StepResult"):
            for case, (_, end) in ENDS.items():
                verdict = REFUSED if end is REFUSED else (None, end, False)
                await check(env, f"terminated: {how} {case}", verdict)
                verdict = REFUSED if end is REFUSED else (None, False, end)
                await check(env, f"truncated: {how} {case}", verdict)
            for case, (_, reward) in REWARDS.items():
                if (how, case) == ("dict", "Fraction"):
                    reward = REFUSED  # as a part of the observation it cannot travel
                verdict = REFUSED if reward is REFUSED else (reward, False, False)
                await check(env, f"reward: {how} {case}", verdict)


@pytest.mark.parametrize("case", RESULTS)
async def test_every_result_inline(case: str) -> None:
    declared, _, verdict = RESULTS[case]
    engine = Engine(EnvironmentSpec(PLACES["inline"][0], observation=declared))
    try:
        async with connect(engine, client=GenericEnvClient) as env:
            # a plain reset() returns a dict, which is not of most of these types
            with_name: Any = {"name": f"result: {case}"}
            if verdict is REFUSED:
                with pytest.raises(InvalidObservation, match=r"reset\(\) of .* returned "):
                    await env.reset(**with_name)
                return
            first = await env.reset(**with_name)
            assert (first.reward, first.terminated, first.truncated) == verdict
            if not first.done:
                again = await env.step(with_name)
                assert (again.reward, again.terminated, again.truncated) == verdict
    finally:
        await engine.aclose()


@pytest.mark.parametrize("place", ["threads", "task", "process", "workers"])
async def test_undeclared_results_in_every_isolation(place: str) -> None:
    async with returning(place) as env:
        for case, (declared, _, verdict) in RESULTS.items():
            if declared is Any:
                await check(env, f"result: {case}", verdict)


@pytest.mark.parametrize("place", ["threads", "process"])
async def test_declared_types_are_enforced_in_every_isolation(place: str) -> None:
    async with returning(place, dict[str, int]) as env:
        await env.reset()
        for name in ("text in a dict", "5-tuple", "model for a dict", "None", "array for a dict"):
            with pytest.raises(InvalidObservation):
                await env.step({"name": f"result: {name}"})


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("5-tuple", ["Gymnasium", "StepResult(", "gymnasium.Env"]),
        ("4-tuple", ["4-tuple", "StepResult("]),
        ("pair with info", ["(observation, info)"]),
        ("3-tuple", ["tuple of 3", "declare"]),
        ("None", ["`return`"]),
        ("None, model declared", ["Seen | None", "`return`"]),
        ("dict for a model", ["a dict", "Seen", "annotation of step()"]),
        ("text in a number", ["$.n", "`int`", "`str`"]),
        ("text in a list", ["$[1]"]),
        ("generator", ["yield"]),
        ("info that is no dict", ["info", "[1]"]),
    ],
)
def test_the_message_names_the_thing_and_the_cure(case: str, words: list[str]) -> None:
    declared, make, _ = RESULTS[case]
    with pytest.raises(BadResult) as caught:
        read(declared, make())
    for word in words:
        assert word in str(caught.value)


def test_a_subclass_with_more_fields_is_to_be_declared() -> None:
    @dataclass
    class Base:
        n: int = 0

    @dataclass
    class More(Base):
        extra: int = 1

    @dataclass
    class Same(Base):
        pass

    for result in (More(), StepResult(More())):
        with pytest.raises(BadResult, match=r"unknown field `extra`.*: declare .*More"):
            read(Base, result)
    assert read(Base, Same()) == (None, False, False)


def read(declared: Any, result: Any) -> tuple[Any, ...]:
    reader = ResultReader(declared, PayloadCodec(declared, "msgpack"))
    return reader[type(result)](result)[1:4]


# -- values made up -----------------------------------------------------------------------

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.sampled_from([np.bool_(True), np.int64(0), np.float32(1.0), np.array([1, 0])])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def is_strict_end(value: Any) -> bool:
    """The rule, said another way: what JSON would call a truth value or a bit."""
    if isinstance(value, np.ndarray | np.generic):
        return value.size == 1 and is_strict_end(value.ravel().tolist()[0])
    return type(value) in (bool, int) and value in (0, 1)


@given(values, st.sampled_from(["done", "terminated", "truncated"]))
def test_an_end_is_a_truth_value_or_refused(value: Any, name: str) -> None:
    try:
        _, terminated, truncated = read(Any, {name: value})
    except BadResult:
        assert not is_strict_end(value)
    else:
        assert is_strict_end(value)
        assert (terminated or truncated) is bool(value)
        assert truncated is (bool(value) and name == "truncated")


@given(values)
def test_a_reward_is_a_number_or_refused(value: Any) -> None:
    plain = value.tolist() if isinstance(value, np.generic) else value
    is_number = isinstance(plain, int | float) and not (
        isinstance(plain, int) and abs(plain) > 10**300
    )
    results: tuple[Any, ...] = ({"reward": value}, StepResult({}, value))
    for result in results:
        try:
            reward = read(Any, result)[0]
        except BadResult:
            assert value is not None
            assert not is_number
        else:
            assert reward is None if value is None else same(reward, float(plain))
            assert reward is None or type(reward) is float


@given(st.tuples(values, values) | st.tuples(values, values, values) | st.lists(values).map(tuple))
def test_a_tuple_that_nobody_declared_is_no_observation(value: tuple[Any, ...]) -> None:
    for declared in (Any, dict, list, str):
        with pytest.raises(BadResult, match="tuple"):
            read(declared, value)


@given(values, st.floats(), st.booleans(), st.booleans(), st.dictionaries(st.text(), values))
def test_gymnasiums_tuples_are_recognised(
    observation: Any, reward: float, one: bool, two: bool, info: dict[str, Any]
) -> None:
    for declared in (Any, tuple, list, tuple[Any, ...]):
        with pytest.raises(BadResult, match="Gymnasium"):
            read(declared, (observation, reward, one, two, info))
        with pytest.raises(BadResult, match="4-tuple"):
            read(declared, (observation, reward, one, info))


@given(st.lists(st.integers(-(2**63), 2**63) | st.text(max_size=2), max_size=200))
def test_lists_of_the_declared_type_and_no_others(items: list[Any]) -> None:
    looked_at = items if len(items) <= 64 else items[:32] + items[-32:]
    if all(isinstance(item, int) for item in items):
        assert read(list[int], items) == (None, False, False)
    elif any(isinstance(item, str) for item in looked_at):
        with pytest.raises(BadResult):
            read(list[int], items)


class Partly(TypedDict, total=False):
    n: int
    done: list[str]
    reward: float


def test_a_typed_dict_says_which_keys_count() -> None:
    assert read(Partly, {"n": 1, "done": ["a"], "reward": 1.0}) == (1.0, False, False)
    with pytest.raises(BadResult, match="unknown field"):
        read(Partly, {"terminated": True})


def test_torch_rewards_and_ends() -> None:
    torch = pytest.importorskip("torch")
    wanted = torch.tensor(1.5, requires_grad=True)
    assert read(Any, {"reward": wanted, "done": torch.tensor(True)}) == (1.5, True, False)
    with pytest.raises(BadResult):
        read(Any, {"reward": torch.tensor([1.0, 2.0])})


def test_pydantic_fields_and_extras() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Fixed(pydantic.BaseModel):  # type: ignore[misc,name-defined]  # not a type here
        reward: float | None = None
        done: bool = False

    class Loose(pydantic.BaseModel):  # type: ignore[misc,name-defined]  # not a type here
        model_config = pydantic.ConfigDict(extra="allow")

    assert read(Fixed, Fixed(reward=1.0, done=True)) == (1.0, True, False)
    assert read(Loose, Loose(reward=2.0, terminated=True)) == (2.0, True, False)
    assert read(Loose, Loose(n=1)) == (None, False, False)
    with pytest.raises(BadResult, match="done='x'"):
        read(Loose, Loose(done="x"))


def test_a_field_that_is_not_set() -> None:
    @dataclass
    class Late:
        done: bool = False
        items: list[int] = field(default_factory=list)
        later: int = field(init=False)

    late = Late()
    late.later = 1
    assert read(Late, late) == (None, False, False)
    del late.items  # the other end has its default
    assert read(Late, late) == (None, False, False)
    with pytest.raises((BadResult, InvalidModel), match="later"):
        read(Late, Late())


def test_types_made_as_it_goes_are_forgotten() -> None:
    reader = ResultReader(Any, PayloadCodec(Any, "msgpack"))
    for number in range(1000):
        kind = type(f"D{number}", (dict,), {})
        assert reader[kind](kind(done=True))[2]
    assert len(reader.known) < 300


# -- reused objects -----------------------------------------------------------------------


class Reuses(Environment[str, dict[str, Any], dict[str, Any]]):
    """Yield one and the same dict and array again and again, and clears it at the end."""

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: str) -> dict[str, Any]:
        return {"text": action, "done": True}

    async def step_stream(self, action: str) -> AsyncIterator[dict[str, Any]]:
        shown: dict[str, Any] = {"text": "", "pixels": np.zeros(4, np.uint8)}
        for letter in action:
            shown["text"] += letter
            shown["pixels"][:] += 1
            yield shown
        shown["done"], shown["reward"] = True, float(len(action))
        yield shown
        shown.clear()
        shown["done"] = False


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8))
def test_a_stream_that_reuses_its_objects(text: str) -> None:
    async def play() -> list[StepResult[dict[str, Any]]]:
        async with connect(Reuses) as env:
            await env.reset()
            return [result async for result in env.stream_step(text)]

    got = asyncio.run(play())
    texts = [text[: n + 1] for n in range(len(text))] + [text]
    assert [result.observation["text"] for result in got] == texts
    counts = [*range(1, len(text) + 1), len(text)]
    assert [int(result.observation["pixels"][0]) for result in got] == counts
    assert [result.done for result in got] == [False] * len(text) + [True]
    assert got[-1].reward == float(len(text))


class StrictStream(Reuses):
    async def step_stream(self, action: str) -> AsyncIterator[dict[str, Any]]:
        yield {"text": "a", "done": "not yet"}
        yield {"text": "b", "done": "false" if action == "bad" else True}


async def test_only_the_end_of_the_last_one_counts() -> None:
    async with connect(StrictStream) as env:
        await env.reset()
        got = [result.done async for result in env.stream_step("good")]
        assert got == [False, True]
        await env.reset()
        with pytest.raises(InvalidObservation, match="done"):
            async for _ in env.stream_step("bad"):
                pass


def test_a_reward_that_is_no_number_keeps_its_place() -> None:
    with pytest.raises(BadResult, match=r"StepResult\.reward='much'"):
        read(Any, StepResult({}, "much"))  # type: ignore[arg-type]  # the fault
    assert math.isnan(read(Any, StepResult({}, math.nan))[0])


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        (StepResult, Any),
        (StepResult[Partly], Partly),
        (Partly | StepResult, Partly),
        (StepResult[Partly] | None, Partly | None),
        (Partly, Partly),
    ],
)
def test_the_annotation_of_step_says_the_observation_type(returns: Any, expected: Any) -> None:
    def step(self: Any, action: int) -> Any:
        raise AssertionError

    def reset(self: Any) -> Any:
        raise AssertionError

    step.__annotations__["return"] = returns
    made = type("Annotated", (Environment,), {"reset": reset, "step": step})
    assert EnvironmentSpec(made).types["observation"] == expected
