"""Requests that do not get through, and the sockets that the clients of a loop share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest

from openenv_async import HTTPEnvClient, serve
from openenv_async.client.endpoint import (
    MEDIA,
    Endpoint,
    Opened,
    ResultReply,
    Sockets,
    State,
    read_reply,
    taken_number,
)
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.settings import ClientSettings
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidOption,
    OpenEnvError,
    PayloadTooLarge,
    ProtocolError,
    Unauthorized,
)
from openenv_async.types import MAX_DEPTH, Limits, Timeouts
from tests.helpers import until
from tests.rollouts.environments import Counting


class Failing(Endpoint):
    """Attempts fail one after another, in this way."""

    def __init__(self, *errors: Exception) -> None:
        settings = ClientSettings(limits=Limits(max_message_size=1), timeouts=Timeouts(connect=0.5))
        super().__init__("http://127.0.0.1:1", settings)
        self.errors = list(errors)

    async def _client(self) -> Any:
        return self

    def request(self, *args: Any, **settings: Any) -> Any:
        raise self.errors.pop(0)


def refused() -> aiohttp.ClientConnectorError:
    key: Any = SimpleNamespace(host="127.0.0.1", port=1, ssl=True)
    return aiohttp.ClientConnectorError(key, ConnectionRefusedError(111, "refused"))


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([aiohttp.ConnectionTimeoutError()], ConnectFailed),
        ([aiohttp.ServerDisconnectedError()] * 4, ConnectionLost),
        # The first attempt may have arrived: so this is not a failure to connect.
        (
            [aiohttp.ServerDisconnectedError(), *[aiohttp.ConnectionTimeoutError()] * 3],
            ConnectionLost,
        ),
        ([refused()], ConnectFailed),
        ([aiohttp.ServerDisconnectedError(), *[refused()] * 3], ConnectionLost),
    ],
)
async def test_only_a_first_attempt_fails_to_connect(
    errors: list[Exception], raised: type[OpenEnvError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openenv_async.client.endpoint._PAUSES", (0.0,) * 4)
    endpoint = Failing(*errors)
    with pytest.raises(raised) as caught:
        await endpoint.exchange("POST", "/step", b"", {}, 1.0)
    assert type(caught.value) is raised
    assert not endpoint.errors


def test_a_server_without_a_token_is_sent_none() -> None:
    endpoint = Failing()
    endpoint.move("http://127.0.0.1:2", "secret")
    assert endpoint.headers["Authorization"] == "Bearer secret"
    endpoint.move("http://127.0.0.1:3", None)
    assert "Authorization" not in endpoint.headers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("7", 7), ("0", 0), ("", None), ("-1", None), ("9" * 5000, None)],
        *[("9" * 18, 10**18 - 1), ("9" * 19, None), ("٣", None), ("x", None)],
    ],
)
def test_numbers_that_servers_say(text: str, number: int | None) -> None:
    response: Any = SimpleNamespace(headers={"X-OpenEnv-Seq": text})
    assert taken_number(response) == number


# -- addresses and headers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("http://a:1/", "http://a:1"),
        ("ws://a/ws", "http://a"),
        ("wss://a/ws/", "https://a"),
        ("https://a/mount/?x=1#y", "https://a/mount"),
        ("http://a#y", "http://a"),
    ],
)
def test_requests_go_to_the_servers_own_address(url: str, at: str) -> None:
    assert Endpoint(url, ClientSettings()).url == at


def test_headers_of_every_request() -> None:
    assert Endpoint("http://a", ClientSettings()).headers == {"Accept": MEDIA}
    settings = ClientSettings(token="t", headers={"X-Key": "1", "Accept": "text/html"})
    endpoint = Endpoint("http://a", settings)
    assert endpoint.headers == {"Accept": MEDIA, "X-Key": "1", "Authorization": "Bearer t"}


# -- exchanges ------------------------------------------------------------------------------------


class Body:
    """The parts of a body, as aiohttp gives them."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.closed = False

    @property
    def content(self) -> Any:
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part

    def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> Body:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return


class Answering(Endpoint):
    """Each request meets the next error or body."""

    def __init__(self, *events: Exception | Body, **settings: Any) -> None:
        super().__init__("http://127.0.0.1:1", ClientSettings(**settings))
        self.events = list(events)
        self.asked: list[tuple[Any, ...]] = []
        self.given: list[dict[str, Any]] = []

    async def _client(self) -> Any:
        return self

    def request(self, *args: Any, **settings: Any) -> Any:
        self.asked.append(args)
        self.given.append(settings)
        event = self.events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event


async def ask(endpoint: Endpoint, timeout: float | None = 2.0) -> bytes:
    return (await endpoint.exchange("POST", "/step", b"data", {"X": "1"}, timeout))[1]


