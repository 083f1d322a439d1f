"""Every argument of every call of every client: a wrong one is told, and then a good call works."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import fractions
import inspect
import math
import pathlib
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openenv_async import (
    EngineOptions,
    EnvClient,
    Environment,
    EnvPool,
    GenericEnvClient,
    HTTPEnvClient,
    Limits,
    SyncEnvClient,
    Timeouts,
    connect,
    create_app,
    serve,
)
from openenv_async.client.arguments import (
    checked_count,
    checked_episode_id,
    checked_options,
    checked_seed,
    checked_timeout,
    encoded,
    is_sendable,
    refuse_unknown,
    reset_arguments,
)
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.vector import ResetRequest, VectorSessions
from openenv_async.errors import (
    CallerError,
    ConnectFailed,
    DeadlineExceeded,
    InvalidModel,
    InvalidOption,
    OpenEnvError,
    PayloadTooLarge,
    SessionClosed,
    TransportError,
)
from openenv_async.rollouts import rollout
from openenv_async.types import MAX_SECONDS


class Plain(Environment[Any, Any, Any]):
    """An environment that returns each action."""

    isolation = "inline"

    def reset(self, seed: int = 0, level: Any = None) -> dict[str, Any]:
        self.steps = 0
        return {"seed": seed, "level": level}

    def step(self, action: Any) -> dict[str, Any]:
        self.steps += 1
        return {"steps": self.steps}

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}


class Sandbox(Environment[Any, Any, Any]):
    """Its reset has options of the names that clients take for themselves."""

    isolation = "inline"

    def reset(self, timeout: float = 5.0, reset_options: str = "", size: int = 1) -> dict[str, Any]:
        return {"timeout": timeout, "reset_options": reset_options, "size": size}

    def step(self, action: Any) -> dict[str, Any]:
        return {}


# -- every client -------------------------------------------------------------------------------


class Subject:
    """A client of any kind, as coroutines."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        call = getattr(self.client, name)
        if isinstance(self.client, SyncEnvClient):
            if inspect.isgeneratorfunction(call):
                return await asyncio.to_thread(lambda: list(call(*args, **options)))
            return await asyncio.to_thread(call, *args, **options)
        made = call(*args, **options)
        if hasattr(made, "__aiter__"):
            return [each async for each in made]
        return await made


@contextlib.asynccontextmanager
async def subject_of(kind: str, env: Any = Plain) -> AsyncIterator[Subject]:
    if kind == "in process":
        async with connect(env) as client:
            yield Subject(client)
        return
    async with serve(env, options=EngineOptions(max_sessions=64)) as url:
        if kind == "pooled":
            async with EnvPool.from_url(url) as pool, pool.session() as client:
                yield Subject(client)
            return
        made: dict[str, Callable[[], Any]] = {
            "msgpack": lambda: EnvClient(url),
            "json": lambda: EnvClient(url, subprotocol="openenv.v1.json"),
            "generic": lambda: GenericEnvClient(url),
            "http": lambda: HTTPEnvClient(url),
            "blocking": lambda: SyncEnvClient(url),
            "blocking http": lambda: HTTPEnvClient(url).sync(),
            "upstream": lambda: EnvClient(url, subprotocol="upstream"),
        }
        subject = Subject(made[kind]())
        try:
            yield subject
        finally:
            await subject.call("close")


KINDS = (
    *("msgpack", "json", "generic", "http", "blocking", "blocking http"),
    *("in process", "pooled", "upstream"),
)


