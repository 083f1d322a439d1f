"""The tasks of an environment, as clients of every transport list them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import EngineOptions, EnvClient, HTTPEnvClient, SyncEnvClient, connect, serve
from openenv_async.client.tasks import ServedTasks, SyncServedTasks
from openenv_async.errors import (
    ConnectionLost,
    DeadlineExceeded,
    EnvironmentRaised,
    InvalidOption,
    OperationUnsupported,
    PayloadTooLarge,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    Unauthorized,
)
from openenv_async.tasks import TaskTable
from openenv_async.types import Limits, Timeouts
from tests.helpers import Counter
from tests.in_memory import MemoryClient, MemoryServer
from tests.quiz import MARKER, Guess, ProcessQuiz, Quiz

TRANSPORTS = ["msgpack", "json", "memory", "memory json", "http"]


@contextlib.asynccontextmanager
async def client(transport: str, environment: Any = Quiz, **settings: Any) -> AsyncIterator[Any]:
    """A client of an environment over one transport."""
    if transport.startswith("memory"):
        format: Any = "json" if transport.endswith("json") else "msgpack"
        async with connect(environment, format=format, **settings) as env:
            yield env
        return
    async with serve(environment) as url:
        made: Any
        if transport == "http":
            made = HTTPEnvClient(url, **settings)
        else:
            made = EnvClient(url, subprotocol=f"openenv.v1.{transport}", **settings)
        try:
            yield made
        finally:
            await made.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport_lists_the_public_part_and_no_more(transport: str) -> None:
    async with client(transport) as env:
        tasks = await env.tasks()
        assert await tasks.splits() == ["train", "test"]
        assert (await tasks.count("train"), await tasks.count("test")) == (2500, 20)
        task = await tasks.get("train", 7)
        assert (task.id, task.split) == ("train-7", "train")
        assert task.data == {"question": "train 7?", "level": 1}
        whole = await tasks.range("train")
        assert [task.id for task in whole] == [f"train-{n}" for n in range(2500)]
        assert [task.id for task in await tasks.range("test", 18, 40)] == ["test-18", "test-19"]
        assert await tasks.range("test", 20) == await tasks.range("test", 5, 5) == []
        assert MARKER not in str([(task.data, task.private) for task in whole])

        await env.reset(task_id=task.id)
        assert (await env.step({"text": f"{MARKER}7"})).reward == 1.0
        assert await tasks.count("test") == 20  # on the connection of the session


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_not_there_is_refused_and_the_client_goes_on(transport: str) -> None:
    async with client(transport) as env:
        tasks = await env.tasks()
        with pytest.raises(InvalidOption, match=r"Quiz has no split 'de/v \?': it has train, test"):
            await tasks.count("de/v ?")
        with pytest.raises(InvalidOption, match=r"'test' has 20 tasks, and none with the index 20"):
            await tasks.get("test", 20)
        for index in (-1, 2**31, True, "1"):
            with pytest.raises(InvalidOption, match="index counts tasks from 0"):
                await tasks.get("test", index)
        with pytest.raises(InvalidOption, match="start counts tasks from 0"):
            await tasks.range("test", -3)
        with pytest.raises(InvalidOption, match="stop counts tasks from 0"):
            await tasks.range("test", 0, 1.5)
        assert await tasks.count("test") == 20


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_environment_without_tasks_says_so(transport: str) -> None:
    async with client(transport, Counter) as env:
        with pytest.raises(OperationUnsupported, match=r"Counter.* declares no tasks"):
            await env.tasks()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_tasks_that_cannot_be_read_are_the_environments_failure(transport: str) -> None:
    class Broken(Quiz):
        tasks = TaskTable({"train": "/no/such/file.jsonl"}, private=["answer"])

    async with client(transport, Broken) as env:
        with pytest.raises(
            EnvironmentRaised, match=r"tasks of Broken cannot be read: FileNotFound"
        ):
            await env.tasks()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_bytes_and_arrays_of_tasks_come_as_they_are(transport: str) -> None:
    import numpy as np

    class Pictures(Quiz):
        tasks = TaskTable(
            {
                "train": [
                    {"id": "a", "png": b"\x89P", "grid": np.arange(6, dtype="i2").reshape(2, 3)}
                ]
            }
        )

    async with client(transport, Pictures) as env:
        task = await (await env.tasks()).get("train", 0)
        assert task.data["png"] == b"\x89P"
        assert task.data["grid"].dtype == np.dtype("i2")
        assert task.data["grid"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_pages_are_cut_by_their_size(transport: str) -> None:
    class Long(Quiz):
        tasks = TaskTable({"train": [{"id": n, "text": "x" * 100_000} for n in range(12)]})

    async with client(transport, Long) as env:
        whole = await (await env.tasks()).range("train")
        assert [task.id for task in whole] == [str(n) for n in range(12)]


@pytest.mark.parametrize("transport", ["msgpack", "json", "memory"])
async def test_a_task_larger_than_the_client_takes_fails_alone(transport: str) -> None:
    class Long(Quiz):
        tasks = TaskTable(
            {"train": [{"id": "a", "text": "x" * 3_000_000}, {"id": "b", "text": "short"}]}
        )

    async with client(transport, Long) as env:  # as one message, though it is of three pieces
        assert len((await (await env.tasks()).get("train", 0)).data["text"]) == 3_000_000
    async with client(transport, Long, limits=Limits(max_message_size=100_000)) as env:
        tasks = await env.tasks()
        with pytest.raises(PayloadTooLarge):
            await tasks.get("train", 0)
        assert (await tasks.get("train", 1)).data == {"text": "short"}


async def test_a_full_server_and_one_of_processes_list_their_tasks() -> None:
    options = EngineOptions(max_sessions=1)
    async with serve(ProcessQuiz, options=options) as url, EnvClient(url) as playing:
        await playing.reset(task_id="test-1")
        other = EnvClient(url, share=False)
        assert await (await other.tasks()).count("train") == 2500
        assert other.session_id is None
        await other.close()
        with pytest.raises(SessionClosed):
            await other.tasks()


async def test_blocking_clients_list_them_too() -> None:
    def play(url: str) -> list[Any]:
        with SyncEnvClient(url) as env:
            tasks = env.tasks()
            assert isinstance(tasks, SyncServedTasks)
            said = [tasks.splits(), tasks.count("test"), tasks.get("test", 3).id]
            said.append([task.id for task in tasks.range("test", 17)])
            env.reset(task_id="test-3")
            said.append(env.step({"text": f"{MARKER}3"}).reward)
        http = HTTPEnvClient(url)
        assert http.tasks().count("train") == 2500
        said.append(http.sync().tasks().count("test"))
        http.close()
        return said

    async with serve(Quiz) as url:
        said = await asyncio.to_thread(play, url)
    assert said[:3] == [["train", "test"], 20, "test-3"]
    assert said[3:] == [["test-17", "test-18", "test-19"], 1.0, 20]


async def test_a_token_is_asked_for() -> None:
    async with serve(Quiz, token="right-token-of-the-server") as url:
        for cls in (EnvClient, HTTPEnvClient):
            env: Any = cls(url, token="wrong")
            with pytest.raises(Unauthorized):
                await env.tasks()
            await env.close()


async def test_a_split_is_read_on_after_the_connection_was_lost() -> None:
    server = MemoryServer(Quiz)
    cuts: list[int] = []

    class Cut(MemoryClient):
        """A client that loses its connection before the second page."""

        def _pages(self, connection: Any) -> Any:
            page = super()._pages(connection)

            async def cutting(split: str | None, start: int, stop: int) -> Any:
                if start == 1000 and not cuts:
                    cuts.append(start)
                    server.cut()
                return await page(split, start, stop)

            return cutting

    env = Cut(server.url)
    tasks = await env.tasks()
    whole = await tasks.range("train")
    assert [task.id for task in whole] == [f"train-{n}" for n in range(2500)]
    assert cuts == [1000]
    assert server.open_transports == 0  # those of a listing are closed after it
    await env.close()


async def test_a_listing_in_a_session_outlives_a_lost_connection() -> None:
    server = MemoryServer(Quiz)
    async with MemoryClient(server.url) as env:
        await env.reset(task_id="test-1")
        tasks = await env.tasks()
        asked = asyncio.ensure_future(tasks.range("train"))
        await asyncio.sleep(0)
        server.cut()
        assert len(await asked) == 2500
        assert (await env.step(Guess(f"{MARKER}1"))).reward == 1.0  # in the same episode


async def test_a_connection_that_is_lost_each_time_is_told() -> None:
    asked: list[int] = []

    @contextlib.asynccontextmanager
    async def listing() -> AsyncIterator[Any]:
        async def page(split: str | None, start: int, stop: int) -> Any:
            asked.append(start)
            raise ConnectionLost("it is gone")

        yield page

    with pytest.raises(ConnectionLost):
        await ServedTasks(listing).count("train")
    assert asked == [0, 0, 0]


@pytest.mark.parametrize("answer", [None, {"count": 5, "tasks": []}, {"tasks": [{"id": 1}]}])
async def test_a_server_that_lists_in_another_way_is_told(answer: Any) -> None:
    @contextlib.asynccontextmanager
    async def listing() -> AsyncIterator[Any]:
        async def page(split: str | None, start: int, stop: int) -> Any:
            return answer

        yield page

    with pytest.raises(ProtocolError, match="the server lists"):
        await ServedTasks(listing).range("train")


async def test_more_listings_than_a_connection_may_have_are_refused_one_by_one() -> None:
    go = threading.Event()

    def rows() -> list[dict[str, Any]]:
        assert go.wait(20)
        return [{"id": "a"}]

    class Slow(Quiz):
        tasks = TaskTable({"train": rows})

    async with connect(Slow) as env:
        await env.open()
        connection = env.connection
        assert connection is not None
        asked = [asyncio.ensure_future(connection.list_tasks(None, 0, 0, 20.0)) for _ in range(20)]
        refused = [await each for each in asyncio.as_completed(map(failure, asked[16:]))]
        assert {type(error) for error in refused} == {ServerBusy}
        go.set()
        assert len({bytes(each) for each in await asyncio.gather(*asked[:16])}) == 1


async def failure(asked: asyncio.Future[Any]) -> BaseException | None:
    """Return what a call raises."""
    await asyncio.wait([asked])
    return asked.exception()


async def test_a_listing_has_a_deadline_and_the_connection_goes_on() -> None:
    go = threading.Event()

    def rows() -> list[dict[str, Any]]:
        assert go.wait(20)
        return [{"id": "a"}]

    class Slow(Quiz):
        tasks = TaskTable({"train": rows})

    async with connect(Slow, timeouts=Timeouts(open=0.2)) as env:
        await env.open()
        with pytest.raises(DeadlineExceeded, match=r"no tasks within 0\.2 s"):
            await env.tasks()
        go.set()
        await env.reset(question="still there")


async def test_a_server_of_upstreams_dialect_lists_none() -> None:
    async with serve(Quiz) as url, EnvClient(url, subprotocol="upstream") as env:
        with pytest.raises(OperationUnsupported, match="declares no tasks, or its server"):
            await env.tasks()
