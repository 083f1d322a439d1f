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
)
from openenv_async.rollouts.sessions import Sessions, client_factories, usual_retry
from openenv_async.rollouts.summary import Summary
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


def sessions_of(*clients: Client, left: Callable[[], bool] = lambda: True) -> Sessions:
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
        sessions = sessions_of(*clients)
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
        assert await sessions_of(client).open(0) == (None, error)
        assert (client.opened, client.closed) == (0, 1)

    play(scenario())


@pytest.mark.parametrize("error", [InvalidOption("no such option"), ValueError("a bug")])
def test_a_wrong_opening_is_raised_and_its_client_closed(error: Exception) -> None:
    async def scenario() -> None:
        client = Client(error)
        with pytest.raises(type(error)):
            await sessions_of(client).open(0)
        assert client.closed == 1

    play(scenario())


def test_nothing_is_opened_when_nothing_is_left_to_play() -> None:
    async def scenario() -> None:
        client = Client()
        assert await sessions_of(client, left=lambda: False).open(0) == (None, None)
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
        sessions = sessions_of(client)
        assert await sessions.open(0) == (client, None)
        assert now() == 2 * pause
        assert (client.closed, sessions._summary.refused) == (2, 2)

    play(scenario())


def test_a_full_server_is_waited_for_for_a_minute_while_nothing_is_open() -> None:
    async def scenario() -> None:
        client = Client(*[busy() for _ in range(100)])
        found, error = await sessions_of(client).open(0)
        assert found is None
        assert isinstance(error, ServerBusy)
        assert now() == 60.0

    play(scenario())


def test_it_is_waited_for_as_long_as_a_session_is_open() -> None:
    async def scenario() -> None:
        open_one, waiting = Client(), Client(*[busy() for _ in range(200)])
        sessions = sessions_of(open_one, waiting)
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
        sessions = sessions_of(client, left=lambda: left)
        opening = asyncio.create_task(sessions.open(0))
        await asyncio.sleep(5.5)
        left = False
        assert await opening == (None, None)
        assert now() == 6.0

    play(scenario())


def test_openings_that_nobody_needs_are_cancelled() -> None:
    async def scenario() -> None:
        slow, quick = Client(seconds=30.0), Client()
        sessions = sessions_of(slow, quick)
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
        sessions = sessions_of(client)
        await sessions.open(0)
        await sessions.close(client)
        assert client.closed == 1
        assert sessions._open_count == 0

    play(scenario())


class Pool:
    """Leases clients."""

    def session(self) -> Client:
        return Client()


def test_the_usual_retry_is_that_of_a_pool_or_none() -> None:
    assert usual_retry(Pool()) == "unstarted"
    assert usual_retry("http://127.0.0.1:1") == "never"


def test_every_url_and_connection_has_a_factory() -> None:
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    made = [make() for make in client_factories(urls, 2, "secret")]
    assert all(isinstance(client, GenericEnvClient) for client in made)
    assert [client.base_url for client in made] == [*urls, *urls]
    assert [client.settings.share for client in made] == [True, True, "collect-1", "collect-1"]
    assert {client.settings.token for client in made} == {"secret"}
    assert len(client_factories(urls[0], None, None)) == 1


def test_a_pool_and_a_factory_are_taken_as_they_are() -> None:
    pool = Pool()
    assert client_factories(pool, None, None) == [pool.session]
    assert client_factories(Client, None, None) == [Client]


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (Pool(), {"token": "t"}, ValueError, "a pool has its own"),
        (Pool(), {"connections": 1}, ValueError, "a pool has its own"),
        (Client, {"token": "t"}, ValueError, "gives its own"),
        (Client, {"connections": 2}, ValueError, "decides for itself"),
        ([], {}, ValueError, "no URL"),
        (b"http://127.0.0.1:1", {}, TypeError, "open a client there"),
        ({"http://127.0.0.1:1": 1}, {}, TypeError, "a URL, several"),
        (3, {}, TypeError, "a URL, several"),
        ("http://127.0.0.1:1", {"connections": 0}, ValueError, "connections must be at least 1"),
        (lambda url: Client(), {}, TypeError, "cannot be called"),
    ],
)
def test_sources_that_make_no_sense(
    source: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"connections": None, "token": None, **options}
    with pytest.raises(error, match=message):
        client_factories(source, **arguments)


def test_an_async_factory_is_refused() -> None:
    async def make() -> Client:
        return Client()

    with pytest.raises(TypeError, match="returns a client at once"):
        client_factories(make, None, None)
