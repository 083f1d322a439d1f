"""The clients of a target: opened on use, copied with their servers, closed by their owner."""

from __future__ import annotations

import functools
import os
import pickle
from typing import Any

import pytest

from openenv_async import (
    EnvClient,
    EnvPool,
    GenericEnvClient,
    HTTPEnvClient,
    SyncEnvClient,
    SyncEnvPool,
    Timeouts,
    connect_in_process,
    resolve,
    serve,
)
from openenv_async.client.loop_thread import background_loop
from openenv_async.engine import Engine
from openenv_async.errors import ConnectFailed, OperationUnsupported, WrongTarget
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.static import StaticProvider
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.served import InProcessProvider
from openenv_async.targets.sessions import TargetSessions, copied_client, is_in_process
from tests.targets.environments import Move, Seen, Tiny, TinyEnv, TinyGym

pytest.importorskip("echo_env")
TINY = "tests.targets.environments:Tiny"
URL = "http://127.0.0.1:1"


async def plays(client: Any, action: Any) -> Any:
    try:
        first = await client.reset(seed=1)
        await client.step(action)
        assert (await client.step(action)).terminated
    finally:
        await client.close()
    return first.observation


async def test_clients_of_a_class_have_its_types_and_share_a_connection() -> None:
    async with resolve(Tiny).sessions() as sessions:
        first, second = sessions.session(), sessions.session()
        assert type(await first.reset() and (await first.reset()).observation) is Seen
        await second.reset()
        assert first.connection is second.connection
        assert [server.pid for server in sessions.servers] == [os.getpid()]
        await first.close()
        await second.close()
    assert sessions.servers  # known still, though they are gone
    with pytest.raises(ConnectFailed):
        await sessions.session().reset()


async def test_connections_are_as_many_as_asked_for() -> None:
    async with resolve(Tiny).sessions(connections=2) as sessions:
        clients = [sessions.session() for _ in range(4)]
        for client in clients:
            await client.open()
        assert len({id(client.connection) for client in clients}) == 2
        assert len(sessions.factories) == 2
        for client in clients:
            await client.close()


async def test_every_kind_gives_clients() -> None:
    async with serve(Tiny) as url, serve(Tiny) as other:
        given: list[tuple[Any, Any]] = [
            (url, {"amount": 1}),
            ([url, other], {"amount": 1}),
            (lambda: TinyEnv(url), Move()),
            (functools.partial(SyncEnvClient, url), {"amount": 1}),
            (functools.partial(HTTPEnvClient, url), {"amount": 1}),
            (TinyEnv(url), Move()),
            (TinyEnv(url).sync(), Move()),
            (HTTPEnvClient(url), {"amount": 1}),
            (EnvPool.from_url(url, client=TinyEnv), Move()),
            (StaticProvider(url, other), {"amount": 1}),
            ([StaticProvider(url), StaticProvider(other)], {"amount": 1}),
            (TINY, {"amount": 1}),
            (Tiny, Move()),
            (TinyGym, 1),
            (Engine(EnvironmentSpec(Tiny)), Move()),
        ]
        for each, action in given:
            async with resolve(each).sessions() as sessions:
                for _ in range(2):
                    await plays(sessions.session(), action)


async def test_several_servers_take_turns() -> None:
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    async with resolve(urls).sessions() as sessions:
        assert [sessions.session().base_url for _ in range(4)] == urls * 2


async def test_a_class_of_clients_and_settings_can_be_given() -> None:
    async with serve(Tiny, token="secret") as url:
        for given in (
            TinyEnv(url, token="secret"),
            functools.partial(TinyEnv, url, token="secret"),
        ):
            sessions = resolve(given).sessions(client=GenericEnvClient, timeouts=Timeouts(step=7))
            async with sessions:
                client = sessions.session()
                assert type(client) is GenericEnvClient
                assert client.timeouts.step == 7
                assert await plays(client, {"amount": 1}) == {"total": 0, "pid": os.getpid()}
        async with resolve(url, token="secret").sessions(client=TinyEnv) as sessions:
            assert type(await plays(sessions.session(), Move())) is Seen
        async with (
            EnvPool.from_url(url, token="secret") as pool,
            resolve(pool).sessions(client=TinyEnv) as sessions,
        ):
            assert type(await plays(sessions.session(), Move())) is Seen


async def test_a_client_that_was_given_is_copied_and_not_used() -> None:
    async with serve(Tiny, token="secret") as url:
        given = TinyEnv(
            url, token="secret", timeouts=Timeouts(step=5), headers={"X-A": "b"}, options={}
        )
        async with resolve(given).sessions() as sessions:
            client = sessions.session()
            assert type(client) is TinyEnv
            assert client is not given
            assert client.timeouts == given.timeouts
            assert client.settings == given.settings
            await plays(client, Move())
        assert given.connection is None
        await plays(given, Move())


