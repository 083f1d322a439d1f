"""Whatever leaves user code answers the request at once, and the session goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openenv_async import Environment, Timeouts
from openenv_async.engine import Engine, EngineOptions
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.environment import Isolation
from openenv_async.errors import (
    EnvironmentDied,
    EnvironmentFailure,
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidObservation,
    OpenEnvError,
    TransportError,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.served import connect
from openenv_async.types import Limits
from tests.engine.raising import (
    CLASSES,
    GOES_ON,
    MAKERS,
    AsyncRaiser,
    InlineRaiser,
    ProcessRaiser,
    Raiser,
)

AT_ONCE = 20.0
"""Seconds within which an answer counts as one; no deadline of a server ends sooner."""
PLACES: dict[str, tuple[type[Raiser], int | None]] = {
    "inline": (InlineRaiser, None),
    "threads": (Raiser, None),
    "task": (AsyncRaiser, None),
    "process": (ProcessRaiser, None),
    "workers": (Raiser, 1),
    "workers, async": (AsyncRaiser, 1),
}


@asynccontextmanager
async def client(place: str, **params: Any) -> AsyncIterator[Any]:
    cls, workers = PLACES[place]
    options = EngineOptions(workers=workers, timeouts=Timeouts(step=60, reset=60))
    engine = Engine(EnvironmentSpec(cls, params=params), options)
    try:
        async with connect(engine) as env:
            yield env
    finally:
        await engine.aclose()


async def raised_by(call: Any) -> OpenEnvError:
    with pytest.raises(OpenEnvError) as caught:
        await asyncio.wait_for(call, AT_ONCE)
    assert not isinstance(caught.value, TransportError)
    assert len(caught.value.message) < 2 * Limits().max_error_size
    return caught.value


async def drain(stream: Any) -> None:
    async for result in stream:
        assert result.observation == {"shown": 1}


def is_the_environments(error: OpenEnvError, name: str) -> bool:
    if name in GOES_ON:
        return GOES_ON[name] in (error.code, error.detail.get("code"))
    return isinstance(error, EnvironmentRaised) and not error.retryable


@pytest.mark.parametrize("place", PLACES)
async def test_every_exception_of_a_call_answers_it(place: str) -> None:
    async with client(place) as env:
        for name in MAKERS:
            error = await raised_by(env.reset(name=name))
            assert is_the_environments(error, name), (name, error)
            await env.reset(state=name)
            error = await raised_by(env.state())
            assert is_the_environments(error, name), (name, error)
            error = await raised_by(env.step({"raise": name}))
            assert is_the_environments(error, name), (name, error)
            assert error.session_id is None or len(error.session_id) == 32
            error = await raised_by(env.step({"reward": name}))
            assert isinstance(error, InvalidObservation), (name, error)
            assert (await env.step({})).observation == {"ok": True}, name


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["Unprintable", "GeneratorExit", "KeyboardInterrupt", "Panic"])
async def test_a_constructor_or_close_that_raises(place: str, name: str) -> None:
    with pytest.raises(EnvironmentStartFailed) as caught:
        async with asyncio.timeout(AT_ONCE), client(place, built=name) as env:
            await env.reset()
    assert caught.value.phase == "open"
    async with asyncio.timeout(AT_ONCE), client(place, closed=name) as env:
        await env.reset()


@pytest.mark.parametrize("name", MAKERS)
async def test_a_constructor_that_raises_anything(name: str) -> None:
    with pytest.raises(OpenEnvError) as caught:
        async with asyncio.timeout(AT_ONCE), client("inline", built=name) as env:
            await env.reset()
    if name in GOES_ON:
        assert is_the_environments(caught.value, name)
    elif name in ("NotWhole", "BadWire") or "that is" in name:
        assert isinstance(caught.value, EnvironmentFailure)
    else:
        assert isinstance(caught.value, EnvironmentStartFailed)


@pytest.mark.parametrize("place", ["task", "workers, async"])
async def test_a_stream_that_raises_anything(place: str) -> None:
    async with client(place) as env:
        await env.reset()
        for name in MAKERS:
            error = await raised_by(drain(env.stream_step({"raise": name})))
            assert is_the_environments(error, name), (name, error)
            assert (await env.step({})).observation == {"ok": True}


@pytest.mark.parametrize("place", PLACES)
async def test_an_end_that_is_an_array_of_two(place: str) -> None:
    pytest.importorskip("numpy")
    async with client(place) as env:
        await env.reset()
        error = await raised_by(env.step({"done": 1}))
        assert isinstance(error, InvalidObservation)
        assert (await env.step({})).observation == {"ok": True}


@pytest.mark.parametrize("place", ["task", "workers, async"])
@pytest.mark.parametrize("action", ["cancel", "later"])
async def test_a_task_that_cancels_itself(place: str, action: str) -> None:
    async with client(place) as env:
        await env.reset()
        error = await raised_by(env.step({action: True}))
        assert isinstance(error, EnvironmentRaised)
        assert error.detail["raised"] == "CancelledError"
        assert (await env.step({})).observation == {"ok": True}


@pytest.mark.parametrize("action", ["leave", "swallow"])
async def test_a_cancellation_that_is_left_costs_nothing(action: str) -> None:
    async with client("task") as env:
        await env.reset()
        assert (await env.step({action: True})).observation == {}
        await asyncio.sleep(0.01)
        assert (await env.step({})).observation == {"ok": True}


def test_the_end_of_the_program_ends_a_session() -> None:
    """``asyncio.run`` cancels what is left and waits for it: nobody may take that back."""
    kept: list[Any] = []

    async def leave_a_call_running() -> None:
        opening = connect(Engine(EnvironmentSpec(AsyncRaiser)))
        env = await opening.__aenter__()
        await env.reset()
        kept.extend([opening, asyncio.ensure_future(env.step({"hang": 1}))])
        await asyncio.sleep(0.01)

    program = threading.Thread(target=asyncio.run, args=(leave_a_call_running(),), daemon=True)
    program.start()
    program.join(AT_ONCE)
    assert not program.is_alive()
    assert kept[1].done()


async def test_a_task_that_ends_all_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No way is known; were there one, nobody should wait for a deadline."""

    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a fault of ours")

    async with client("task") as env:
        await env.reset()
        monkeypatch.setattr(EnvironmentRunner, "step_async", broken)
        with pytest.raises(EnvironmentDied, match="ended by ZeroDivisionError"):
            await asyncio.wait_for(env.step({}), AT_ONCE)


