"""Sessions of many rollouts: opened where there is room, waited for, closed whatever happens."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from openenv_async.client.env import GenericEnvClient
from openenv_async.errors import (
    ConnectFailed,
    InvalidOption,
    OpenEnvError,
    ServerBusy,
    SessionClosed,
    WrongTarget,
)
from openenv_async.rollouts.sessions import Sessions, client_for, sessions_of, usual_retry
from openenv_async.rollouts.summary import Summary
from openenv_async.targets.sessions import TargetSessions
from openenv_async.testing import ManualClock
from tests.scheduling import run


class Client:
    """A client whose opening fails as often as there are errors.

    Attributes:
        opened, closed: how often it was.
    """

    def __init__(self, *errors: BaseException, seconds: float = 0.0) -> None:
        self.errors = list(errors)
        self.seconds = seconds
        self.opened = self.closed = 0
        self.close_error: OpenEnvError | None = None

    async def open(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error

    async def reset(self) -> None:
        """Not called."""


def busy(**detail: Any) -> ServerBusy:
    return ServerBusy("full", **detail)


def opened_from(*clients: Client, left: Callable[[], bool] = lambda: True) -> Sessions:
    """Sessions of which each task has one client of its own."""

    def make(client: Client) -> Client:
        return client

    return Sessions([functools.partial(make, client) for client in clients], left, Summary())


def play(scenario: Coroutine[Any, Any, None]) -> None:
    run(lambda: scenario)


def now() -> float:
    """Seconds since the scenario began."""
    return asyncio.get_running_loop().time() - ManualClock().now


def test_tasks_take_the_factories_in_turn() -> None:
    async def scenario() -> None:
        clients = Client(), Client()
        sessions = opened_from(*clients)
        opened = [await sessions.open(number) for number in range(3)]
        assert [client for client, _ in opened] == [clients[0], clients[1], clients[0]]
        assert [error for _, error in opened] == [None] * 3
        assert clients[0].opened == 2

    play(scenario())


def test_a_client_without_open_and_close_is_taken_as_it_is() -> None:
    class Bare:
        async def reset(self) -> None:
            """Not called."""

    async def scenario() -> None:
        bare = Bare()
        sessions = Sessions([lambda: bare], lambda: True, Summary())
        assert await sessions.open(0) == (bare, None)
        await sessions.close(bare)

    play(scenario())


@pytest.mark.parametrize("error", [ConnectFailed("gone", phase="connect"), OSError("no route")])
def test_a_failed_opening_is_returned_and_its_client_closed(error: Exception) -> None:
    async def scenario() -> None:
        client = Client(error)
        assert await opened_from(client).open(0) == (None, error)
        assert (client.opened, client.closed) == (0, 1)

    play(scenario())


@pytest.mark.parametrize("error", [InvalidOption("no such option"), ValueError("a bug")])
def test_a_wrong_opening_is_raised_and_its_client_closed(error: Exception) -> None:
    async def scenario() -> None:
        client = Client(error)
        with pytest.raises(type(error)):
            await opened_from(client).open(0)
        assert client.closed == 1

    play(scenario())


def test_nothing_is_opened_when_nothing_is_left_to_play() -> None:
    async def scenario() -> None:
        client = Client()
        assert await opened_from(client, left=lambda: False).open(0) == (None, None)
        assert client.opened == 0

    play(scenario())


def test_what_is_no_client_is_refused() -> None:
    async def scenario() -> None:
        sessions = Sessions([lambda: 3], lambda: True, Summary())
        with pytest.raises(TypeError, match=r"collect\(\) needs a client"):
            await sessions.open(0)

    play(scenario())


@pytest.mark.parametrize(
    ("detail", "pause"), [({}, 1.0), ({"retry_after": 0.25}, 0.25), ({"retry_after": 9.0}, 1.0)]
)
def test_a_full_server_is_asked_again_soon(detail: dict[str, float], pause: float) -> None:
    async def scenario() -> None:
        client = Client(busy(**detail), busy(**detail))
        sessions = opened_from(client)
        assert await sessions.open(0) == (client, None)
        assert now() == 2 * pause
        assert (client.closed, sessions._summary.refused) == (2, 2)

    play(scenario())


def test_a_full_server_is_waited_for_for_a_minute_while_nothing_is_open() -> None:
    async def scenario() -> None:
        client = Client(*[busy() for _ in range(100)])
        found, error = await opened_from(client).open(0)
        assert found is None
        assert isinstance(error, ServerBusy)
        assert now() == 60.0

    play(scenario())


def test_it_is_waited_for_as_long_as_a_session_is_open() -> None:
    async def scenario() -> None:
        open_one, waiting = Client(), Client(*[busy() for _ in range(200)])
        sessions = opened_from(open_one, waiting)
        await sessions.open(0)
        opening = asyncio.create_task(sessions.open(1))
        await asyncio.sleep(100.0)
        assert not opening.done()
        await sessions.close(open_one)
        _, error = await opening
        assert isinstance(error, ServerBusy)
        assert now() == pytest.approx(160.0, abs=1.1)

    play(scenario())


def test_nobody_waits_any_more_once_nothing_is_left() -> None:
    async def scenario() -> None:
        left = True
        client = Client(*[busy() for _ in range(100)])
        sessions = opened_from(client, left=lambda: left)
        opening = asyncio.create_task(sessions.open(0))
        await asyncio.sleep(5.5)
        left = False
        assert await opening == (None, None)
        assert now() == 6.0

    play(scenario())


def test_openings_that_nobody_needs_are_cancelled() -> None:
    async def scenario() -> None:
        slow, quick = Client(seconds=30.0), Client()
        sessions = opened_from(slow, quick)
        await sessions.open(1)
        opening = asyncio.create_task(sessions.open(0))
        await asyncio.sleep(1.0)
        sessions.stop_opening()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert (slow.opened, slow.closed) == (0, 1)
        assert quick.closed == 0
        sessions.stop_opening()  # nothing opens any more

    play(scenario())


def test_a_session_that_does_not_close_is_left() -> None:
    async def scenario() -> None:
        client = Client()
        client.close_error = ConnectFailed("gone", phase="close")
        sessions = opened_from(client)
        await sessions.open(0)
        await sessions.close(client)
        assert client.closed == 1
        assert sessions._open_count == 0

    play(scenario())


class Pool:
    """Leases clients."""

    def session(self) -> Client:
        return Client()


def found(source: Any, **options: Any) -> TargetSessions:
    given = {"connections": None, "token": None, "params": None, "entry": "collect()", **options}
    return sessions_of(source, **given)


def test_the_usual_retry_is_that_of_a_pool_or_none() -> None:
    assert usual_retry(found(Pool())) == "unstarted"
    assert usual_retry(found(["http://127.0.0.1:1", "http://127.0.0.1:2"])) == "unstarted"
    assert usual_retry(found("http://127.0.0.1:1")) == "never"


async def test_every_url_and_connection_has_a_factory() -> None:
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    async with found(urls, connections=2, token="secret") as sessions:
        made = [make() for make in sessions.factories]
    assert all(isinstance(client, GenericEnvClient) for client in made)
    assert [client.base_url for client in made] == [*urls, *urls]
    assert [client.settings.share for client in made] == [
        True,
        True,
        "connection-1",
        "connection-1",
    ]
    assert {client.settings.token for client in made} == {"secret"}
    async with found(urls[0]) as sessions:
        assert len(sessions.factories) == 1


async def test_a_pool_and_a_factory_are_taken_as_they_are() -> None:
    for source in (Pool(), lambda: Client()):
        async with found(source) as sessions:
            [make] = sessions.factories
            assert type(make()) is Client


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (Pool(), {"token": "t"}, InvalidOption, "takes no token"),
        (Pool(), {"connections": 1}, ValueError, "decides for itself"),
        (lambda: Client(), {"token": "t"}, InvalidOption, "takes no token"),
        (lambda: Client(), {"connections": 2}, ValueError, "decides for itself"),
        (lambda: Client(), {"params": {"a": 1}}, InvalidOption, "takes no params"),
        ([], {}, WrongTarget, r"collect\(\) was given no URL"),
        (b"http://127.0.0.1:1", {}, WrongTarget, r"collect\(\) cannot play on"),
        (3, {}, WrongTarget, r"collect\(\) cannot play on 3"),
        ("http://127.0.0.1:1", {"connections": 0}, ValueError, "connections must be at least 1"),
    ],
)
def test_sources_that_make_no_sense(
    source: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        found(source, **options)


async def test_a_client_that_is_given_is_played_on_and_stays_open() -> None:
    client = Client()
    async with client_for(client, None, None, "rollout()") as played:
        assert played is client
    assert client.closed == 0
    for given in ({"params": {"a": 1}}, {"token": "t"}):
        arguments: dict[str, Any] = {"params": None, "token": None, **given}
        with pytest.raises(InvalidOption, match="plays on the client itself"):
            async with client_for(client, entry="rollout()", **arguments):
                raise AssertionError("played")
    closed = GenericEnvClient("http://127.0.0.1:1")
    await closed.close()
    with pytest.raises(SessionClosed, match="this one was closed"):
        async with client_for(closed, None, None, "rollout()"):
            raise AssertionError("played")


async def test_the_client_of_another_target_is_closed() -> None:
    client = Client()
    client.close_error = ConnectFailed("gone", phase="close")
    async with client_for(lambda: client, None, None, "rollout()") as played:
        assert played is client
        assert client.closed == 0
    assert client.closed == 1
    with pytest.raises(WrongTarget, match=r"rollout\(\) cannot play on 3"):
        async with client_for(3, None, None, "rollout()"):
            raise AssertionError("played")


async def test_callers_without_a_session_yet_are_counted() -> None:
    release, opening = asyncio.Event(), asyncio.Event()

    class Slow(Client):
        async def open(self) -> None:
            opening.set()
            await release.wait()

    sessions = Sessions([Slow], lambda: True, Summary())
    caller = asyncio.create_task(sessions.open(0))
    await opening.wait()
    assert sessions.waiting == 1
    release.set()
    client, error = await caller
    assert error is None
    assert sessions.waiting == 0
    await sessions.close(client)