async def test_a_request_as_it_is_sent() -> None:
    endpoint = Answering(Body(b"ab", b"cd"), timeouts=Timeouts(connect=3.0))
    assert await ask(endpoint) == b"abcd"
    assert endpoint.asked == [("POST", "http://127.0.0.1:1/step")]
    given = endpoint.given[0]
    assert (given["data"], given["headers"]) == (b"data", {"X": "1"})
    assert (given["ssl"], given["allow_redirects"]) == (True, False)
    assert (given["timeout"].total, given["timeout"].sock_connect) == (7.0, 3.0)


@pytest.mark.parametrize("timeout", [None, math.inf])
async def test_without_a_deadline_there_is_none(timeout: float | None) -> None:
    endpoint = Answering(Body())
    assert await ask(endpoint, timeout) == b""
    assert endpoint.given[0]["timeout"].total is None


async def test_a_lost_request_is_sent_again_after_longer_and_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("openenv_async.client.endpoint.asyncio.sleep", sleep)
    lost = [aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError(), OSError("reset")]
    endpoint = Answering(*lost, Body(b"late"))
    assert await ask(endpoint) == b"late"
    assert pauses == [0.1, 0.5, 1.0]
    assert len(set(endpoint.asked)) == 1


@pytest.mark.parametrize(
    ("error", "kind", "part"),
    [
        (TimeoutError(), DeadlineExceeded, "overloaded or the network is stuck"),
        (aiohttp.ConnectionTimeoutError(), ConnectFailed, "within 10 s"),
        (aiohttp.InvalidURL("x"), ConnectFailed, "is not a valid address"),
        (aiohttp.ClientError(), ProtocolError, "does not speak HTTP"),
        (PayloadTooLarge("large"), PayloadTooLarge, "large"),
    ],
)
async def test_another_attempt_would_be_no_use(
    error: Exception, kind: type[OpenEnvError], part: str
) -> None:
    endpoint = Answering(error)
    with pytest.raises(OpenEnvError, match=part) as caught:
        await ask(endpoint)
    assert type(caught.value) is kind
    assert len(endpoint.asked) == 1
    if kind is DeadlineExceeded:
        assert caught.value.detail == {"field": "step", "value": 2.0}


async def test_a_deadline_of_a_later_attempt_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.client.endpoint._PAUSES", (0.0,) * 4)
    with pytest.raises(DeadlineExceeded):
        await ask(Answering(aiohttp.ServerDisconnectedError(), TimeoutError()))


@pytest.mark.parametrize(("parts", "fits"), [((b"abc", b"d"), True), ((b"abc", b"de"), False)])
async def test_an_answer_has_a_greatest_size(parts: tuple[bytes, ...], fits: bool) -> None:
    body = Body(*parts)
    endpoint = Answering(body, limits=Limits(max_message_size=4))
    if fits:
        assert await ask(endpoint) == b"abcd"
    else:
        with pytest.raises(PayloadTooLarge, match="5"):
            await ask(endpoint)
    assert body.closed is not fits


# -- replies --------------------------------------------------------------------------------------


def response(status: int, media: str = MEDIA, token: bool = False) -> Any:
    return SimpleNamespace(
        status=status,
        content_type=media,
        headers={},
        request_info=SimpleNamespace(headers={"Authorization": ""} if token else {}),
        url=SimpleNamespace(path="/open"),
    )


def read(status: int, body: Any, **options: Any) -> Opened:
    data = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    return read_reply("http://a", response(status, **options), data, Opened)


def test_a_reply_is_read_as_what_was_asked_for() -> None:
    assert read(200, {"seq": 3}) == Opened(3, [])
    assert read(399, {"reset_options": ["a"]}) == Opened(0, ["a"])


@pytest.mark.parametrize("status", [400, 500])
def test_an_error_is_raised(status: int) -> None:
    said = {"error": {"code": "invalid_option", "message": "m"}}
    with pytest.raises(InvalidOption, match="m"):
        read(status, said)
    denied = {"error": {"code": "unauthorized", "message": "m"}}
    with pytest.raises(Unauthorized, match=f"HTTP {status}: it needs a token"):
        read(status, denied)
    with pytest.raises(Unauthorized, match="check the token"):
        read(status, denied, token=True)


@pytest.mark.parametrize("body", [b"\xc1", b"", {"seq": "x"}, [3]])
def test_a_reply_that_cannot_be_read_is_the_servers_fault(body: Any) -> None:
    for status in (200, 400):
        with pytest.raises(ProtocolError, match="http://a sent an unreadable reply"):
            read(status, body)