@pytest.mark.parametrize("name", ["ServerBusy", "SessionLost", "ProtocolError", "GoingAway"])
async def test_an_environment_does_not_speak_for_the_server(name: str) -> None:
    async with client("inline") as env:
        await env.reset()
        error = await raised_by(env.step({"raise": name}))
        assert isinstance(error, EnvironmentFailure)
        assert error.detail["raised"] == name
        assert "mine" in error.message


async def test_long_texts_are_cut_and_say_so() -> None:
    async with client("process") as env:
        await env.reset()
        error = await raised_by(env.step({"raise": "huge"}))
        assert "Limits.max_error_size" in error.message


# -- exceptions made up -------------------------------------------------------------------


def made_up(base: type[BaseException], text: str, breaks: frozenset[str], notes: list[str]) -> Any:
    """An exception class with some of its own methods broken."""

    def broken(self: Any, *args: Any) -> Any:
        raise base

    named: dict[str, Any] = {f"__{name}__": broken for name in breaks}
    if "class" in breaks:
        named["__class__"] = property(broken)
    kind = type("Made", (base,), named)
    exc = kind(text)
    if notes:
        exc.__notes__ = notes
    return exc


exceptions = st.builds(
    made_up,
    st.sampled_from(sorted(CLASSES.values(), key=lambda kind: kind.__name__)),
    st.text(st.characters(), max_size=20) | st.just("x" * 50_000),
    st.frozensets(st.sampled_from(["str", "repr", "class", "reduce", "eq", "hash", "bool"])),
    st.lists(st.text(max_size=5), max_size=3),
)


class Made(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Raises what the test holds out."""

    isolation: ClassVar[Isolation | None] = "inline"
    exception: BaseException

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> Any:
        if action:
            raise type(self).exception
        return {}


class AsyncMade(Made):
    async def step(self, action: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        return super().step(action)


class ThreadMade(Made):
    isolation = "thread"


@pytest.mark.parametrize("cls", [Made, AsyncMade, ThreadMade])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(exc=exceptions)
def test_any_exception_is_answered_logged_and_counted(
    caplog: pytest.LogCaptureFixture, cls: type[Made], exc: BaseException
) -> None:
    caplog.clear()
    Made.exception = exc

    async def play() -> dict[str, int]:
        engine = Engine(EnvironmentSpec(cls))
        try:
            async with connect(engine) as env:
                await env.reset()
                assert isinstance(await raised_by(env.step({"raise": 1})), EnvironmentRaised)
                assert (await env.step({})).observation == {}
        finally:
            await engine.aclose()
        return engine.stats.errors

    with caplog.at_level(logging.ERROR, "openenv_async.environment"):
        assert asyncio.run(play()) == {"environment_raised": 1}
    [record] = [r for r in caplog.records if r.name == "openenv_async.environment"]
    assert record.exc_text is not None
    assert "Traceback" in record.exc_text or "Made" in record.exc_text
