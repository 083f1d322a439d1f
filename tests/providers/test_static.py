"""Workers that are addresses."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
from typing import Any

import pytest

from openenv_async.errors import DeadlineExceeded, InvalidOption, ProviderError
from openenv_async.pool import EnvPool
from openenv_async.providers.static import Address, StaticProvider


async def test_addresses_are_handed_out_once_each_the_longest_unused_first() -> None:
    async with StaticProvider("http://a:1", ("http://b:1", "own"), token="common") as provider:
        assert await provider.room() == 2
        a, b = await provider.start(), await provider.start()
        assert [(a.url, a.token), (b.url, b.token)] == [
            ("http://a:1", "common"),
            ("http://b:1", "own"),
        ]
        assert await provider.room() == 0
        with pytest.raises(ProviderError, match="all 2 addresses are in use"):
            await provider.start()
        await b.aclose()
        await a.aclose()
        await a.aclose()
        assert (await provider.start()).url == "http://a:1"
    assert not provider.owns_workers


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_callable_is_asked_again(kind: str) -> None:
    found = ["http://a:1"]
    threads: list[str] = []

    def find() -> list[Address]:
        threads.append(threading.current_thread().name)
        return [*found]

    async def find_async() -> list[Address]:
        return find()

    finder = find if kind == "sync" else find_async
    async with StaticProvider(finder, refresh_interval=1e-9) as provider:
        worker = await provider.start()
        leaving = [worker.leaving]
        found[:] = ["http://b:1", "http://c:1"]
        assert await provider.room() == 2
        leaving.append(worker.leaving)
        found.append("http://a:1")
        assert await provider.room() == 2
        leaving.append(worker.leaving)
        assert leaving == [False, True, False]
    assert ("openenv-addresses_0" in threads) == (kind == "sync")


async def test_trouble_in_finding_them() -> None:
    answers: list[Any] = [OSError("no name server"), ["http://a:1"], OSError("again")]

    def find() -> list[Address]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return list(answer)

    async with StaticProvider(find, refresh_interval=1e-9) as provider:
        with pytest.raises(ProviderError, match="no name server"):
            await provider.room()
        assert await provider.room() == 1
        assert await provider.room() == 1  # what was known stays known


async def test_one_url_is_one_address() -> None:
    """Text is not a list of addresses of one character each."""
    found: Any = "http://a:1"
    async with StaticProvider(lambda: found, refresh_interval=1e-9) as provider:
        assert (await provider.start()).url == "http://a:1"
        for found in (None, 5, [5]):  # noqa: B007  # the callable gives it
            assert await provider.room() == 0  # the address that was known stays
    async with StaticProvider(lambda: None, refresh_interval=1e-9) as provider:  # type: ignore[arg-type,return-value]  # the point
        with pytest.raises(ProviderError, match="cannot be found"):
            await provider.start()
    assert EnvPool.from_urls("http://a:1") is not None  # "h" would be refused


async def test_finding_them_has_a_deadline() -> None:
    async def find() -> list[Address]:
        await asyncio.get_running_loop().create_future()
        return []

    async with StaticProvider(find) as provider:
        with pytest.raises(DeadlineExceeded, match=r"not found within 0\.01 s"):
            await provider.start(timeout=0.01)


async def test_a_name_is_as_many_workers_as_it_has_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "envs.example"
        stream = socket.SOCK_STREAM
        return [
            (socket.AF_INET, stream, 6, "", ("10.0.0.1", port)),
            (socket.AF_INET, stream, 6, "", ("10.0.0.2", port)),
            (socket.AF_INET6, stream, 6, "", ("fd00::1", port, 0, 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with StaticProvider.from_dns("http://envs.example:8000/base") as provider:
        workers = [await provider.start() for _ in range(3)]
        assert [worker.url for worker in workers] == [
            "http://10.0.0.1:8000/base",
            "http://10.0.0.2:8000/base",
            "http://[fd00::1]:8000/base",
        ]
        assert isinstance(pickle.loads(pickle.dumps(provider)), StaticProvider)
    with pytest.raises(ValueError, match="only http and ws"):
        StaticProvider.from_dns("https://envs.example")


async def test_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="no address"):
        StaticProvider()
    with pytest.raises(ValueError, match="either URLs or one callable"):
        StaticProvider(list, "http://a:1")


@pytest.mark.parametrize(
    "given", [["http://a:1", "http://b:1", "secret"], [("secret", "http://a:1")]]
)
def test_no_message_has_a_token_in_the_wrong_place(given: Any) -> None:
    with pytest.raises(InvalidOption, match="of the addresses is not a valid server address") as it:
        StaticProvider(*given, token="t")
    assert "secret" not in str(it.value)


async def test_an_address_whose_server_failed_rests() -> None:
    async with StaticProvider("http://a:1", "http://b:1") as provider:
        worker = await provider.start()
        worker.is_failing = True
        await worker.aclose()
        assert await provider.room() == 1
        assert (await provider.start()).url == "http://b:1"
        assert await provider.room() == 0