class Hostile:
    """An object whose every question raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __float__(self) -> float:
        raise RuntimeError("no float")


UNSENDABLE: tuple[Any, ...] = (object(), Hostile(), lambda: 1, {1, object()}, iter([]), type, sys)
WRONG: dict[str, tuple[Any, ...]] = {
    "seed": (
        *(3.0, "3", True, np.True_, np.float32(1), -1, 2**63, 2**64, 10**400, -(2**70), 1j),
        *([1], (1,), {}, b"1", np.array([1, 2]), np.array(True), math.nan, decimal.Decimal(1)),
        *UNSENDABLE,
    ),
    "episode_id": (5, 5.0, b"x", "", "x" * 256, "\ud800", True, ["a"], {}, *UNSENDABLE),
    "timeout": (
        *("5", "", True, 0, -1, -0.5, math.nan, -math.inf, 10**400, 2**64, 1e300, 1j, [5], b"5"),
        *(timedelta(seconds=5), np.array([5.0, 1.0]), np.bool_(True), np.float64("nan")),
        *UNSENDABLE,
    ),
    "reset_options": (
        *(5, "level", [("level", 1)], {1: 2}, {None: 1}, {"seed": 3}, {"no_such_option": 1}),
        *(object(), {"level": object()}, {"level": Hostile()}, {"level": lambda: 1}),
    ),
    "options": UNSENDABLE[:4],
    "action": UNSENDABLE[:4],
}
CALLS = {
    name: [
        parameter.name
        for parameter in inspect.signature(getattr(EnvClient, name)).parameters.values()
        if parameter.name != "self"
    ]
    for name in ("reset", "step", "state", "stream_step")
}
GOOD = {"action": {"go": 1}}


def test_every_argument_of_every_call_has_wrong_values() -> None:
    """A new argument of a call must come with wrong values for it, of every client."""
    for client in (EnvClient, SyncEnvClient, HTTPEnvClient):
        for name, known in CALLS.items():
            if not hasattr(client, name):
                continue
            found = [p for p in inspect.signature(getattr(client, name)).parameters if p != "self"]
            assert found == known, f"{client.__name__}.{name}"
    assert {argument for known in CALLS.values() for argument in known} == set(WRONG)


async def _wrong_then_good(subject: Subject, name: str, argument: str, value: Any) -> None:
    given: dict[str, Any] = {"level" if argument == "options" else argument: value}
    if name in ("step", "stream_step") and argument != "action":
        given = {**GOOD, **given}
    with pytest.raises((ValueError, TypeError)) as caught:
        await subject.call(name, **given)
    assert isinstance(caught.value, OpenEnvError), "an error of the library, which names the cure"
    assert not isinstance(caught.value, TransportError)
    if argument in ("seed", "episode_id", "timeout", "reset_options"):
        named = (argument, "no_such_option", "'level'")
        assert any(name in str(caught.value) for name in named), caught.value
    async with asyncio.timeout(20):
        steps = (await subject.call("step", GOOD["action"])).observation["steps"]
        assert (await subject.call("state"))["steps"] == steps
        assert (await subject.call("reset", seed=7)).observation["seed"] == 7


@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_wrong_argument_the_session_is_as_it_was(kind: str) -> None:
    async with subject_of(kind) as subject:
        await subject.call("reset")
        for name, arguments in CALLS.items():
            if not hasattr(subject.client, name) or (name == "stream_step" and "http" in kind):
                continue
            for argument in arguments:
                for value in WRONG[argument]:
                    if kind == "upstream" and isinstance(value, dict) and "no_such_option" in value:
                        continue  # upstream's servers take it and ignore it
                    await _wrong_then_good(subject, name, argument, value)


_numbers = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=2**63),
    st.floats(),
    st.decimals(),
    st.complex_numbers(),
    st.booleans(),
)
_values = st.recursive(
    st.one_of(_numbers, st.text(max_size=5), st.binary(max_size=5), st.just(object())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.integers(), inner, min_size=1, max_size=2),
        st.tuples(inner),
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("kind", ["msgpack", "json", "http", "upstream"])
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    wrong=st.lists(
        st.tuples(
            st.sampled_from(
                [(name, argument) for name, known in CALLS.items() for argument in known]
            ),
            _values,
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_value_for_any_argument_is_taken_or_told(
    kind: str, wrong: list[tuple[tuple[str, str], Any]]
) -> None:
    """The next good call works after any wrong ones, in any order."""

    async def play() -> None:
        async with subject_of(kind) as subject:
            await subject.call("reset")
            for (name, argument), value in wrong:
                if not hasattr(subject.client, name):
                    continue  # HTTP streams nothing
                given = {"level" if argument == "options" else argument: value}
                if name in ("step", "stream_step"):
                    given = {**GOOD, **given}
                async with asyncio.timeout(20):
                    with contextlib.suppress(CallerError, DeadlineExceeded):  # 1e-9 s
                        await subject.call(name, **given)
                assert (await subject.call("reset", seed=7)).observation["seed"] == 7

    asyncio.run(play())


@pytest.mark.parametrize("kind", KINDS)
async def test_numbers_of_numpy_are_numbers(kind: str) -> None:
    async with subject_of(kind) as subject:
        for seed in (np.int64(3), np.uint8(3), np.array(3), np.random.default_rng(0).integers(9)):
            result = await subject.call("reset", seed=seed)
            assert result.observation["seed"] == int(seed)
            assert type(subject.client.episode.seed) is int
        for timeout in (np.float32(9), np.int16(9), 9, fractions.Fraction(9, 2), math.inf):
            await subject.call("reset", timeout=timeout)
            await subject.call("step", {}, timeout=timeout)


async def test_a_request_too_large_after_which_another_was_made_leaves_no_gap() -> None:
    """The first waits for a transport that takes nothing; its caller does not wait so long."""
    limits = Limits(max_message_size=100_000)
    async with serve(Plain) as url, GenericEnvClient(url, limits=limits, share=False) as env:
        await env.reset()
        assert env.connection is not None
        outbox = env.connection.outbox
        outbox.blocked = asyncio.create_task(asyncio.sleep(3600))
        large = asyncio.create_task(env.step("x" * 200_000))
        await asyncio.sleep(0)
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        after = asyncio.create_task(env.step({}))
        await asyncio.sleep(0)
        outbox.blocked.cancel()
        outbox.blocked = None
        outbox._flush()
        async with asyncio.timeout(10):
            assert (await after).observation == {"steps": 1}
        with pytest.raises(PayloadTooLarge):
            await env.step("x" * 200_000)
        assert (await env.step({})).observation == {"steps": 2}


# -- vectors ------------------------------------------------------------------------------------


WRONG_SLOTS: tuple[Any, ...] = (2, -1, "0", None, 0.5)
WRONG_PAYLOADS: tuple[Any, ...] = ({}, "x", 5)


def _requests(seed: Any = None, slot: Any = 0, options: Any = None) -> list[ResetRequest]:
    return [ResetRequest(slot, seed, options)]


async def test_a_vector_with_a_wrong_request_has_sent_none() -> None:
    def play(url: str) -> None:
        sessions: Any = VectorSessions(url, 2)
        try:
            sessions.reset([*_requests(1), *_requests(2, 1)])
            assert len(sessions.take(2, 20)) == 2
            go = sessions.wire.encode_any({})
            wrong: list[Callable[[], Any]] = [
                *(lambda v=value: sessions.reset(_requests(v)) for value in WRONG["seed"]),
                *(lambda v=v: sessions.reset(_requests(slot=v)) for v in WRONG_SLOTS),
                *(lambda v=v: sessions.reset(_requests(options=v)) for v in WRONG_PAYLOADS),
                lambda: sessions.reset([5]),
                lambda: sessions.step([0, 1], [go]),
                lambda: sessions.step([0, 2], [go, go]),
                lambda: sessions.step([-1], [go]),
                lambda: sessions.step([0], [go], resets=[7]),
                lambda: sessions.take("1"),
                lambda: sessions.take(-1),
                *(lambda v=v: sessions.take(0, v) for v in WRONG["timeout"]),
            ]
            for call in wrong:
                with pytest.raises(InvalidOption):
                    call()
                sessions.step([0, 1], [go, go])
                assert [answer.error for answer in sessions.take(2, 20)] == [None, None]
        finally:
            sessions.close()

    async with serve(Plain) as url:
        await asyncio.to_thread(play, url)
    made: Any = VectorSessions
    for count in (0, -1, "2", 1.5, None, True):
        with pytest.raises(ValueError, match="number of sessions"):
            made("http://127.0.0.1:1", count)
    for source in (None, 5, Plain, pathlib.Path("x")):
        with pytest.raises(TypeError, match="client must be the address"):
            made(source, 2)


# -- options of the environment that have the name of an argument -------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_an_option_called_timeout_reaches_the_environment(kind: str) -> None:
    async with subject_of(kind, Sandbox) as subject:
        given = {"timeout": 3.0, "reset_options": "text", "size": 2}
        result = await subject.call("reset", reset_options=given)
        assert {name: result.observation[name] for name in given} == given
        result = await subject.call("reset", timeout=30.0, reset_options={"timeout": 3.0}, size=4)
        assert (result.observation["timeout"], result.observation["size"]) == (3.0, 4)
        result = await subject.call("reset", timeout=30.0, reset_options={})
        assert result.observation["timeout"] == 5.0
        with pytest.raises(InvalidOption, match="twice"):
            await subject.call("reset", reset_options={"size": 1}, size=1)
        if kind != "upstream":  # whose servers do not say which options they have
            with pytest.raises(InvalidOption, match=r"ambiguous.*reset_options="):
                await subject.call("reset", timeout=3.0)
        assert (await subject.call("reset")).observation["size"] == 1


@pytest.mark.parametrize("kind", ["msgpack", "http", "in process"])
async def test_a_first_call_with_an_ambiguous_timeout_is_refused_as_well(kind: str) -> None:
    async with serve(Sandbox) as url:
        for client in (GenericEnvClient(url), HTTPEnvClient[Any, Any, Any](url)):
            with pytest.raises(InvalidOption, match="ambiguous"):
                await client.reset(timeout=3.0)
            assert (await client.reset()).observation["timeout"] == 5.0
            await client.close()


async def test_a_rollout_hands_every_option_to_the_environment() -> None:
    async with connect(Sandbox) as env:
        options = {"timeout": 3.0, "size": 2}
        outcome = await rollout(env, lambda _: {}, reset_options=options, max_steps=1)
        assert outcome.trajectory is not None
        first = outcome.trajectory.transitions[0].observation
        assert first == {"timeout": 3.0, "reset_options": "", "size": 2}


# -- constructors -------------------------------------------------------------------------------

WRONG_SETTINGS: dict[str, tuple[Any, ...]] = {
    "token": (5, b"x", ["t"]),
    "timeouts": (3, 3.0, "3", {"step": 3}, Timeouts),
    "limits": (3, "3", {}, Limits),
    "options": (3, "x", [("a", 1)], {1: 2}),
    "headers": (3, "x", [("a", "b")], {"a": 1}, {1: "a"}, {"a b": "c"}, {"a": "b\r\nc: d"}),
    "ssl": (3, True, pathlib.Path("x")),
    "share": (3, None, 1.5),
    "subprotocol": ("msgpack", 5, "openenv.v2"),
}


@pytest.mark.parametrize("client", [EnvClient, GenericEnvClient, SyncEnvClient, HTTPEnvClient])
def test_a_wrong_setting_is_told_where_it_is_given(client: Any) -> None:
    accepted = {"token", "timeouts", "limits", "options", "headers", "ssl"}
    if client is not HTTPEnvClient:
        accepted |= {"share", "subprotocol"}
    for name, values in WRONG_SETTINGS.items():
        for value in values:
            told = name if name in accepted else "takes no"
            with pytest.raises((TypeError, ValueError), match=told):
                client("http://127.0.0.1:1", **{name: value})
    for wrong, cure in (("timeout", "timeouts=Timeouts"), ("tokn", "token"), ("zzz", "it takes")):
        with pytest.raises(
            TypeError, match=f"{client.__name__} takes no argument '{wrong}'.*{cure}"
        ):
            client("http://127.0.0.1:1", **{wrong: 3})


@pytest.mark.parametrize("value", ["5", 0, -1, math.nan, math.inf, True, 10**400, 1e300, [1], 1j])
def test_a_wrong_deadline_is_told_where_it_is_given(value: Any) -> None:
    with pytest.raises(ValueError, match="timeout 'step' must be a positive number"):
        Timeouts(step=value)


def test_deadlines_of_numpy_are_floats() -> None:
    given: Any = {"step": np.float32(2), "reset": np.int64(3)}
    made = Timeouts(**given)
    assert (made.step, made.reset) == (2.0, 3.0)
    assert (type(made.step), type(made.reset)) == (float, float)


# -- ways of calling ----------------------------------------------------------------------------


async def test_the_wrong_kind_of_with_says_which_is_right() -> None:
    client: Any = GenericEnvClient("http://127.0.0.1:1")
    with pytest.raises(TypeError, match="async with"), client:
        pass
    client = SyncEnvClient("http://127.0.0.1:1")
    with pytest.raises(TypeError, match="`with SyncEnvClient"):
        async with client:
            pass


async def test_a_blocking_client_works_in_a_running_loop() -> None:
    async with serve(Plain) as url:
        async with connect(Plain) as there:
            await there.reset()
        assert background_loop().loop is not asyncio.get_running_loop()
        made = await asyncio.to_thread(lambda: SyncEnvClient[Any, Any, Any](url).open())
        await asyncio.to_thread(made.close)
        with pytest.raises(SessionClosed, match="make a new one"):
            await asyncio.to_thread(made.reset)
    with pytest.raises(ConnectFailed):
        await asyncio.to_thread(SyncEnvClient(url).reset)


async def test_a_blocking_client_in_the_loop_of_its_server_tells_so() -> None:
    async with serve(Plain) as url:
        client: SyncEnvClient[Any, Any, Any] = SyncEnvClient(url, timeouts=Timeouts(connect=0.2))
        with pytest.raises(ConnectFailed, match="in a running event loop, which stands still"):
            client.reset()
        client.close()


# -- Gymnasium's calls --------------------------------------------------------------------------


class Numbers(Sandbox):
    """Counts in integers, so that Gymnasium has spaces for it."""

    def reset(  # type: ignore[override]  # the names are the same, and what it gives another
        self, seed: int = 0, timeout: float = 5.0, size: int = 1
    ) -> int:
        self.given = (timeout, size)
        return seed % 10

    def step(self, action: int) -> int:  # type: ignore[override]  # see there
        return int(10 * self.given[0]) + self.given[1]

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        kind = {"type": "integer", "minimum": 0, "maximum": 99}
        return {"action": kind, "observation": kind}


def _play_gymnasium(url: str) -> None:
    from openenv_async.integrations.gymnasium import GymEnv, GymVectorEnv

    single, vector = GymEnv(url), GymVectorEnv(url, 2)
    try:
        single.reset()
        vector.reset()
        for env, act in ((single, 1), (vector, np.array([1, 1]))):
            made: Any = env
            wrong: list[dict[str, Any]] = [{"seed": seed} for seed in WRONG["seed"][:10]]
            wrong += [{"options": value} for value in (5, "x", [1], {1: 2}, {"no_such": 1})]
            wrong += [{"options": {"size": object()}}]
            for given in wrong:
                with pytest.raises((ValueError, TypeError)) as caught:
                    made.reset(**given)
                assert isinstance(caught.value, OpenEnvError), caught.value
                made.step(act)
                counted = np.asarray(made.reset(seed=np.int64(3))[0])
                assert counted.tolist() == np.asarray(made.reset(seed=3)[0]).tolist()
            seen = made.reset(options={"timeout": 3.0, "size": 2})[0]
            assert np.shape(seen) == np.shape(act)
            assert np.all(np.asarray(made.step(act)[0]) == 32)
        made = vector
        assert made.reset(seed=[np.int64(4), 7])[0].tolist() == [4, 7]
        for seeds in ([1], [1.5, 2], ["a", 1]):
            with pytest.raises(ValueError, match="seed"):
                made.reset(seed=seeds)
            vector.step(np.array([1, 1]))
    finally:
        single.close()
        vector.close()


async def test_gymnasiums_reset_takes_every_option_and_refuses_what_is_wrong() -> None:
    async with serve(Numbers) as url:
        await asyncio.to_thread(_play_gymnasium, url)


async def test_a_deadline_too_short_for_the_header_is_still_one() -> None:
    """The header has six digits; 0 in it means none."""
    seen: list[str] = []

    async def looking(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.extend(v.decode() for k, v in scope["headers"] if k == b"x-openenv-timeout")
        await app(scope, receive, send)

    looking.routes = []  # type: ignore[attr-defined]  # which makes it an application to serve
    app = create_app(Plain)
    async with serve(looking) as url, HTTPEnvClient[Any, Any, Any](url) as env:
        with contextlib.suppress(OpenEnvError):
            await env.reset(timeout=1e-9)
        await env.reset(timeout=math.inf)
    assert "0.000000" in seen[-2:]
    assert "0.000001" in seen


# -- each check by itself -------------------------------------------------------------------------


class Text(str):
    """A subclass, as enumerations of text are."""


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, np.int64(0), np.uint64(2**63 - 1)])
def test_seeds_from_nothing_to_the_greatest_are_plain_integers(seed: Any) -> None:
    checked = checked_seed(seed)
    assert (checked, type(checked)) == (int(seed), int)
    assert checked_seed(None) is None


@pytest.mark.parametrize(
    ("seed", "part"),
    [
        *[(seed, "must be from 0 to") for seed in (-1, 2**63, np.int64(-1), np.uint64(2**63))],
        *[(seed, "must be an integer or None") for seed in (True, False, np.True_, 1.0, "1")],
    ],
)
def test_a_wrong_seed_is_told_with_what_is_wrong(seed: Any, part: str) -> None:
    with pytest.raises(InvalidOption, match=part) as caught:
        checked_seed(seed)
    assert caught.value.detail == {"option": "seed"}


@pytest.mark.parametrize("name", ["x", "x" * 255, "é" * 255, Text("x"), Text("é")])
def test_names_of_episodes_are_plain_text(name: str) -> None:
    checked = checked_episode_id(name)
    assert (checked, type(checked)) == (name, str)
    assert checked_episode_id(None) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (5, "must be text or None"),
        (b"x", "must be text or None"),
        ("", "1 to 255 characters, got 0"),
        ("x" * 256, "1 to 255 characters, got 256"),
        ("x\ud800", "not valid Unicode"),
    ],
)
def test_a_wrong_name_of_an_episode_is_told_with_what_is_wrong(name: Any, part: str) -> None:
    with pytest.raises(InvalidOption, match=part) as caught:
        checked_episode_id(name)
    assert caught.value.detail == {"option": "episode_id"}


def test_texts_that_can_be_sent() -> None:
    assert is_sendable("")
    assert is_sendable("é😀")
    assert not is_sendable("\udfff")


@pytest.mark.parametrize("seconds", [5e-324, 1, 0.5, MAX_SECONDS, np.float32(2)])
def test_seconds_of_a_call(seconds: Any) -> None:
    checked = checked_timeout(seconds, "step")
    assert (checked, type(checked)) == (float(seconds), float)
    assert checked_timeout(math.inf, "step") is None


@pytest.mark.parametrize(
    "seconds",
    [0, -0.0, -1, math.nextafter(MAX_SECONDS, math.inf), 10**400, math.nan, -math.inf, True, None],
)
def test_wrong_seconds_are_told_with_their_call(seconds: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^state\(timeout=…\) must be a positive") as caught:
        checked_timeout(seconds, "state")
    assert caught.value.detail == {"option": "timeout"}


def test_numbers_of_things() -> None:
    for count in (2, 3, np.int8(2)):
        checked = checked_count(count, "the number", 2, ValueError)
        assert (checked, type(checked)) == (int(count), int)
    assert checked_count(0, "the number", 0, ValueError) == 0
    for wrong in (1, -1, True, np.True_, 2.0, "2", None, Hostile()):
        with pytest.raises(LookupError, match="the number must be an integer of at least 2, got"):
            checked_count(wrong, "the number", 2, LookupError)


def test_options_by_name_and_in_a_map_are_put_together() -> None:
    options = {"level": 1}
    assert checked_options(options, None, None, ["timeout"]) is options
    assert checked_options(options, None, 3.0, ["size"]) is options
    assert checked_options(options, {"timeout": 4}, 3.0, ["timeout"]) == {"level": 1, "timeout": 4}
    assert checked_options(options, {}, 3.0, ["timeout"]) == options
    assert options == {"level": 1}


@pytest.mark.parametrize(
    ("given", "part", "option"),
    [
        (None, "ambiguous", "timeout"),
        (5, "must be a dict from the names", "reset_options"),
        ([("a", 1)], "must be a dict from the names", "reset_options"),
        ({"a": 1, 2: 3}, "must be a dict from the names", "reset_options"),
        ({"seed": 1}, r"give it as reset\(seed=…\)", "seed"),
        ({"episode_id": "x"}, r"give it as reset\(episode_id=…\)", "episode_id"),
        ({"level": 2}, "'level' twice", "level"),
    ],
)
def test_options_that_are_wrong_together(given: Any, part: str, option: str) -> None:
    with pytest.raises(InvalidOption, match=part) as caught:
        checked_options({"level": 1}, given, 3.0, ["timeout"])
    assert caught.value.detail == {"option": option}


def test_a_value_that_cannot_be_sent_is_told_by_its_name() -> None:
    def refuse(value: Any) -> bytes:
        raise InvalidModel("no way")

    assert encoded(3, lambda value: b"%d" % value, "options") == b"3"
    with pytest.raises(InvalidModel, match=r"^reset\(\) cannot send its options: no way$"):
        encoded(3, refuse, "options")


def test_every_option_gets_past_the_arguments_of_the_call() -> None:
    assert reset_arguments({"level": 1}, seed=3) == {"level": 1, "seed": 3}
    assert reset_arguments({}) == {}
    clashing = {"timeout": 1, "self": 2, "reset_options": 3, 4: 5}
    assert reset_arguments({"level": 1, **clashing}, seed=None) == {
        "level": 1,
        "seed": None,
        "reset_options": clashing,
    }


@pytest.mark.parametrize(
    ("unknown", "known", "hint"),
    [
        (["timeout", "x"], ["timeouts"], "deadlines are timeouts=Timeouts"),
        (["timeout"], ["time_out"], r"did you mean time_out=\?"),
        (["tokn"], ["timeouts", "token"], r"did you mean token=\?"),
        (["zzz"], ["timeouts", "token"], "it takes timeouts, token$"),
    ],
)
def test_an_argument_that_there_is_not(unknown: list[str], known: list[str], hint: str) -> None:
    with pytest.raises(TypeError, match=f"^made takes no argument '{unknown[0]}': {hint}"):
        refuse_unknown("made", unknown, known)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("connect_timeout_s", r"Timeouts\(connect="), ("docker_image", "image=")],
)
def test_keywords_of_upstream_are_refused_with_ours(name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"takes no argument '{name}': here it is .*{hint}.*compat"):
        refuse_unknown("EnvClient", [name], ["timeouts"])
