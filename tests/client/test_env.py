"""One client's session: its requests, how it is opened once, replaced and closed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pickle
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from openenv_async import EnvClient, GenericEnvClient, HTTPEnvClient, Limits, Timeouts, serve
from openenv_async.client.connection import ClientConnection
from openenv_async.engine import Engine, quotas
from openenv_async.engine.callers import Caller, Quota
from openenv_async.errors import (
    InvalidOption,
    OpenEnvError,
    QuotaReached,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
    WorkerDied,
)
from openenv_async.pool import EnvPool
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Close,
    Open,
    Partial,
    Reset,
    State,
    Step,
)
from openenv_async.server.app import create_app
from openenv_async.server.callers import Callers, digest_of
from openenv_async.targets.in_process import dial_memory
from openenv_async.types import EpisodeInfo
from tests.client.fakes import Scripted
from tests.helpers import Counter, make_engine, settle, until
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


async def test_a_caller_that_waits_for_an_opening_may_be_cancelled_alone() -> None:
    client = client_of()
    opening, leaving, staying = (asyncio.ensure_future(client.open()) for _ in range(3))
    await asyncio.sleep(0)
    leaving.cancel()
    for waiting in (opening, staying):
        assert await asyncio.wait_for(waiting, 5) is client
    assert leaving.cancelled()
    assert client.dialled == 1


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
        usual: Any = make("image:1")._container
        assert usual._provider.options.port == 8000
        client = make("image:1", 9000, timeouts=timeouts)
        assert client._container is not None
        owned: Any = client._container
        assert owned._provider.options.port == 9000
        assert client._container.worker is None
        assert client.timeouts is timeouts
        await client.close()
    assert GenericEnvClient.from_url("http://a", token="t").settings.token == "t"


def test_a_wrong_address_or_argument_is_told_when_a_client_is_made() -> None:
    with pytest.raises(ValueError, match="not a valid server address"):
        GenericEnvClient("here")
    with pytest.raises(TypeError, match="GenericEnvClient takes no argument 'tokn'"):
        GenericEnvClient("http://a", tokn="x")


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


# -- a session taken along ------------------------------------------------------------------------


async def left_client(**settings: Any) -> tuple[Client, Scripted, Scripted]:
    """A client whose loop has ended, the connection it had there, and the one it will get."""
    client = client_of(**settings)
    await client.reset()
    old, client.scripted = client.scripted, Scripted()
    ended = asyncio.new_event_loop()
    ended.close()
    old.loop = ended
    return client, old, client.scripted


async def test_a_session_of_a_loop_that_has_ended_is_resumed_on_the_running_one() -> None:
    for call in ("step", "state", "reset"):
        client, old, new = await left_client()
        channel, episode = old.channels[0], client.episode
        channel.acked = 1
        await getattr(client, call)(*[{}] * (call == "step"))
        assert new.left_behind == [channel]
        [opening] = new.sent_of(Open)
        assert (opening.resume, opening.ack) == (True, 1)
        assert [type(frame) for frame in new.frames[1:]] == [
            {"step": Step, "state": State, "reset": Reset}[call]
        ]
        assert new.frames[1].seq == 2
        if call == "step":
            assert client.episode is episode
        assert (old.closed, client.dialled) == (0, 2)
        await client.close()


async def test_what_was_not_answered_is_asked_again_where_the_session_is_resumed() -> None:
    client = client_of()
    await client.reset()
    old = client.scripted
    old.silent = True
    running = asyncio.ensure_future(client.step({"a": 1}))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    ended = asyncio.new_event_loop()
    ended.close()
    old.loop, client.scripted = ended, Scripted()
    await client.open()
    sent = [(type(frame), frame.seq) for frame in client.scripted.frames[1:]]
    assert sent == [(Step, 2), (Cancel, 2)]


async def test_a_session_that_cannot_be_taken_along_is_replaced_by_a_reset_alone() -> None:
    client, _old, new = await left_client()
    new.refusing = [SessionLost("gone")]
    with pytest.raises(SessionLost):
        await client.step({})
    assert (new.closed, len(new.channels)) == (1, 1)
    new.refusing = [SessionLost("gone")]
    await client.reset()
    assert [left is None for left in new.left_behind] == [False, False, True]
    assert [frame.resume for frame in new.sent_of(Open)] == [True, True, False]
    assert new.closed == 2


async def test_closing_leaves_what_belonged_to_a_loop_that_has_ended() -> None:
    client, old, new = await left_client()
    await client.close()
    assert (old.sent_of(Close), old.closed, new.frames) == ([], 0, [])
    assert client.session_id is None
    client, old, new = await left_client()
    old.channels[0].fail(SessionLost("gone"))
    await client.reset()
    assert (old.forgotten, old.closed) == ([], 0)
    assert new.left_behind == [None]


async def test_the_first_opening_knows_no_episode() -> None:
    client = client_of()
    client._episode = EpisodeInfo("of another session", 1)
    await client.open()
    assert client.episode is None


# -- its connection, models and container ---------------------------------------------------------


async def test_clients_of_one_address_share_a_connection_until_the_last_one_closes() -> None:
    first, second = Client("memory:shared"), Client("memory:shared")
    first.scripted = second.scripted = Scripted()
    await first.reset()
    await second.reset()
    assert (first.dialled, second.dialled) == (1, 0)
    await first.close()
    assert first.scripted.closed == 0
    await second.close()
    assert first.scripted.closed == 1


async def test_models_are_those_of_the_connections_format() -> None:
    client = client_of()
    connection: Any = client.scripted
    wire = client._use(connection)
    assert client._use(connection) is wire
    connection.format = "json"
    other = client._use(connection)
    assert (other is wire, other.format) == (False, "json")
    assert client._use(connection) is other
    connection.upstream = True
    assert client._use(connection) is not other


@pytest.mark.parametrize("info", [None, {"why": "x"}])
async def test_what_a_reset_tells_beside_the_observation(info: Any) -> None:
    class Telling(Scripted):
        def answer(self, frame: Any) -> None:
            if type(frame) is not Reset:
                super().answer(frame)
                return
            payload, told = msgspec.msgpack.encode(1), None
            if info is not None:
                told = msgspec.msgpack.encode(info)
            channel = self.channels[0]
            future, channel.future, channel.asked = channel.future, None, None
            assert future is not None
            future.set_result(Begun(1, frame.seq, payload, "e", 3, None, True, True, told))

    client = client_of()
    client.scripted = Telling()
    result = await client.reset()
    assert (result.terminated, result.truncated, result.info) == (True, True, info or {})


async def test_partial_observations_are_models_only_where_they_are_whole() -> None:
    client = client_of()
    await client.open()
    client.scripted.silent = True
    stream = client.stream_step({})
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    channel = client.scripted.channels[0]
    assert channel.sink is not None
    whole, part = msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode("b")
    channel.sink(Partial(1, 1, 0, part, False))
    channel.sink(Partial(1, 1, 1, whole, True))
    assert (await first).observation == "b"
    assert (await anext(stream)).observation == {"a": 1}
    await stream.aclose()
    assert [frame.seq for frame in client.scripted.sent_of(Cancel)] == [1]
    assert channel.sink is None


class FakeContainer:
    """A container that is always there; it explains each error with another one."""

    def __init__(self) -> None:
        self.died: Any = None
        self.explained: list[OpenEnvError] = []
        self.closed = 0

    async def start(self, died: Any) -> Any:
        self.died = died
        return SimpleNamespace(url="memory:2", token="t")

    async def explain(self, error: OpenEnvError) -> OpenEnvError:
        self.explained.append(error)
        return WorkerDied("explained")

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_container_is_where_its_client_goes_and_why_its_calls_fail() -> None:
    client = client_of()
    container: Any = FakeContainer()
    client._container = container
    await client.open()
    assert (client.base_url, client.settings.token) == ("memory:2", "t")
    calls: list[Any] = [
        lambda: client.step({}),
        client.reset,
        client.state,
        lambda: anext(client.stream_step({})),
    ]
    for number, call in enumerate(calls, 1):
        client.scripted.silent = True
        running = asyncio.ensure_future(call())
        await settle(2)
        client.scripted.channels[0].on_failed(number, SessionBusy("no"))
        client.scripted.silent = False
        with pytest.raises(WorkerDied, match="explained"):
            await running
    assert [type(error) for error in container.explained] == [SessionBusy] * 4
    container.died(WorkerDied("ended"))
    assert isinstance(client.scripted.channels[0].error, WorkerDied)
    await client.close()
    assert container.closed == 1
    container.died(WorkerDied("again"))  # it has no session any more


async def test_a_container_is_closed_also_when_closing_the_session_is_cancelled() -> None:
    client = client_of()
    container: Any = FakeContainer()
    client._container = container
    await client.open()
    client.scripted.silent = True
    closing = asyncio.ensure_future(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert (container.closed, client.scripted.closed) == (1, 1)
    assert client.scripted.forgotten == client.scripted.channels


async def test_an_opening_that_is_cancelled_gives_back_all_that_it_took() -> None:
    client = client_of()
    client.scripted.silent = True
    opening = asyncio.ensure_future(client.open())
    await settle(3)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    assert client.scripted.forgotten == client.scripted.channels
    assert len(client.scripted.sent_of(Close)) == 1
    assert (client.scripted.closed, client._opening, client.session_id) == (1, None, None)


async def test_an_opening_carries_the_trace_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def inject(headers: dict[str, str]) -> None:
        headers.update({"traceparent": "parent", "tracestate": "state"})

    monkeypatch.setitem(sys.modules, "opentelemetry", ModuleType("opentelemetry"))
    monkeypatch.setattr("openenv_async.client.env.inject", inject)
    client = client_of(headers={"X-Key": "1"})
    await client.open()
    [opening] = client.scripted.sent_of(Open)
    assert (opening.traceparent, opening.tracestate) == ("parent", "state")
    assert client.settings.headers == {"X-Key": "1"}


@contextlib.asynccontextmanager
async def limited(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Any]]:
    """A server whose token takes three steps at once, then one in 0.1 s; nothing waits there."""
    monkeypatch.setattr(quotas, "LONGEST_WAIT", 0.001)
    callers = Callers()
    red = Caller("red", quota=Quota(steps_per_second=10, burst=3))
    callers.hold([(red, [digest_of("red")])])
    app = create_app(Counter, callers=callers)
    async with serve(app) as url:
        yield url, app.state.openenv.engine.account_of(red)


@pytest.mark.parametrize("kind", [GenericEnvClient, HTTPEnvClient])
@pytest.mark.parametrize("timeout", [30.0, math.inf])
async def test_what_a_quota_refused_is_sent_again_in_its_turn(
    kind: Any, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with limited(monkeypatch) as (url, account), kind(url, token="red") as env:
        await env.reset()
        for count in (1, 2, 3, 4):
            result = await env.step({"add": 1}, timeout=timeout)
            assert result.observation["count"] == count  # each once
        assert account.refused["steps"] >= 1
        account.charge(3)
        refused = account.refused["steps"]
        await env.reset(timeout=timeout)
        assert account.refused["steps"] > refused


@pytest.mark.parametrize("kind", [GenericEnvClient, HTTPEnvClient])
async def test_a_turn_after_the_deadline_is_not_waited_for(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with limited(monkeypatch) as (url, account), kind(url, token="red") as env:
        await env.reset()
        account.charge(100)
        began = asyncio.get_running_loop().time()
        with pytest.raises(QuotaReached):
            await env.step({"add": 1}, timeout=5)
        assert asyncio.get_running_loop().time() - began < 5
        account.caller.step_bucket.give_back(100)
        assert (await env.step({"add": 1})).observation["count"] == 1


async def test_a_call_that_waits_for_its_turn_is_one_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with limited(monkeypatch) as (url, account):
        env = GenericEnvClient(url, token="red")
        await env.reset()
        account.charge(20)
        waiting = asyncio.create_task(env.step({"add": 1}, timeout=30))
        await until(lambda: account.refused["steps"] == 1)
        await until(lambda: env._channel.waited == 0)  # type: ignore[union-attr]  # it is open
        with pytest.raises(SessionBusy):
            await env.step({"add": 1})
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        account.caller.step_bucket.give_back(20)
        assert (await env.step({"add": 1})).observation["count"] == 1
        account.charge(20)
        waiting = asyncio.create_task(env.step({"add": 1}, timeout=30))
        await until(lambda: env._channel.waited == 0)  # type: ignore[union-attr]  # likewise
        await env.close()
        with pytest.raises(SessionClosed):
            await waiting
