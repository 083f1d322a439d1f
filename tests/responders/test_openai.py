"""The endpoint responder, against a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from openenv_async import OutcomeStatus
from openenv_async.errors import DeadlineExceeded, ResponderFailed
from openenv_async.responders import OpenAIResponder, Usage
from openenv_async.rollouts.run import status_of

KEY = "sk-very-secret-0123456789"
HELLO = [{"role": "user", "content": "hello"}]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def endpoint(handler: Handler) -> AsyncIterator[str]:
    """The base URL of a server that answers chat completions with ``handler``."""
    app = web.Application()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def responder(url: str, **settings: Any) -> AsyncIterator[OpenAIResponder]:
    made = OpenAIResponder("tiny", url, **{"retry_interval": 0.001, **settings})
    try:
        yield made
    finally:
        await made.aclose()


def completion(text: str | None, **more: Any) -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, **more}
    return web.json_response(
        {
            "id": "x",
            "model": "tiny-2",
            "choices": [choice],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
        }
    )


class Script:
    """Answers with one response after the other and keeps what it was asked."""

    def __init__(self, *responses: web.Response) -> None:
        self.responses = list(responses)
        self.bodies: list[Any] = []
        self.headers: list[Any] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(request.headers.copy())
        return self.responses.pop(0)


async def test_it_asks_and_reads_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    script = Script(completion("hi", finish_reason="length"), completion(None))
    async with (
        endpoint(script) as url,
        responder(url, api_key_variable="MY_KEY", extra_body={"top_p": 0.5}) as tiny,
    ):
        reply = await tiny.respond(HELLO, max_tokens=3, temperature=0.0, seed=4, stop=["\n"])
        assert (await tiny.respond(HELLO)).text == ""
    assert (reply.text, reply.finish_reason, reply.model) == ("hi", "length", "tiny-2")
    assert reply.usage == Usage(7, 2)
    base = {"model": "tiny", "messages": HELLO, "top_p": 0.5}
    asked = {"max_tokens": 3, "temperature": 0.0, "seed": 4, "stop": ["\n"]}
    assert script.bodies == [{**base, **asked}, base]
    assert script.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_it_repeats_what_passes_and_waits_as_asked() -> None:
    script = Script(
        web.Response(status=429, headers={"Retry-After": "0.01"}),
        web.Response(status=503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        web.Response(status=500),
        completion("at last"),
    )
    async with endpoint(script) as url, responder(url) as tiny:
        assert (await tiny.respond(HELLO)).text == "at last"
    assert "Authorization" not in script.headers[0]


async def test_it_gives_up_and_says_what_the_last_answer_was() -> None:
    script = Script(*(web.Response(status=502, text="upstream\nis away") for _ in range(3)))
    async with endpoint(script) as url, responder(url, max_attempts=3) as tiny:
        with pytest.raises(ResponderFailed, match="3 attempts: HTTP 502: upstream is away") as told:
            await tiny.respond(HELLO)
    assert told.value.retryable
    assert status_of(told.value) is OutcomeStatus.INFRA_ERROR


async def test_a_refusal_is_not_repeated_and_shows_no_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    script = Script(web.Response(status=401, text=f"wrong key {KEY}"))
    async with endpoint(script) as url, responder(url) as tiny:
        with pytest.raises(ResponderFailed, match=r"wrong key \*\*\*") as told:
            await tiny.respond(HELLO)
        assert KEY not in repr(tiny) + str(told.value) + caplog.text
        assert KEY.encode() not in pickle.dumps(tiny)
    assert not told.value.retryable
    assert told.value.detail["status"] == 401
    assert len(script.bodies) == 1


async def test_one_deadline_covers_all_attempts() -> None:
    never = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    async with endpoint(hang) as url, responder(url, timeout=0.2) as tiny:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            await tiny.respond(HELLO)
        never.set()


async def test_waits_between_attempts_count_too() -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "15"})

    async with endpoint(busy) as url, responder(url, timeout=0.5) as tiny:
        with pytest.raises(DeadlineExceeded, match="last attempt: HTTP 429"):
            await tiny.respond(HELLO)


async def test_nobody_there_is_tried_again() -> None:
    async with endpoint(Script()) as url:
        pass
    async with responder(url, max_attempts=2) as tiny:
        with pytest.raises(ResponderFailed, match="2 attempts: ClientConnector"):
            await tiny.respond(HELLO)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (lambda: web.Response(text="<html>"), "other than a chat completion"),
        (lambda: web.json_response({"choices": []}), "other than a chat completion"),
        (lambda: web.json_response({"error": "?"}), "other than a chat completion"),
        (lambda: web.Response(status=302, headers={"Location": "/elsewhere"}), "HTTP 302"),
        (lambda: web.Response(body=bytes(17 * 1024 * 1024)), "more than"),
    ],
)
async def test_answers_that_are_none(response: Callable[[], web.Response], why: str) -> None:
    async with endpoint(Script(response())) as url, responder(url) as tiny:
        with pytest.raises(ResponderFailed, match=why) as told:
            await tiny.respond(HELLO)
    assert not told.value.retryable


async def test_sixty_four_at_once_share_its_connections() -> None:
    seen = 0
    all_here = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal seen
        seen += 1
        if seen == 64:
            all_here.set()
        await all_here.wait()
        return completion((await request.json())["messages"][0]["content"])

    async with endpoint(answer) as url, responder(url) as tiny:
        replies = await asyncio.gather(
            *(tiny.respond([{"role": "user", "content": str(i)}]) for i in range(64))
        )
    assert [reply.text for reply in replies] == [str(i) for i in range(64)]


async def test_a_cancelled_call_ends_and_the_next_works() -> None:
    arrived, never = asyncio.Event(), asyncio.Event()

    async def hang_once(request: web.Request) -> web.StreamResponse:
        if not arrived.is_set():
            arrived.set()
            await never.wait()
        return completion("again")

    async with endpoint(hang_once) as url, responder(url) as tiny:
        call = asyncio.create_task(tiny.respond(HELLO))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        never.set()
        assert (await tiny.respond(HELLO)).text == "again"


def test_it_serves_one_loop_after_the_other_and_travels() -> None:
    async def once(made: OpenAIResponder | None) -> OpenAIResponder:
        async with endpoint(Script(completion("hi"), completion("hi"))) as url:
            made = made or OpenAIResponder("tiny", url)
            made.base_url = url
            assert (await made.respond(HELLO)).text == "hi"
            copy = pickle.loads(pickle.dumps(made))
            assert (await copy.respond(HELLO)).text == "hi"
            await copy.aclose()
            return made

    made = asyncio.run(once(None))
    asyncio.run(once(made))
    asyncio.run(made.aclose())


@pytest.mark.parametrize("bad", [{"timeout": 0}, {"max_attempts": 0}, {"base_url": "x"}])
def test_settings_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"timeout|base URL"):
        OpenAIResponder("m", **bad)
