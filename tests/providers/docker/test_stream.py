"""An Engine's answer as a stream of JSON lines."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiodocker import Docker
from aiohttp import web

from openenv_async.errors import ProviderError
from openenv_async.providers.docker.stream import StreamError, engine_stream, opened

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def engine(folder: Path, handler: Handler) -> AsyncIterator[str]:
    """A server that answers every POST in an Engine's place; its address."""

    async def version(request: web.Request) -> web.StreamResponse:
        return web.json_response({"ApiVersion": "1.41"})

    app = web.Application()
    app.router.add_get("/version", version)
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = folder / "engine.sock"
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield f"unix://{socket}"
    finally:
        await runner.cleanup()


def answers(*pieces: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return handler


async def read(docker: Docker, body: io.BytesIO | None = None) -> list[dict[str, object]]:
    async with contextlib.aclosing(engine_stream(docker, "build", {"t": "x"}, {}, body)) as stream:
        return [message async for message in stream]


async def test_messages_come_whole_however_they_are_cut(tmp_path: Path) -> None:
    pieces = (b'{"a"', b': 1}\n\n{"b": 2}\n \n{"c"', b": 3}")
    async with engine(tmp_path, answers(*pieces)) as url, opened(url) as docker:
        assert await read(docker) == [{"a": 1}, {"b": 2}, {"c": 3}]


async def test_the_body_and_the_parameters_are_sent(tmp_path: Path) -> None:
    seen: list[object] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.extend([request.query["t"], request.headers["X-Mine"], await request.read()])
        return web.Response(text="{}")

    data = bytes(range(256)) * 3000  # more than one part
    async with engine(tmp_path, handler) as url, opened(url) as docker:
        stream = engine_stream(docker, "build", {"t": "x"}, {"X-Mine": "1"}, io.BytesIO(data))
        async with contextlib.aclosing(stream):
            assert [message async for message in stream] == [{}]
    assert seen == ["x", "1", data]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"error": "it  failed\\n"}', "it failed"),
        (b'{"error": "short", "errorDetail": {"message": "the long reason"}}', "the long reason"),
        (b'{"error": "short", "errorDetail": {}}', "short"),
        (b'{"errorDetail": "odd", "error": "short"}', "short"),
    ],
)
async def test_a_failure_in_the_stream_is_raised(tmp_path: Path, line: bytes, words: str) -> None:
    async with engine(tmp_path, answers(b'{"a": 1}\n', line)) as url, opened(url) as docker:
        with pytest.raises(StreamError, match=f"^{words}$"):
            await read(docker)


async def test_a_refused_call_says_why(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = b'{"message": "no such\\nimage"}'
        # As the Engine has it: with a charset behind, aiodocker takes it for no JSON.
        return web.Response(status=404, body=body, headers={"Content-Type": "application/json"})

    async with engine(tmp_path, handler) as url:
        with pytest.raises(StreamError, match=r"^no such image$"):
            async with opened(url) as docker:
                await read(docker)


async def test_an_engine_that_is_not_there_is_a_provider_error(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"engine\.sock"):
        async with opened(f"unix://{tmp_path}/engine.sock") as docker:
            await read(docker)


async def test_an_engine_that_breaks_off_is_a_provider_error(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b'{"a": 1}\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with engine(tmp_path, handler) as url:
        with pytest.raises(ProviderError, match="broke off"):
            async with opened(url) as docker:
                await read(docker)
