"""Calls taken for sync ones that return awaitables, and attributes that bear a call's name."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest

from openenv_async import Environment, Timeouts
from openenv_async.engine import Engine, EngineOptions
from openenv_async.environment import Isolation
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentRaised,
    InvalidObservation,
    InvalidOption,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.served import connect

Dict = dict[str, Any]


def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return wrapper


def bare(call: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that leaves no trace of the async function."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return wrapper


class Base(Environment[Dict, Dict, Dict]):
    """Async at heart; what becomes of its calls is in the subclasses."""

    closed: ClassVar[list[str]] = []

    async def _reset(self, **options: Any) -> Dict:
        await asyncio.sleep(0)
        self.task = asyncio.create_task(asyncio.sleep(30))  # that lasts from call to call
        return {"n": 0}

    async def _step(self, action: Dict) -> Dict:
        await asyncio.sleep(0)
        if "raise" in action:
            raise ZeroDivisionError("late")
        if "hang" in action:
            await asyncio.sleep(60)
        return {"n": 1, "waits": not self.task.done(), "done": "end" in action}

    async def _state(self) -> Dict:
        return {"of": "state"}

    async def _close(self) -> None:
        self.task.cancel()
        self.closed.append(threading.current_thread().name)

    def reset(self, **options: Any) -> Any:
        return self._reset(**options)

    def step(self, action: Dict) -> Any:
        return self._step(action)

    def state(self) -> Any:
        return self._state()

    def close(self) -> Any:
        return self._close()


class Wrapped(Base):
    reset = wrapped(Base._reset)
    step = wrapped(Base._step)
    state = wrapped(Base._state)
    close = wrapped(Base._close)


class Bare(Base):
    reset = bare(Base._reset)
    step = bare(Base._step)


class Lambda(Base):
    reset = lambda self, **options: self._reset(**options)  # noqa: E731
    step = lambda self, action: self._step(action)  # type: ignore[attr-defined]  # noqa: E731


class Partial(Base):
    def _with(self, extra: Dict, action: Dict) -> Any:
        return self._step({**action, **extra})

    step = functools.partialmethod(_with, {})


class AsyncCall:
    def __init__(self, call: Any) -> None:
        self._call = call

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call(*args, **kwargs)


class Assigned(Base):
    def __init__(self) -> None:
        self.reset = AsyncCall(self._reset)  # type: ignore[method-assign]  # the point
        self.step = functools.partial(self._step)  # type: ignore[method-assign]  # the point


class AssignedSync(Base):
    """Declared async, with a sync function put in its place."""

    async def step(self, action: Dict) -> Dict:
        raise AssertionError

    def __init__(self) -> None:
        self.step = lambda action: {"n": 1, "waits": True, "done": "end" in action}  # type: ignore[method-assign,assignment,return-value]  # the point


class Inline(Base):
    isolation: ClassVar[Isolation | None] = "inline"


class Owning(Base):
    owns_thread = True


class Process(Base):
    isolation: ClassVar[Isolation | None] = "process"


class Forgetful(Base):
    """Awaits once too few."""

    async def step(self, action: Dict) -> Any:
        return self._step(action)


CLASSES = (
    *(Base, Wrapped, Bare, Lambda, Partial, Assigned, AssignedSync),
    *(Inline, Owning, Process, Forgetful),
)


@pytest.mark.parametrize("workers", [None, 1])
@pytest.mark.parametrize("cls", CLASSES)
async def test_what_is_awaitable_is_awaited(cls: type[Base], workers: int | None) -> None:
    if workers and cls not in (Base, Wrapped, Inline, Process):
        pytest.skip("a process is the same for the others")
    Base.closed.clear()
    engine = Engine(EnvironmentSpec(cls), EngineOptions(workers=workers))
    try:
        async with asyncio.timeout(30), connect(engine) as env:
            for _ in range(2):
                assert (await env.reset()).observation == {"n": 0}
                for _ in range(3):
                    assert (await env.step({})).observation["waits"]
                if cls is not AssignedSync:
                    with pytest.raises(EnvironmentRaised, match="late"):
                        await env.step({"raise": 1})
                assert (await env.state())["of"] == "state"
                assert (await env.step({"end": 1})).terminated
        assert engine.stats.steps == (8 if cls is AssignedSync else 10)
        if cls is not Process and not workers:
            assert len(Base.closed) == 1
    finally:
        await engine.aclose()


@pytest.mark.parametrize("cls", [Base, Inline, Owning])
async def test_such_a_call_has_a_deadline_and_can_be_cancelled(cls: type[Base]) -> None:
    async with connect(cls, timeouts=Timeouts(step=0.3)) as env:
        await env.reset()
        with pytest.raises(DeadlineExceeded):
            await env.step({"hang": 1})
        assert (await env.step({})).observation["n"] == 1
        call = asyncio.ensure_future(env.step({"hang": 1}))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await env.step({})).observation["n"] == 1


@pytest.mark.parametrize("cls", [Base, Inline])
async def test_a_session_that_is_left_in_such_a_call(cls: type[Base]) -> None:
    engine = Engine(EnvironmentSpec(cls))
    async with connect(engine) as env:
        await env.reset()
        call = asyncio.ensure_future(env.step({"hang": 1}))
        await asyncio.sleep(0.05)
        call.cancel()
    async with asyncio.timeout(5):
        await engine.aclose()
    assert not engine.sessions


class Generators(Environment[Dict, Dict, Dict]):
    isolation = "inline"

    def reset(self) -> Any:
        return {}

    def step(self, action: Dict) -> Any:
        yield {}


class AsyncGenerators(Generators):
    async def step(self, action: Dict) -> Any:
        yield {}


@pytest.mark.parametrize(("cls", "word"), [(Generators, "yield"), (AsyncGenerators, "step_stream")])
async def test_a_generator_is_refused_with_the_remedy(cls: type[Any], word: str) -> None:
    async with connect(cls) as env:
        await env.reset()
        with pytest.raises(InvalidObservation, match=word):
            await env.step({})


class OddStream(Environment[Dict, Dict, Dict]):
    """Its streams are no async generators."""

    async def reset(self) -> Dict:
        return {}

    async def step(self, action: Dict) -> Dict:
        return {"n": 1}

    def step_stream(self, action: Dict) -> Any:
        if action["as"] == "list":
            return [{"n": 1}]
        if action["as"] == "coroutine":
            return self._made()
        return self._items()

    async def _made(self) -> AsyncIterator[Dict]:
        return self._items()

    async def _items(self) -> AsyncIterator[Dict]:
        yield {"n": 1}
        yield {"n": 2}


async def test_streams_that_come_another_way() -> None:
    async with connect(OddStream) as env:
        await env.reset()
        for way in ("coroutine", "iterator"):
            got = [result.observation["n"] async for result in env.stream_step({"as": way})]
            assert got == [1, 2]
        with pytest.raises(InvalidObservation, match="async generator"):
            async for _ in env.stream_step({"as": "list"}):
                pass


# -- attributes that bear the name of a call -----------------------------------------------


class Named(Environment[Dict, Dict, Dict]):
    """Keeps what it knows under names that calls have."""

    isolation: ClassVar[Isolation | None] = "inline"
    closed: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        vars(self).update(reset=False, step=0, close=True)

    def reset(self) -> Dict:
        vars(self).update(state={"position": 1})
        return {}

    def step(self, action: Dict) -> Dict:
        vars(self)["step"] += 1
        return {"count": vars(self)["step"]}

    def close(self) -> None:
        self.closed.append(self)


class AsyncNamed(Named):
    isolation = None

    async def reset(self) -> Dict:  # type: ignore[override]  # the point
        return Named.reset(self)


class ThreadNamed(Named):
    isolation = "thread"


@pytest.mark.parametrize("cls", [Named, AsyncNamed, ThreadNamed])
async def test_attributes_do_not_hide_calls(cls: type[Named]) -> None:
    Named.closed.clear()
    async with connect(cls) as env:
        await env.reset()
        assert (await env.step({})).observation == {"count": 1}
        assert (await env.step({})).observation == {"count": 2}
        assert (await env.state())["position"] == 1
        await env.reset()
    assert len(Named.closed) == 1


class OwnState(Environment[Dict, Dict, Dict]):
    isolation = "inline"

    def reset(self) -> Dict:
        vars(self).update(state={"position": 1})
        return {}

    def step(self, action: Dict) -> Dict:
        return {}

    def state(self) -> Dict:
        return {"seen": vars(self)["state"]["position"]}


async def test_the_authors_own_state_goes_before_an_attribute_of_its_name() -> None:
    async with connect(OwnState) as env:
        await env.reset()
        assert (await env.state())["seen"] == 1


async def test_an_array_as_the_state() -> None:
    np = pytest.importorskip("numpy")

    class Arrays(Named):
        def reset(self) -> Dict:
            vars(self).update(state=np.arange(3))  # as CartPole does
            return {}

    async with connect(Arrays, Dict, Dict, Any) as env:
        await env.reset()
        assert (await env.state()).tolist() == [0, 1, 2]


def retrying(times: int, when: Callable[[Exception], bool]) -> Any:
    def decorate(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for _ in range(times):
                try:
                    return call(*args, **kwargs)
                except Exception as exc:
                    if not when(exc):
                        raise
            return None

        return wrapper

    return decorate


async def test_a_decorator_without_wraps_hides_no_options() -> None:
    class Decorated(Environment[Dict, Dict, Dict]):
        @bare
        async def reset(self, size: int = 3) -> Dict:
            return {"size": size}

        @bare
        async def step(self, action: Dict) -> Dict:
            return {}

    class Twice(Decorated):
        @retrying(2, when=lambda exc: True)  # type: ignore[untyped-decorator]  # the point
        @bare
        def reset(self, size: int = 3) -> Dict:
            return {"size": size}

    class Plain(Decorated):
        def reset(self, *args: Any, **kwargs: Any) -> Dict:
            return {"size": sorted(kwargs)}

    for kind in (Decorated, Twice):
        async with connect(kind) as env:
            assert (await env.reset(seed=1)).observation == {"size": 3}
            assert (await env.reset(size=4)).observation == {"size": 4}
            with pytest.raises(InvalidOption, match="takes no option 'sise'"):
                await env.reset(sise=4)
            assert (await env.step({})).observation == {}
    async with connect(Plain) as env:
        seen = (await env.reset(sise=1)).observation["size"]
        assert seen == ["episode_id", "seed", "sise"]


async def test_an_attribute_that_is_no_state_is_named() -> None:
    class Array(Environment[Dict, Dict, Dict]):
        isolation = "inline"

        def reset(self) -> Dict:
            vars(self).update(state=[1.0, 2.0])
            return {}

        def step(self, action: Dict) -> Dict:
            return {}

    async with connect(Array) as env:
        await env.reset()
        with pytest.raises(InvalidObservation, match=r"a list: .*an attribute named state"):
            await env.state()
        assert (await env.step({})).observation == {}


async def test_a_state_of_another_type_is_refused() -> None:
    class Wrong(Environment[Dict, Dict, dict[str, int]]):
        isolation = "inline"

        def reset(self, state: Any = None) -> Dict:
            self.next = state
            return {}

        def step(self, action: Dict) -> Dict:
            return {}

        def state(self) -> Any:
            return self.next

    async with connect(Wrong) as env:
        for state in (None, {"a": "text"}, [1]):
            await env.reset(state=state)
            with pytest.raises(InvalidObservation, match=r"state\(\) of Wrong returned"):
                await env.state()
        await env.reset(state={"a": 1})
        assert (await env.state())["a"] == 1


async def test_a_session_that_changed_its_executor_is_not_timed_by_the_old_one() -> None:
    engine = Engine(EnvironmentSpec(Base))
    async with connect(engine) as env:
        [session] = engine.sessions.values()
        await env.reset()
        engine.time_steps([session])
        assert session.executor is engine.tasks_for(session)
        assert (await env.step({})).observation["n"] == 1
    await engine.aclose()