def test_a_reply_of_another_type_or_too_deep_is_refused() -> None:
    with pytest.raises(ConnectFailed, match="not an openenv_async server"):
        read(200, {"seq": 3}, media="application/json")
    with pytest.raises(OpenEnvError):
        read(200, b"\x91" * 100 + b"\x00")


@pytest.mark.parametrize(("depth", "fits"), [(MAX_DEPTH + 4, True), (MAX_DEPTH + 5, False)])
def test_a_reply_may_be_as_deep_as_an_observation_in_it(depth: int, fits: bool) -> None:
    observation = msgspec.Raw(b"\x91" * (depth - 1) + b"\x00")
    body = msgspec.msgpack.encode({"observation": observation})
    if fits:
        reply = read_reply("http://a", response(200), body, ResultReply)
        assert bytes(reply.observation) == bytes(observation)
    else:
        with pytest.raises(OpenEnvError, match="deep"):
            read_reply("http://a", response(200), body, ResultReply)


def test_what_a_reply_leaves_out() -> None:
    body = msgspec.msgpack.encode({"observation": 1})
    reply = read_reply("http://a", response(200), body, ResultReply)
    assert (reply.reward, reply.terminated, reply.truncated) == (None, False, False)
    assert (bytes(reply.info), reply.episode_id, reply.seed) == (b"\xc0", "", 0)
    state = read_reply("http://a", response(200), msgspec.msgpack.encode({"state": 1}), State)
    assert (state.episode_id, state.seed, state.step_count) == (None, None, 0)


@pytest.mark.parametrize(
    ("url", "proxied"), [("http://127.0.0.1:1", False), ("http://example.com", True)]
)
async def test_proxies_of_the_environment_are_for_other_hosts(url: str, proxied: bool) -> None:
    endpoint = Endpoint(url, ClientSettings())
    client = await endpoint._client()
    assert client.trust_env is proxied
    assert client.connector is not None
    assert client.connector.limit == 0
    assert isinstance(client.cookie_jar, aiohttp.DummyCookieJar)
    await endpoint.aclose()


async def test_an_endpoint_takes_sockets_and_gives_them_back() -> None:
    endpoint = Endpoint("http://127.0.0.1:1", ClientSettings())
    loop = asyncio.get_running_loop()
    client = await endpoint._client()
    assert await endpoint._client() is client
    assert held_by(loop) == 1
    await endpoint.aclose()
    await endpoint.aclose()
    assert (client.closed, held_by(loop)) == (True, 0)
    client = await endpoint._client()
    sockets: Any = endpoint._sockets
    endpoint.leave_sockets()
    await endpoint.aclose()
    assert not client.closed
    await sockets.release()
    assert client.closed


# -- sockets --------------------------------------------------------------------------------------


def held_by(loop: asyncio.AbstractEventLoop) -> int:
    return sum(key[0] is loop for key in Sockets._open)


async def test_clients_of_a_loop_share_them_and_the_last_one_closes() -> None:
    one, two = await Sockets.acquire(False), await Sockets.acquire(False)
    assert one is two
    client = one.client
    await one.release()
    assert (client.closed, held_by(one.loop)) == (False, 1)
    await two.release()
    assert (client.closed, held_by(one.loop)) == (True, 0)


async def test_a_client_that_comes_while_the_last_one_closes_gets_others() -> None:
    async with serve(Counting) as url:
        closing = await Sockets.acquire(False)
        async with closing.client.get(url + "/health") as reply:
            await reply.read()  # the connection is kept, and closing it takes a while
        releasing = asyncio.create_task(closing.release())
        await asyncio.sleep(0)
        assert closing._users == 0
        assert not releasing.done()
        others = await Sockets.acquire(False)
        async with others.client.get(url + "/health") as reply:
            assert reply.status == 200
        await releasing
        assert await Sockets.acquire(False) is others
        await others.release()
        await others.release()
        assert others.client.closed


async def test_a_client_that_changes_loops_leaves_nothing_in_the_first() -> None:
    background = background_loop()
    before = held_by(background.loop)
    async with serve(Counting) as url:
        env = HTTPEnvClient[Any, Any, Any](url)
        blocking = env.sync()
        for _ in range(2):
            await asyncio.to_thread(blocking.reset)
            assert held_by(background.loop) == before + 1
            await env.step({"amount": 1})
            await until(lambda: held_by(background.loop) == before)
        await env.close()
    assert held_by(asyncio.get_running_loop()) == 0


def test_sockets_that_nobody_gave_back_close_with_their_loop() -> None:
    async def take() -> Sockets:
        return await Sockets.acquire(False)

    sockets = asyncio.run(take())
    assert sockets.client.closed
    assert held_by(sockets.loop) == 0
    assert sockets._users == 1
    asyncio.run(sockets.release())
    assert sockets._users == 0
