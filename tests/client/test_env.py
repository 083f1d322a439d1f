"""One client's session: its requests, how it is opened once, replaced and closed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pickle
from typing import Any

import msgspec
import pytest

from openenv_async import EnvClient, GenericEnvClient, Limits, Timeouts
from openenv_async.client.connection import ClientConnection
from openenv_async.engine import Engine
from openenv_async.errors import (
    InvalidOption,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
)
from openenv_async.pool import EnvPool
from openenv_async.protocol.frames import (
    Cancel,
    Close,
    Open,
    Reset,
    Step,
)
from openenv_async.targets.in_process import dial_memory
from openenv_async.types import EpisodeInfo
from tests.client.fakes import Scripted
from tests.helpers import Counter, make_engine, settle
from tests.pool.workers import LoopProvider


class Dialling(GenericEnvClient):
    """Its connection is made once ``go`` is set."""

    engine: Engine
    go: asyncio.Event

    async def _connect(self) -> ClientConnection:
        await self.go.wait()
        return await dial_memory(self.engine, "openenv.v1.msgpack", Limits(), Timeouts())


@pytest.mark.parametrize("share", [True, False])
async def test_closing_a_client_that_is_being_opened_leaves_no_session(share: bool) -> None:
    engine = make_engine(Counter)
    client = Dialling("memory:", share=share)
    client.engine, client.go = engine, asyncio.Event()
    begun = asyncio.create_task(client.reset())
    await settle()
    await client.close()
    client.go.set()
    with pytest.raises(SessionClosed, match="this client was closed"):
        await begun
    await settle()
    assert client.session_id is None
    assert not engine.sessions
    await engine.aclose()


async def test_closing_a_lease_that_is_being_opened_leaves_no_slot() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, sessions_per_worker=1, max_workers=1) as pool:
        async with pool.session() as first:
            await first.reset()
        for turns in range(0, 30, 2):
            env = pool.session()
            begun = asyncio.create_task(env.reset())
            await settle(turns)
            await env.close()
            async with asyncio.timeout(10):
                with contextlib.suppress(SessionClosed):  # unless it was over before that
                    await begun
            assert pool.statistics().sessions == 0
            assert env.session_id is None
        async with pool.session() as other:  # there is just one slot
            await other.reset()
            assert provider.sessions == 1


# -- requests -------------------------------------------------------------------------------------


class Client(GenericEnvClient):
    """A client on a scripted connection, each dial of which is counted."""

    scripted: Scripted
    dialled = 0

    async def _connect(self) -> Any:
        self.dialled += 1
        await asyncio.sleep(0)
        return self.scripted


def client_of(**settings: Any) -> Client:
    client = Client("memory:", share=False, **settings)
    client.scripted = Scripted()
    return client


ALL = Timeouts(open=15.0, reset=11.0, step=12.0, state=13.0, close=14.0)
NONE = Timeouts(open=None, reset=None, step=None, state=None, close=None)


@pytest.mark.parametrize(
    ("timeouts", "given", "sent"),
    [
        (ALL, {}, [15.0, 11.0, 12.0, 13.0, 12.0, 14.0]),
        (NONE, {}, [0.0] * 6),
        (ALL, {"timeout": 2.5}, [15.0, 2.5, 2.5, 2.5, 2.5, 14.0]),
        (ALL, {"timeout": math.inf}, [15.0, 0.0, 0.0, 0.0, 0.0, 14.0]),
    ],
)
async def test_every_request_has_its_deadline(
    timeouts: Timeouts, given: dict[str, Any], sent: list[float]
) -> None:
    client = client_of(timeouts=timeouts)
    await client.reset(**given)
    await client.step({}, **given)
    await client.state(**given)
    assert len([result async for result in client.stream_step({}, **given)]) == 1
    await client.close()
    assert [frame.timeout for frame in client.scripted.frames] == sent


async def test_a_reset_carries_seed_name_and_options() -> None:
    client = client_of()
    result = await client.reset(seed=3, episode_id="x", level=2)
    plain = await client.reset()
    first, second = client.scripted.sent_of(Reset)
    assert (first.seed, first.episode_id) == (3, "x")
    assert msgspec.msgpack.decode(first.payload) == {"level": 2}
    assert (second.seed, second.episode_id, second.payload) == (None, None, None)
    assert (result.observation, result.reward, result.done) == ({"seen": 1}, 0.5, False)
    assert plain == result
    assert client.episode == EpisodeInfo("e", 7, 0)
    for wrong in ({"seed": -1}, {"episode_id": ""}, {"timeout": 0}):
        with pytest.raises(InvalidOption):
            await client.reset(**wrong)
    client.scripted.server["reset_options"] = ["timeout"]
    with pytest.raises(InvalidOption, match="ambiguous"):
        await client.reset(timeout=3)
    await client.reset(timeout=3, reset_options={"timeout": 4})
    assert msgspec.msgpack.decode(client.scripted.sent_of(Reset)[-1].payload) == {"timeout": 4}


async def test_steps_are_counted_in_their_episode() -> None:
    client = client_of()
    await client.step({"a": 1})  # whose episode nobody began here
    before = client.episode
    assert before is None
    await client.reset()
    client.scripted.info = msgspec.msgpack.encode({"why": "x"})
    result = await client.step({"a": 2})
    assert (result.reward, result.terminated, result.truncated) == (1.5, True, False)
    assert result.info == {"why": "x"}
    assert client.episode is not None
    assert client.episode.step_count == 1
    async for _ in client.stream_step({}):
        pass
    assert client.episode.step_count == 2
    assert client.scripted.channels[0].steps == 3
    first = client.scripted.sent_of(Step)[0]
    assert msgspec.msgpack.decode(first.payload) == {"a": 1}
    assert [frame.seq for frame in client.scripted.frames[1:]] == [1, 2, 3, 4]


@pytest.mark.parametrize(("told", "credit"), [(None, 64), (8, 8), (1000, 64)])
async def test_a_streamed_step_asks_for_what_the_server_gives(
    told: int | None, credit: int
) -> None:
    client = client_of()
    if told is not None:
        client.scripted.server["max_credit"] = told
    assert [each.reward async for each in client.stream_step({})] == [1.5]
    assert client.scripted.sent_of(Step)[0].credit == credit


async def test_a_state_says_which_episode_it_is_of() -> None:
    client = client_of()
    assert await client.state() == {"n": 1, "episode_id": "f", "step_count": 9}
    assert client.episode == EpisodeInfo("f", 0, 9)
    client.scripted.state = {"episode_id": "own", "step_count": 1}
    assert await client.state() == {"episode_id": "own", "step_count": 1}
    client.scripted.state = 5
    assert await client.state() == 5


async def test_one_call_at_a_time() -> None:
    client = client_of()
    await client.open()
    client.scripted.silent = True
    running = asyncio.ensure_future(client.step({}))
    await asyncio.sleep(0)
    for call in (client.step({}), client.reset(), client.state(), anext(client.stream_step({}))):
        with pytest.raises(SessionBusy, match="while another call of this client"):
            await call
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [frame.seq for frame in client.scripted.sent_of(Cancel)] == [1]
    resetting = asyncio.ensure_future(client.reset())
    await asyncio.sleep(0)
    resetting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await resetting
    assert [frame.seq for frame in client.scripted.sent_of(Cancel)] == [1, 2]


# -- the session ----------------------------------------------------------------------------------


async def test_callers_that_come_at_once_wait_for_one_opening() -> None:
    client = client_of()
    made = await asyncio.wait_for(asyncio.gather(*(client.open() for _ in range(3))), 5)
    assert made == [client] * 3
    assert (client.dialled, len(client.scripted.channels)) == (1, 1)
    assert client.session_id == "a" * 32
    connection: Any = client.connection
    assert connection is client.scripted
    assert client._opening is None


async def test_all_that_wait_for_an_opening_meet_its_error() -> None:
    client = client_of()
    client.scripted.refusing = [ServerBusy("full")]
    ends = await asyncio.gather(client.open(), client.open(), return_exceptions=True)
    assert [type(end) for end in ends] == [ServerBusy] * 2
    assert (client.dialled, client.scripted.closed) == (1, 1)
    assert client._opening is None
    await client.open()
    assert client.dialled == 2


async def test_another_caller_opens_when_the_first_is_cancelled() -> None:
    client = client_of()
    first, second = (asyncio.ensure_future(client.open()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.wait_for(second, 5) is client
    assert first.cancelled()
    assert client.dialled == 2


async def test_a_lost_session_is_replaced_by_a_reset_alone() -> None:
    client = client_of()
    await client.reset()
    lost = client.scripted.channels[0]
    lost.fail(SessionLost("gone"))
    with pytest.raises(SessionLost):
        await client.step({})
    with pytest.raises(SessionLost):
        await client.state()
    await client.reset()
    assert lost in client.scripted.forgotten
    assert (client.dialled, len(client.scripted.channels)) == (2, 2)
    assert client.scripted.closed == 1


async def test_a_forked_process_opens_a_session_of_its_own() -> None:
    client = client_of()
    await client.reset()
    first = client.scripted
    first.pid, first.loop = os.getpid() + 1, asyncio.new_event_loop()
    client.scripted = Scripted()
    await client.step({})
    assert first.closed == 0
    assert len(client.scripted.channels) == 1
    first.loop.close()


async def test_a_loop_that_runs_elsewhere_keeps_its_session() -> None:
    class Running:
        def is_running(self) -> bool:
            return True

    client = client_of()
    await client.reset()
    client.scripted.loop = Running()
    for call in (client.step({}), client.reset(), client.state()):
        with pytest.raises(SessionBusy, match="another running event loop"):
            await call


async def test_closing_closes_all_and_for_good() -> None:
    client = client_of()
    await client.reset()
    await client.close()
    await client.close()
    assert len(client.scripted.sent_of(Close)) == 1
    assert client.scripted.forgotten == client.scripted.channels
    assert client.scripted.closed == 1
    for call in (client.step({}), client.reset(), client.open()):
        with pytest.raises(SessionClosed, match="make a new one"):
            await call


@pytest.mark.parametrize("what", ["error", "down"])
async def test_a_session_that_is_gone_needs_no_closing(what: str) -> None:
    client = client_of()
    await client.reset()
    if what == "error":
        client.scripted.channels[0].fail(SessionLost("gone"))
    else:
        client.scripted.up = False
    await client.close()
    assert client.scripted.sent_of(Close) == []
    assert client.scripted.closed == 1


async def test_options_of_the_constructor_go_with_the_opening() -> None:
    client = client_of(options={"level": 3})
    await client.open()
    request = client.scripted.sent_of(Open)[0]
    assert msgspec.msgpack.decode(request.payload) == {"level": 3}
    assert (request.resume, request.session, request.secret) == (False, "a" * 32, "b" * 32)
    assert request.traceparent is None
    other = client_of(options={})
    assert await other is other
    assert other.scripted.sent_of(Open)[0].payload is None


def test_clients_share_where_nothing_sets_them_apart() -> None:
    url = "http://a"
    usual = EnvClient[Any, Any, Any](url)._key()
    same = EnvClient[Any, Any, Any](url, limits=Limits(), timeouts=ALL, options={"a": 1})
    assert hash(usual) == hash(EnvClient[Any, Any, Any](url)._key())
    assert EnvClient[Any, Any, Any](url, timeouts=ALL, options={"a": 1})._key() == usual
    assert same.limits == Limits()
    apart: list[dict[str, Any]] = [
        {"token": "t"},
        {"subprotocol": "upstream"},
        {"headers": {"a": "b"}},
        {"ssl": "a.pem"},
        {"limits": Limits(chunk_size=9)},
        {"share": "mine"},
    ]
    keys = {EnvClient[Any, Any, Any](url, **settings)._key() for settings in apart}
    assert len(keys | {usual, EnvClient[Any, Any, Any]("http://b")._key()}) == 8
    headers = {"a": "1", "b": "2"}
    turned = dict(reversed(headers.items()))
    one, other = (EnvClient[Any, Any, Any](url, headers=each)._key() for each in (headers, turned))
    assert one == other


def test_a_pickled_client_has_nothing_but_its_settings() -> None:
    client = GenericEnvClient("http://a", token="t")
    client._closed, client._episode = True, EpisodeInfo("e", 1)
    copied = pickle.loads(pickle.dumps(client))
    assert (copied.base_url, copied.settings) == (client.base_url, client.settings)
    assert (copied._closed, copied.episode, copied.session_id) == (False, None, None)


async def test_a_client_with_a_container_starts_nothing_yet() -> None:
    timeouts = Timeouts(step=3.0)
    for make in (GenericEnvClient.from_docker_image, GenericEnvClient._from_docker):
        client = make("image:1", 9000, timeouts=timeouts)
        assert client._container is not None
        assert client._container.worker is None
        assert client.timeouts is timeouts
        await client.close()
    assert GenericEnvClient.from_url("http://a", token="t").settings.token == "t"


def test_an_async_client_says_how_it_is_entered() -> None:
    with pytest.raises(TypeError, match=r"`async with GenericEnvClient\(…\) as env`"):
        GenericEnvClient("http://a").__enter__()


def test_a_moved_client_has_the_settings_of_where_it_is() -> None:
    client = GenericEnvClient("http://a", token="t", headers={"a": "b"})
    before = client.settings
    client._move("http://b", "t")
    assert client.base_url == "http://b"
    assert client.settings is before
    client._move("http://b", "u", "lane")
    assert client.settings == before.replace(token="u", share="lane")
    client._move("http://b", "u", "lane")
    client._move("http://c", None)
    assert client.settings == before.replace(token=None, share="lane")
