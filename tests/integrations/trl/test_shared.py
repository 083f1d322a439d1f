"""One set of environments for a trainer: its kinds, its copies, its end."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from openenv_async import GenericEnvClient
from openenv_async.errors import OperationUnsupported, SessionClosed, WrongTarget
from openenv_async.integrations.trl import shared
from openenv_async.integrations.trl.shared import SharedSessions, close_all
from openenv_async.pool import EnvPool, SyncEnvPool
from tests.integrations.trl_worlds import Talk


@pytest.fixture
def sessions(talk: str) -> Iterator[SharedSessions]:
    made = SharedSessions(talk)
    yield made
    made.close()


async def play(made: SharedSessions) -> Any:
    async with made.client() as env:
        return (await env.reset(seed=3)).observation


def test_clients_open_on_use_and_see_plain_values(sessions: SharedSessions) -> None:
    assert sessions.run(play(sessions)) == {"text": "seed 3:"}
    assert {"action", "observation", "state"} <= set(sessions.schema())


def test_a_set_is_shared_as_it_is(sessions: SharedSessions, talk: str) -> None:
    assert SharedSessions.of(sessions) is sessions
    other = SharedSessions.of(talk)
    assert other is not sessions
    assert other.key != sessions.key
    other.close()


def test_a_copy_in_the_same_process_is_the_set_itself(sessions: SharedSessions) -> None:
    assert pickle.loads(pickle.dumps(sessions)) is sessions


def test_a_copy_of_a_set_that_is_gone_here_plays_on_the_same_server(
    sessions: SharedSessions,
) -> None:
    sent = pickle.dumps(sessions)
    with shared._lock:
        del shared._open[sessions.key]  # as in another process
    copy = pickle.loads(sent)
    assert copy is not sessions
    assert copy.key == sessions.key
    assert copy.run(play(copy)) == {"text": "seed 3:"}
    assert pickle.loads(sent) is copy
    copy.close()


def test_a_closed_set_gives_no_clients(talk: str) -> None:
    made = SharedSessions(talk)
    assert shared._open[made.key] is made
    made.close()
    made.close()
    assert made.key not in shared._open
    with pytest.raises(SessionClosed, match="were closed: make new ones"):
        made.client()


def test_all_are_closed_whichever_fails(talk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SharedSessions(talk), SharedSessions(talk)
    close = first.close

    def fails() -> None:
        close()
        raise RuntimeError("does not close")

    monkeypatch.setattr(first, "close", fails)
    with pytest.raises(RuntimeError, match="does not close"):
        close_all()
    for each in (first, second):
        with pytest.raises(SessionClosed):
            each.client()


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pool_that_is_given_stays_its_givers(talk: str, blocking: bool) -> None:
    pool: Any = (SyncEnvPool if blocking else EnvPool).from_urls([talk])
    made = SharedSessions(pool)
    assert made.is_pool
    assert made.run(play(made)) == {"text": "seed 3:"}
    made.close()
    again = SharedSessions(pool)
    assert again.run(play(again)) == {"text": "seed 3:"}
    again.close()
    if blocking:
        pool.close()
    else:
        again.run(pool.aclose())


def test_a_factory_of_clients_makes_the_clients(talk: str) -> None:
    made: list[Any] = []

    def client() -> Any:
        made.append(GenericEnvClient(talk))
        return made[-1]

    sessions = SharedSessions(client)
    assert not sessions.is_pool
    assert sessions.run(play(sessions)) == {"text": "seed 3:"}
    assert made
    sessions.close()


def test_options_of_a_pool_need_a_pool_that_is_made(talk: str) -> None:
    with pytest.raises(TypeError, match="'max_workers' is an option of a pool that is made"):
        SharedSessions(lambda: GenericEnvClient(talk), max_workers=2)


def test_nonsense_is_refused_at_once() -> None:
    before = dict(shared._open)
    for nonsense in (5, None, object()):
        with pytest.raises(TypeError):
            SharedSessions(nonsense)
    assert shared._open == before


async def test_what_belongs_to_this_loop_is_refused() -> None:
    from openenv_async import connect

    async with connect(Talk) as env:
        with pytest.raises(WrongTarget, match="belongs to its event loop"):
            SharedSessions(env)


async def test_work_is_awaited_from_another_loop(talk: str) -> None:
    made = await asyncio.to_thread(SharedSessions, talk)
    try:
        assert await made.follow(play(made)) == {"text": "seed 3:"}
        begun: list[str] = []

        async def wait() -> None:
            begun.append("there")
            try:
                await asyncio.Event().wait()
            finally:
                begun.append("ended")

        following = asyncio.ensure_future(made.follow(wait()))
        while not begun:  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.001)
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled()
        async with asyncio.timeout(5):
            while len(begun) < 2:  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.001)
    finally:
        await asyncio.to_thread(made.close)


def test_a_schema_that_cannot_be_had_names_the_remedy(
    sessions: SharedSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unknown:
        async def schema(self) -> Any:
            raise OperationUnsupported("no server is known")

    monkeypatch.setattr(sessions._target.__class__, "sessions", lambda self: Unknown())
    with pytest.raises(OperationUnsupported, match="no server is known: give tools="):
        sessions.schema()