async def test_options_are_put_beside_those_that_it_has() -> None:
    given = TinyEnv(URL, options={"a": 1, "b": 2})
    copied = copied_client(given, None, None, {"options": {"b": 3}})
    assert copied.settings.options == {"a": 1, "b": 3}
    assert given.settings.options == {"a": 1, "b": 2}
    assert copied_client(given, None, "other", {}).settings.token == "other"


async def test_a_container_of_a_clients_own_is_not_shared() -> None:
    makes: list[Any] = [TinyEnv, HTTPEnvClient]
    for make in makes:
        given = make.from_docker_image("no-such-image")
        for settings in ({}, {"timeouts": Timeouts(step=5)}):
            copied = copied_client(given, None, None, settings)
            assert copied._container not in (None, given._container)
        assert type(resolve(given).provider()) is DockerProvider
    assert copied._session._container is copied._container


async def test_wrong_settings_are_refused_before_anything_starts() -> None:
    with pytest.raises(TypeError, match="tiemouts"):
        resolve(TINY).sessions(tiemouts=1)
    with pytest.raises(TypeError, match="timeouts must be"):
        resolve(URL).sessions(timeouts=5)
    for given in (TinyEnv(URL), lambda: TinyEnv(URL), EnvPool(StaticProvider(URL))):
        with pytest.raises(ValueError, match="connections= belongs to URLs"):
            resolve(given).sessions(connections=2)


async def test_in_process_clients_stay_in_their_loop() -> None:
    async with connect_in_process(Tiny) as env:
        assert is_in_process(env)
        assert is_in_process(env.sync())
        async with resolve(env).sessions() as sessions:
            await plays(sessions.session(), Move())
        with pytest.raises(WrongTarget, match="belongs to its event loop"):
            resolve(env).sessions(client=GenericEnvClient).session()
    assert not is_in_process(TinyEnv(URL))


async def test_a_pool_leases_and_stays_open() -> None:
    async with EnvPool(InProcessProvider(EnvironmentSpec(Tiny)), client=TinyEnv) as pool:
        async with resolve(pool).sessions() as sessions:
            assert sessions.leases
            client = sessions.session()
            await client.reset()
            assert client.worker is pool.workers[0]
            await client.close()
        async with pool.session() as env:
            await env.reset()


def test_a_blocking_pool_is_played_on_from_another_loop() -> None:
    async def main() -> None:
        async with resolve(pool).sessions() as sessions:
            await plays(sessions.session(), Move())

    with SyncEnvPool(InProcessProvider(EnvironmentSpec(Tiny)), client=TinyEnv) as pool:
        import asyncio

        asyncio.run(main())
        background_loop().run(main())
        with pool.session() as env:
            env.reset()


async def test_a_copy_plays_on_the_same_server_and_does_not_end_it() -> None:
    async with resolve(Tiny).sessions(client=GenericEnvClient) as sessions:
        copy: TargetSessions = pickle.loads(pickle.dumps(sessions))
        assert copy.servers[0].url == sessions.servers[0].url
        await plays(copy.session(), {"amount": 1})
        await copy.aclose()
        await plays(sessions.session(), {"amount": 1})
    async with EnvPool.from_spec(TINY) as pool, resolve(pool).sessions() as sessions:
        copy = pickle.loads(pickle.dumps(sessions))
        async with copy:
            await plays(copy.session(), {"amount": 1})
        await plays(sessions.session(), {"amount": 1})


async def test_a_forked_copy_leaves_the_server_alone() -> None:
    async with resolve(TINY).sessions() as sessions:
        sessions._pid -= 1  # as it is in a forked process
        await sessions.aclose()
        sessions._pid += 1
        await plays(sessions.session(), {"amount": 1})
        from openenv_async.targets.sessions import _forked

        (sessions._workers, sessions._providers, _) = _forked.pop()


async def test_the_schemas_of_what_is_served() -> None:
    async with serve(Tiny, token="secret") as url:
        for given in (
            Tiny,
            [(url, "secret")],
            TinyEnv(url, token="secret"),
            functools.partial(TinyEnv, url, token="secret"),
            EnvPool.from_url(url, token="secret"),
        ):
            async with resolve(given).sessions() as sessions:
                assert set(await sessions.schema()) >= {"action", "observation", "state", "reset"}

    class Duck:
        async def reset(self) -> None: ...

    async with resolve(lambda: Duck()).sessions() as sessions:
        with pytest.raises(OperationUnsupported, match="have no base_url"):
            await sessions.schema()


async def test_what_a_factory_makes_is_looked_at() -> None:
    async def late() -> EnvClient[Any, Any, Any]:
        return GenericEnvClient(URL)

    for make, message in [
        (lambda: None, "made None"),
        (lambda: TinyEnv, "functools.partial"),
        (lambda: Tiny(), "annotate what it returns, -> Tiny"),
        (lambda: TinyGym(), "annotate what it returns, -> TinyGym"),
        (lambda: late(), "coroutine"),
    ]:
        sessions = resolve(make).sessions()
        with pytest.raises(WrongTarget, match=message):
            sessions.session()
