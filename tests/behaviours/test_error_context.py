"""Errors carry their cause: which session, request, environment and phase, over every transport."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from openenv_async import EngineOptions, GenericEnvClient, HTTPEnvClient, Timeouts, connect, errors
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    EnvironmentRaised,
    EnvironmentStartFailed,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
    OpenEnvError,
    PayloadTooLarge,
    ServerBusy,
    error_class,
    error_from_wire,
)
from openenv_async.version import __version__
from tests.behaviours.environments import Commanded, CommandedProcess, Sleeper, served
from tests.rollouts.environments import CannotStart, Counting

CONTEXT: dict[str, Any] = {
    "session_id": "5" * 32,
    "request_id": 7,
    "env": "EchoEnvironment",
    "container_id": "c0ffee",
    "phase": "step",
    "exit_code": -9,
    "oom": True,
    "log_tail": "one\ntwo",
    "server_version": "openenv_async/0",
}
DETAIL: dict[str, Any] = {
    "limit": 3,
    "names": ["a"],
    "nested": {"value": None},
    "message_of_day": "x",
}


def every_class(root: type[OpenEnvError] = OpenEnvError) -> Iterator[type[OpenEnvError]]:
    yield root
    for cls in root.__subclasses__():
        yield from every_class(cls)


# Those of other tests, made to be told badly, are not among them.
OURS = {cls for cls in every_class() if cls.__module__.startswith("openenv_async")}
CLASSES = sorted(OURS, key=lambda cls: cls.__name__)


def same(one: OpenEnvError, other: Any) -> None:
    assert type(other) is type(one)
    assert str(other) == str(one) == one.message == other.message
    assert other.retryable is one.retryable
    assert other.detail == one.detail
    assert other.context() == one.context()


# -- every class --------------------------------------------------------------------------


def test_all_classes_are_public_and_have_a_code_of_their_own() -> None:
    ours = [cls for cls in CLASSES if cls.__module__ == errors.__name__]
    assert {cls.__name__ for cls in ours} <= set(errors.__all__)
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(error_class(cls.code) is cls for cls in CLASSES)
    assert len(ours) > 25


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("retryable", [None, True, False])
def test_pickling_keeps_everything(cls: type[OpenEnvError], retryable: bool | None) -> None:
    error = cls("what went wrong", retryable=retryable, **CONTEXT, **DETAIL)
    assert error.context() == CONTEXT
    assert error.detail == DETAIL
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        same(error, pickle.loads(pickle.dumps(error, protocol)))
    same(error, copy.copy(error))
    same(error, copy.deepcopy(error))
    same(cls("short"), pickle.loads(pickle.dumps(cls("short"))))


@pytest.mark.parametrize("cls", CLASSES)
def test_the_wire_keeps_everything(cls: type[OpenEnvError]) -> None:
    error = cls("what went wrong", **CONTEXT, **DETAIL)
    same(error, error_from_wire(error.code, error.message, error.retryable, error.to_wire()))


@pytest.mark.parametrize("cls", CLASSES)
def test_each_is_what_python_calls_it(cls: type[OpenEnvError]) -> None:
    if issubclass(cls, DeadlineExceeded):
        assert issubclass(cls, TimeoutError)
    if issubclass(cls, errors.TransportError):
        assert issubclass(cls, ConnectionError)
    assert cls.__doc__


def test_context_is_filled_once_and_only_with_what_is_known() -> None:
    error = OpenEnvError("x", session_id="first")
    error.add_context(session_id="second", phase="step")
    assert error.context() == {"session_id": "first", "phase": "step"}
    with pytest.raises(TypeError, match="color"):
        error.add_context(color="red")


# -- every transport ---------------------------------------------------------------------------

TRANSPORTS = ["msgpack", "json", "http", "memory"]


class Transport:
    """A client over one transport; ``context`` is what its errors must carry."""

    def __init__(self, name: str, engine: Any, url: str) -> None:
        self.name = name
        self.engine = engine
        self.url = url

    def client(self, **options: Any) -> Any:
        if self.name == "http":
            return HTTPEnvClient(self.url, **options)
        return GenericEnvClient(self.url, subprotocol=f"openenv.v1.{self.name}", **options)

    def located(self, error: OpenEnvError, phase: str, session_id: str | None = None) -> None:
        assert error.phase == phase
        assert error.env == self.engine.spec.name
        assert error.session_id is not None
        if session_id is not None:
            assert error.session_id == session_id
            assert error.request_id is not None
            assert error.request_id > 0
        assert error.server_version == f"openenv_async/{__version__}"
        same(error, pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize("name", TRANSPORTS[:3])
async def test_errors_of_calls(name: str) -> None:
    async with served(Commanded) as (url, engine):
        transport = Transport(name, engine, url)
        client = transport.client()
        await client.open()
        session = client.session_id
        with pytest.raises(EpisodeNotStarted) as early:
            await client.step({})
        transport.located(early.value, "step", session)
        with pytest.raises(InvalidOption) as option:
            await client.reset(color="red")
        transport.located(option.value, "reset", session)
        await client.reset()
        with pytest.raises(EnvironmentRaised, match="on purpose") as raised:
            await client.step({"do": "raise", "type": "Exception"})
        transport.located(raised.value, "step", session)
        assert raised.value.detail["raised"] == "Exception"
        with pytest.raises(DeadlineExceeded) as late:
            await client.step({"do": "sleep", "seconds": 1}, timeout=0.1)
        transport.located(late.value, "step", session)
        assert late.value.detail["field"] == "step"
        assert late.value.detail["value"] == pytest.approx(0.1)
        await client.close()


@pytest.mark.parametrize("name", TRANSPORTS[:3])
async def test_errors_of_what_does_not_fit(name: str) -> None:
    async with served(Counting) as (url, engine):
        transport = Transport(name, engine, url)
        client = transport.client()
        await client.reset()
        with pytest.raises(InvalidAction) as caught:
            await client.step({"amount": "many"})
        transport.located(caught.value, "step", client.session_id)
        await client.close()


@pytest.mark.parametrize("name", TRANSPORTS[:3])
async def test_errors_of_opening(name: str) -> None:
    async with served(CannotStart) as (url, engine):
        transport = Transport(name, engine, url)
        with pytest.raises(EnvironmentStartFailed) as start:
            await transport.client().open()
        transport.located(start.value, "open")
    async with served(Counting, max_sessions=1) as (url, engine):
        transport = Transport(name, engine, url)
        first = transport.client()
        await first.open()
        with pytest.raises(ServerBusy) as busy:
            await transport.client().open()
        transport.located(busy.value, "open")
        assert busy.value.retryable
        assert busy.value.detail["limit"] == 1
        assert busy.value.detail["setting"] == "max_sessions"
        await first.close()


@pytest.mark.parametrize("name", TRANSPORTS[:3])
async def test_errors_of_a_process_that_died(name: str) -> None:
    async with served(CommandedProcess) as (url, engine):
        transport = Transport(name, engine, url)
        client = transport.client()
        await client.reset()
        session = client.session_id
        with pytest.raises(EnvironmentDied) as caught:
            await client.step({"do": "die"})
        error = caught.value
        assert error.exit_code == -9
        assert error.log_tail is not None
        assert error.log_tail.endswith("the very last line")
        assert error.session_id == session
        assert error.phase == "step"
        same(error, pickle.loads(pickle.dumps(error)))
        await client.close()


async def test_errors_in_process() -> None:
    async with connect(Sleeper) as client:
        session = client.session_id
        with pytest.raises(EpisodeNotStarted) as early:
            await client.step({})
        with pytest.raises(DeadlineExceeded) as late:
            await client.reset(seconds=5.0, timeout=0.05)
        for error, phase in ((early.value, "step"), (late.value, "reset")):
            assert error.session_id == session
            assert error.phase == phase
            assert error.env == "Sleeper"
            assert error.server_version == f"openenv_async/{__version__}"


async def test_errors_of_this_side_say_where() -> None:
    async with served(Counting) as (url, engine):
        for make in (GenericEnvClient, HTTPEnvClient):
            client: Any = make(url)
            await client.reset()
            huge = "x" * (engine.options.limits.max_message_size + 1)
            with pytest.raises((PayloadTooLarge, InvalidAction)) as caught:
                await client.step({"amount": huge})
            assert caught.value.session_id == client.session_id
            await client.close()
    with pytest.raises(errors.ConnectFailed) as refused:
        await GenericEnvClient("http://127.0.0.1:9", timeouts=Timeouts(connect=2.0)).open()
    assert refused.value.phase == "connect"
    assert EngineOptions().debug is False
