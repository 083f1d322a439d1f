"""One environment instance and the requests it answers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypedDict

import pytest

from openenv_async import Environment, StepResult
from openenv_async.engine.requests import Codecs, Unfinished
from openenv_async.engine.runner import EnvironmentRunner, Telling, TracedRunner
from openenv_async.errors import EnvironmentDied, InvalidAction
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Observation,
    Open,
    Opened,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.protocol.lifecycle import Phase
from openenv_async.spec import EnvironmentSpec
from openenv_async.telemetry.tracing import TraceContext, current
from tests.helpers import pack, token, unpack


@dataclass
class Action:
    do: str = "nothing"


@dataclass
class Seen:
    text: str = ""
    reward: float | None = None
    done: bool = False
    numbers: list[int] = field(default_factory=list)


class Sync(Environment[Action, Seen, dict[str, Any]]):
    """Its steps return what the test put into ``results``."""

    isolation = "inline"
    session_options = frozenset({"level", "fail"})
    results: ClassVar[dict[str, Any]] = {}

    def __init__(self, level: int = 1, fail: str = "") -> None:
        if fail == "exit":
            raise SystemExit(4)
        if fail == "ours":
            raise EnvironmentDied("the licence server is gone")
        if fail:
            raise OSError(fail)
        self.level = level
        self.given: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, episode_id: str | None = None, size: int = 3
    ) -> Any:
        self.given = {"seed": seed, "episode_id": episode_id, "size": size}
        return self.results.get("reset", Seen("ready"))

    def step(self, action: Action) -> Any:
        result = self.results.get(action.do, Seen(action.do))
        if isinstance(result, BaseException):
            raise result
        return result

    def state(self) -> Any:
        return self.results.get("state", {"level": self.level, **self.given})


class Async(Environment[Action, Seen, dict[str, Any]]):
    """The same, awaited; streams what the test put into ``stream``."""

    results: ClassVar[dict[str, Any]] = {}
    stream: ClassVar[list[Any]] = []

    async def reset(self, *, seed: int | None = None) -> Seen:
        return Seen("ready")

    async def step(self, action: Action) -> Any:
        await asyncio.sleep(0)
        result = self.results.get(action.do, Seen(action.do))
        if isinstance(result, BaseException):
            raise result
        return result

    async def step_stream(self, action: Action) -> AsyncIterator[Any]:
        for item in self.stream:
            if isinstance(item, BaseException):
                raise item
            yield item

    @property
    def state(self) -> Any:
        return {"property": True}


@pytest.fixture(autouse=True)
def results() -> dict[str, Any]:
    for cls in (Sync, Async):
        cls.results.clear()
    Async.stream.clear()
    return Sync.results


class Bench:
    """A runner and what was asked of it."""

    def __init__(self, env: Any = Sync, debug: bool = False, **spec: Any) -> None:
        self.spec = EnvironmentSpec(env, **spec)
        self.runner = EnvironmentRunner(self.spec, Telling(debug))
        self.codecs = Codecs(self.spec, "msgpack")
        self.seq = 0
        self.emitted: list[tuple[Any, bool]] = []

    def ask(self, cls: Any, *fields: Any) -> Any:
        self.seq += 1
        return self.runner.handle(cls(1, self.seq, *fields), self.codecs)

    def open(self, options: Any = None) -> Any:
        payload = None if options is None else pack(options)
        return self.runner.handle(Open(1, token(1), token(2), payload=payload), self.codecs)

    def reset(self, options: Any = None, *fields: Any) -> Any:
        return self.ask(Reset, 0, None if options is None else pack(options), *fields)

    def step(self, do: str = "nothing") -> Any:
        return self.ask(Step, 0, pack({"do": do}))

    async def begin_async(self) -> None:
        await self.ask_async(Open(1, token(1), token(2)))
        await self.ask_async(Reset(1, 1))

    async def ask_async(self, request: Any) -> Any:
        async def emit(payload: bytes, whole: bool) -> None:
            self.emitted.append((unpack(payload), whole))

        return await self.runner.handle_async(request, self.codecs, emit)

    def begin(self, **spec: Any) -> Bench:
        assert isinstance(self.open(), Opened)
        assert isinstance(self.reset(), Begun)
        return self


def failed(reply: Any, code: str, words: str = "") -> dict[str, Any]:
    assert isinstance(reply, Failed), reply
    assert reply.code == code
    assert words in reply.message
    detail: dict[str, Any] = unpack(reply.payload)
    return detail


# -- open ---------------------------------------------------------------------------------


def test_open_with_options() -> None:
    bench = Bench()
    assert bench.open({"level": 5}) == Opened(1)
    assert unpack(bench.ask(State).payload)["level"] == 5
    fixed = Bench(params={"level": 7})
    assert fixed.open() == Opened(1)
    assert unpack(fixed.ask(State).payload)["level"] == 7


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"nope": 1}, "invalid_option", "'nope'"),
        ([1], "invalid_option", "map"),
        ({"fail": "no disk"}, "environment_start_failed", "no disk"),
        ({"fail": "exit"}, "environment_start_failed", "SystemExit"),
        ({"fail": "ours"}, "environment_died", "licence"),
    ],
)
def test_open_refused(options: Any, code: str, words: str) -> None:
    detail = failed(Bench().open(options), code, words)
    assert detail["phase"] == "open"
    assert detail["env"] == "Sync"


def test_requests_after_a_failed_open() -> None:
    bench = Bench()
    bench.open({"fail": "x"})
    assert isinstance(bench.ask(Close), Closed)


# -- reset --------------------------------------------------------------------------------


def test_reset_gives_the_environment_what_it_declares() -> None:
    bench = Bench()
    bench.open()
    begun = bench.reset({"size": 9}, 42, "episode-1")
    assert (begun.seed, begun.episode_id) == (42, "episode-1")
    assert unpack(begun.payload)["text"] == "ready"
    state = bench.ask(State)
    given = unpack(state.payload)
    assert (given["seed"], given["episode_id"], given["size"]) == (42, "episode-1", 9)
    assert (state.seed, state.episode_id, state.step_count) == (42, "episode-1", 0)


def test_a_seed_is_drawn_and_reported() -> None:
    bench = Bench()
    bench.open()
    seeds = set()
    for _ in range(5):
        begun = bench.reset()
        assert unpack(bench.ask(State).payload)["seed"] == begun.seed
        seeds.add(begun.seed)
        assert 0 <= begun.seed < 2**31
    assert len(seeds) == 5


@pytest.mark.parametrize(
    ("options", "fields", "option"),
    [
        ({"sise": 1}, (), "sise"),
        ({"size": "big"}, (), "size"),
        (None, (-1,), "seed"),
        (None, (1, ""), "episode_id"),
        (None, (1, "x" * 256), "episode_id"),
    ],
)
def test_reset_refused(options: Any, fields: tuple[Any, ...], option: str) -> None:
    bench = Bench()
    bench.open()
    detail = failed(bench.reset(options, *fields), "invalid_option")
    assert detail["option"] == option
    failed(bench.step(), "episode_not_started")
    assert isinstance(bench.reset(), Begun)


def test_reset_options_that_are_no_map_or_no_msgpack() -> None:
    bench = Bench()
    bench.open()
    failed(bench.reset([1]), "invalid_option", "map")
    failed(bench.ask(Reset, 0, b"\xc1"), "protocol_error")


def test_a_reset_that_ends_the_episode(results: dict[str, Any]) -> None:
    results["reset"] = StepResult(Seen("over"), 1.0, terminated=True)
    bench = Bench()
    bench.open()
    begun = bench.reset()
    assert (begun.reward, begun.terminated) == (1.0, True)
    failed(bench.step(), "episode_ended")


def test_a_reset_that_returns_nonsense(results: dict[str, Any]) -> None:
    results["reset"] = StepResult(Seen("x"), "much")  # type: ignore[arg-type]  # the nonsense
    bench = Bench()
    bench.open()
    failed(bench.reset(), "invalid_observation", "reward")


# -- step ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Seen("a"), (None, False, False)),
        (Seen("a", 0.0), (0.0, False, False)),
        (Seen("a", 2, True), (2.0, True, False)),
        (StepResult(Seen("a")), (None, False, False)),
        (StepResult(Seen("a", 5.0), 1, truncated=True), (1.0, False, True)),
        (
            StepResult({"text": "a", "reward": 3, "truncated": True, "done": True}),
            (None, False, False),
        ),
        ({"text": "a", "reward": 3, "truncated": True, "done": True}, (3.0, False, True)),
        ({"text": "a", "terminated": True}, (None, True, False)),
    ],
)
def test_rewards_and_ends(
    results: dict[str, Any], result: Any, expected: tuple[float | None, bool, bool]
) -> None:
    results["it"] = result
    of_dicts = isinstance(getattr(result, "observation", result), dict)
    bench = Bench(observation=Any if of_dicts else None).begin()
    reply = bench.step("it")
    assert isinstance(reply, Observation)
    assert (reply.reward, reply.terminated, reply.truncated) == expected
    assert unpack(reply.payload)["text"] == "a"
    if expected[1] or expected[2]:
        failed(bench.step(), "episode_ended")


def test_info(results: dict[str, Any]) -> None:
    results["it"] = StepResult(Seen("a"), info={"tries": [1, 2]})
    reply = Bench().begin().step("it")
    assert unpack(reply.info) == {"tries": [1, 2]}


@pytest.mark.parametrize(
    "result",
    [
        Seen("a", "much"),  # type: ignore[arg-type]  # the nonsense
        {"text": object()},
        StepResult(Seen("a"), info={"x": object()}),
        Seen(object()),  # type: ignore[arg-type]  # the nonsense
        StepResult(Seen("a"), [1]),  # type: ignore[arg-type]  # the nonsense
    ],
)
def test_what_cannot_be_sent_is_the_environments_fault(
    results: dict[str, Any], result: Any
) -> None:
    results["it"] = result
    bench = Bench().begin()
    detail = failed(bench.step("it"), "invalid_observation", "step() of Sync")
    assert detail["phase"] == "step"
    assert isinstance(bench.step(), Observation)
    assert bench.ask(State).step_count == 2


@pytest.mark.parametrize("payload", [b"\xc1", b"", pack(5), pack({"do": 5}), pack({"dp": "x"})])
def test_bad_actions(payload: bytes) -> None:
    bench = Bench().begin()
    failed(bench.ask(Step, 0, payload), "invalid_action", "invalid action")
    assert bench.ask(State).step_count == 0


def test_what_step_raises(results: dict[str, Any]) -> None:
    results["boom"] = ZeroDivisionError("1/0")
    results["ours"] = InvalidAction("no such door", door=5)
    results["exit"] = SystemExit(3)
    bench = Bench().begin()
    detail = failed(bench.step("boom"), "environment_raised", "step() of Sync raised")
    assert (detail["raised"], detail["text"]) == ("ZeroDivisionError", "1/0")
    assert "traceback" not in detail
    detail = failed(bench.step("ours"), "invalid_action", "no such door")
    assert detail["door"] == 5
    failed(bench.step("exit"), "environment_raised", "SystemExit")
    assert isinstance(bench.step(), Observation)


def test_a_callers_mistake_pays_for_no_traceback(results: dict[str, Any]) -> None:
    for kind, error in (("mistake", InvalidAction("no")), ("fault", EnvironmentDied("gone"))):
        results["it"] = error
        bench = Bench().begin()
        bench.step("it")
        assert (bench.runner.trouble is None) == (kind == "mistake")
    results["it"] = InvalidAction("no")
    assert (
        "InvalidAction"
        in failed(Bench(debug=True).begin().step("it"), "invalid_action")["traceback"]
    )


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, StopIteration])
def test_what_ends_programs_is_an_error_of_the_call(
    results: dict[str, Any], kind: type[BaseException]
) -> None:
    results["stop"] = kind()
    bench = Bench().begin()
    detail = failed(bench.step("stop"), "environment_raised")
    assert detail["raised"] == kind.__name__
    assert isinstance(bench.step(), Observation)


def test_tracebacks_only_when_asked_for(results: dict[str, Any]) -> None:
    results["boom"] = ZeroDivisionError("1/0")
    bench = Bench(debug=True).begin()
    detail = failed(bench.step("boom"), "environment_raised")
    assert "ZeroDivisionError" in detail["traceback"]


# -- state and close ----------------------------------------------------------------------


def test_a_state_that_cannot_be_sent(results: dict[str, Any]) -> None:
    results["state"] = {"x": object()}
    detail = failed(Bench().begin().ask(State), "invalid_observation", "state() of Sync")
    assert detail["phase"] == "state"


def test_an_environment_without_state_or_close() -> None:
    class Bare:
        def reset(self) -> dict[str, Any]:
            return {}

        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {}

    bench = Bench(Bare).begin()
    assert unpack(bench.ask(State).payload) == {}
    assert isinstance(bench.ask(Close), Closed)


def test_an_instance_is_never_closed() -> None:
    closed: list[int] = []

    class Closing(Sync):
        def close(self) -> None:
            closed.append(1)

    bench = Bench(Closing()).begin()
    assert isinstance(bench.ask(Close), Closed)
    failed(bench.step(), "session_closed")
    assert closed == []
    bench = Bench(Closing).begin()
    for _ in range(2):
        assert isinstance(bench.ask(Close), Closed)
    assert closed == [1]


# -- async --------------------------------------------------------------------------------


async def test_async_calls() -> None:
    bench = Bench(Async)
    await bench.begin_async()
    reply = await bench.ask_async(Step(1, 2, 0, pack({"do": "hello"})))
    assert unpack(reply.payload)["text"] == "hello"
    state = await bench.ask_async(State(1, 3))
    assert isinstance(state, StateIs)
    assert unpack(state.payload) == {"property": True}
    assert state.step_count == 1
    assert isinstance(await bench.ask_async(Close(1, 4)), Closed)
    failed(await bench.ask_async(State(1, 5)), "session_closed")


async def test_async_refusals_and_raises() -> None:
    bench = Bench(Async)
    await bench.ask_async(Open(1, token(1), token(2)))
    for credit in (0, 5):
        request = Step(1, 1, 0, pack({}), None, credit)
        failed(await bench.ask_async(request), "episode_not_started")
    await bench.ask_async(Reset(1, 2))
    failed(await bench.ask_async(Step(1, 3, 0, pack({"do": 5}))), "invalid_action")
    Async.results["boom"] = ValueError("bad")
    failed(await bench.ask_async(Step(1, 4, 0, pack({"do": "boom"}))), "environment_raised", "bad")
    Async.results["stop"] = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await bench.ask_async(Step(1, 5, 0, pack({"do": "stop"})))


async def streamed(bench: Bench, *items: Any) -> Any:
    Async.stream[:] = items
    bench.emitted.clear()
    bench.seq += 1
    return await bench.ask_async(Step(1, bench.seq, 0, pack({}), None, 10))


def text(value: str) -> dict[str, Any]:
    return {"text": value, "reward": None, "done": False, "numbers": []}


async def test_streams() -> None:
    bench = Bench(Async)
    await bench.begin_async()
    reply = await streamed(bench, "a", {"b": 1}, Seen("c", 1.0))
    assert bench.emitted == [("a", False), ({"b": 1}, False)]
    assert (unpack(reply.payload)["text"], reply.reward) == ("c", 1.0)
    reply = await streamed(bench, Seen("a"), "between", Seen("b"), Seen("c"))
    assert bench.emitted == [(text("a"), True), ("between", False), (text("b"), True)]
    assert unpack(reply.payload)["text"] == "c"
    reply = await streamed(bench, Seen("a"), StepResult(Seen("end"), 2.0, terminated=True), "x")
    assert bench.emitted == [(text("a"), True)]
    assert (reply.reward, reply.terminated) == (2.0, True)


async def test_streams_that_fail() -> None:
    bench = Bench(Async)
    await bench.begin_async()
    failed(await streamed(bench), "invalid_observation", "without a final")
    failed(await streamed(bench, Seen("a"), "late"), "invalid_observation", "without a final")
    assert bench.emitted == [(text("a"), True), ("late", False)]
    failed(await streamed(bench, "a", OSError("broken")), "environment_raised", "broken")
    assert bench.emitted == [("a", False)]
    failed(await streamed(bench, Seen("held"), OSError("broken")), "environment_raised", "broken")
    assert bench.emitted == [(text("held"), True)]
    failed(await streamed(bench, object(), Seen("x")), "invalid_model")


# -- what a small change would break --------------------------------------------------------


def test_the_least_and_the_most_of_a_reset() -> None:
    bench = Bench()
    bench.open()
    for fields in ((0, "e"), (2**62, "x" * 255)):
        begun = bench.reset(None, *fields)
        assert (begun.seed, begun.episode_id) == fields


def test_every_episode_has_another_id_and_counts_its_own_steps() -> None:
    bench = Bench().begin()
    ids = set()
    for _ in range(3):
        bench.step()
        assert bench.ask(State).step_count == 1
        begun = bench.reset()
        assert bench.ask(State).step_count == 0
        assert len(begun.episode_id) == 16
        ids.add(begun.episode_id)
    assert len(ids) == 3


def test_a_closed_session_does_not_look_at_options() -> None:
    bench = Bench().begin()
    bench.ask(Close)
    failed(bench.reset([1]), "session_closed")


def test_a_reset_whose_episode_was_cut_short_ended_it(results: dict[str, Any]) -> None:
    results["reset"] = StepResult(Seen("over"), truncated=True)
    bench = Bench()
    bench.open()
    assert (bench.reset().terminated, bench.runner.phase) == (False, Phase.ENDED)


def test_a_worker_tells_its_server_each_traceback(results: dict[str, Any]) -> None:
    results["boom"] = ZeroDivisionError("1/0")
    bench = Bench()
    bench.runner = EnvironmentRunner(bench.spec, Telling(in_worker=True))
    bench.begin()
    assert "ZeroDivisionError" in failed(bench.step("boom"), "environment_raised")["traceback"]


def test_the_traceback_of_a_constructor_is_that_of_its_own_error() -> None:
    bench = Bench()
    bench.open({"fail": "no disk"})
    assert bench.runner.trouble is not None
    assert bench.runner.trouble.rstrip().endswith("OSError: no disk")


def test_the_episode_is_named_where_the_environment_failed(results: dict[str, Any]) -> None:
    results.update(boom=ZeroDivisionError("1/0"), mistake=InvalidAction("no"))
    bench = Bench()
    bench.open()
    episode = bench.reset().episode_id
    assert failed(bench.step("boom"), "environment_raised")["episode_id"] == episode
    assert "episode_id" not in failed(bench.step("mistake"), "invalid_action")


async def test_the_fast_path_of_a_step_refuses_as_the_other_does() -> None:
    bench = Bench(Async)

    async def step(do: Any) -> Any:
        bench.seq += 1
        request = Step(1, bench.seq, 0, pack({"do": do}))
        return await bench.runner.step_async(request, bench.codecs)

    await bench.ask_async(Open(1, token(1), token(2)))
    failed(await step("x"), "episode_not_started")
    await bench.ask_async(Reset(1, 1))
    assert unpack((await step("x")).payload)["text"] == "x"
    failed(await step(5), "invalid_action")
    Async.results.update(
        boom=ValueError("bad"), stop=asyncio.CancelledError(), end=StepResult(Seen("z"), 1.0, True)
    )
    failed(await step("boom"), "environment_raised", "bad")
    with pytest.raises(asyncio.CancelledError):
        await step("stop")
    assert (await step("end")).terminated
    failed(await step("x"), "episode_ended")


class Plain(Environment[Action, Seen, dict[str, Any]]):
    """Async, and does not stream."""

    async def reset(self) -> Seen:
        return Seen("ready")

    async def step(self, action: Action) -> Seen:
        return Seen(action.do)


async def test_credit_for_what_does_not_stream_is_no_harm() -> None:
    bench = Bench(Plain)
    await bench.begin_async()
    reply = await bench.ask_async(Step(1, 2, 0, pack({"do": "a"}), None, 5))
    assert unpack(reply.payload)["text"] == "a"
    assert bench.emitted == []


async def test_a_stream_of_undeclared_values_holds_each() -> None:
    bench = Bench(Async, observation=Any)
    await bench.begin_async()
    reply = await streamed(bench, "a", "b")
    assert bench.emitted == [("a", True)]
    assert unpack(reply.payload) == "b"


class Typed(TypedDict):
    text: str


async def test_a_stream_of_a_typed_dict_holds_each() -> None:
    bench = Bench(Async, observation=Typed)
    await bench.ask_async(Open(1, token(1), token(2)))
    bench.runner.phase = Phase.RUNNING
    reply = await streamed(bench, {"text": "a"}, {"text": "b"})
    assert bench.emitted == [({"text": "a"}, True)]
    assert unpack(reply.payload) == {"text": "b"}


async def test_a_streamed_step_counts_and_may_end_the_episode() -> None:
    bench = Bench(Async)
    await bench.begin_async()
    await streamed(bench, "a", Seen("b"))
    assert (bench.runner.steps, bench.runner.phase) == (1, Phase.RUNNING)
    assert (await streamed(bench, Seen("end", 1.0, True))).terminated
    assert (bench.runner.steps, bench.runner.phase) == (2, Phase.ENDED)


async def test_the_last_of_a_stream_cannot_be_read() -> None:
    bench = Bench(Async)
    await bench.begin_async()
    odd: Any = Seen("odd", "much")  # type: ignore[arg-type]  # the nonsense
    detail = failed(await streamed(bench, "a", odd), "invalid_observation", "reward")
    assert detail["phase"] == "step"
    assert bench.emitted == [("a", False)]
    reply = await streamed(bench, odd, Seen("good"))
    assert [seen["text"] for seen, _ in bench.emitted] == ["odd"]
    assert unpack(reply.payload)["text"] == "good"


class Closing(Async):
    """Its streams note that they were closed, and may fail at it."""

    closed: ClassVar[list[str]] = []

    async def step_stream(self, action: Action) -> AsyncIterator[Any]:
        try:
            for item in self.stream:
                yield item
        finally:
            self.closed.append(action.do)
            if action.do == "fail":
                raise OSError("the pipe is broken")


async def test_a_stream_is_closed_before_its_last_is_sent() -> None:
    bench = Bench(Closing)
    await bench.begin_async()
    Closing.closed.clear()

    async def streamed(do: str, *items: Any) -> Any:
        Async.stream[:] = items
        bench.seq += 1
        return await bench.ask_async(Step(1, bench.seq, 0, pack({"do": do}), None, 10))

    reply = await streamed("early", StepResult(Seen("a"), 1.0), "never")
    assert (reply.reward, Closing.closed) == (1.0, ["early"])
    detail = failed(await streamed("fail", Seen("a")), "environment_raised", "step_stream() of")
    assert (detail["raised"], detail["phase"]) == ("OSError", "step")
    assert Closing.closed == ["early", "fail"]


async def test_a_call_is_made_inside_its_trace_and_nothing_else() -> None:
    seen: list[Any] = []

    class Looking(Async):
        async def reset(self, *, seed: int | None = None) -> Seen:
            seen.append(current.get())
            return Seen("ready")

        async def step(self, action: Action) -> Seen:
            seen.append(current.get())
            return Seen(action.do)

    class LookingSync(Sync):
        def step(self, action: Action) -> Any:
            seen.append(current.get())
            return Seen(action.do)

    trace = TraceContext("00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    outside = current.get()
    bench = Bench(Looking)
    bench.runner = TracedRunner(bench.spec, Telling(max_error_size=1000), trace)
    await bench.begin_async()
    assert current.get() is outside
    step = Step(1, 2, 0, pack({"do": "a"}))
    assert isinstance(await bench.runner.step_async(step, bench.codecs), Observation)
    assert current.get() is outside

    async def late() -> Seen:
        seen.append(current.get())
        return Seen("late")

    reply = await bench.runner.finish(Unfinished(step, late()), bench.codecs)
    assert isinstance(reply, Observation)
    assert current.get() is outside
    sync = Bench(LookingSync)
    sync.runner = TracedRunner(sync.spec, Telling(max_error_size=1000), trace)
    assert isinstance(sync.begin().step(), Observation)
    assert current.get() is outside
    assert seen == [trace] * 4


def test_an_environment_gets_no_dict_from_being_built_and_reset() -> None:
    """A dict is 64 bytes of each session, and attributes behind one are read slower."""

    class Counter(Environment[Action, Seen, dict[str, Any]]):
        isolation = "inline"

        def __init__(self) -> None:
            self.count = 0

        def reset(self) -> Seen:
            self.count = 1
            return Seen()

        def step(self, action: Action) -> StepResult[Seen]:
            self.count += 1
            return StepResult(Seen(), 0.0)

    def has_dict(env: object) -> bool:
        return any(type(each) is dict for each in gc.get_referents(env))

    spec = EnvironmentSpec(Counter)
    looked_at = Counter()
    assert looked_at.__dict__ == {"count": 0}
    if has_dict(Counter()) or not has_dict(looked_at):
        pytest.skip("this Python makes the dict at another time")
    runner, codecs = EnvironmentRunner(spec), Codecs(spec, "msgpack")
    runner.handle(Open(1, token(1), token(2)), codecs)
    runner.handle(Reset(1, 1), codecs)
    reply = runner.handle(Step(1, 2, 1, pack({"do": "it"})), codecs)
    assert isinstance(reply, Observation)
    assert runner.env.count == 2
    assert not has_dict(runner.env)
