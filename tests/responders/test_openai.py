"""The endpoint responder, against a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from openenv_async import OutcomeStatus
from openenv_async.errors import (
    DeadlineExceeded,
    InvalidCompletion,
    ResponderFailed,
    ResponderRateLimited,
    ResponderUnavailable,
)
from openenv_async.responders import OpenAIResponder, Usage
from openenv_async.rollouts.run import status_of
from tests.model_server import ModelServer, called

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
    app.router.add_get("/v1/models", handle)
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
        # Known at once: a call that waits for nothing holds a turn at the model.
        with pytest.raises(ResponderRateLimited, match=r"to wait 15 s, and the timeout is 0\.5 s"):
            await tiny.respond(HELLO)


async def test_an_attempt_that_is_late_after_a_failed_one_tells_of_that() -> None:
    never = asyncio.Event()
    script = [web.Response(status=503, text="warming up")]

    async def answer(request: web.Request) -> web.StreamResponse:
        if script:
            return script.pop()
        await never.wait()
        return web.Response()

    async with endpoint(answer) as url, responder(url, timeout=0.5) as tiny:
        with pytest.raises(DeadlineExceeded, match="last attempt: HTTP 503: warming up"):
            await tiny.respond(HELLO)
        never.set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"message": "upstream overloaded", "code": 502}},
        {"id": "x", "error": {"message": "died"}, "choices": [{"finish_reason": "error"}]},
        {"choices": [{"finish_reason": "abort", "index": 0}]},
    ],
)
async def test_an_error_in_place_of_an_answer_is_no_reply(
    answer: dict[str, Any], stream: bool
) -> None:
    """A router tells of it with status 200; a server aborts what runs to change its weights."""
    answer = copy.deepcopy(answer)
    for choice in answer.get("choices", ()):
        choice["delta" if stream else "message"] = {"role": "assistant", "content": "half a"}
    data, kind = json.dumps(answer), "application/json"
    if stream:
        data, kind = f"data: {data}\n\ndata: [DONE]\n\n", "text/event-stream"
    script = Script(web.Response(text=data, content_type=kind), completion("whole"))
    async with endpoint(script) as url, responder(url, stream=stream) as tiny:
        assert (await tiny.respond(HELLO)).text == "whole"
    broken = [web.Response(text=data, content_type=kind) for _ in range(2)]
    async with endpoint(Script(*broken)) as url, responder(url, max_attempts=2) as tiny:
        with pytest.raises(ResponderUnavailable, match="an error in place of the answer"):
            await tiny.respond(HELLO)


def test_a_url_with_a_key_in_its_path_is_refused() -> None:
    with pytest.raises(ValueError, match="a key in its path") as told:
        OpenAIResponder("m", "http://host/sk-abcdefghijklmnopqrstuvwx/v1")
    assert "sk-abc" not in str(told.value)
    assert "environment variable OPENAI_API_KEY" in str(told.value)


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


# -- what was sampled, tools, streams, faults ----------------------------------------------------


async def test_what_was_sampled_is_what_the_server_gave() -> None:
    for shape, tokens in (("vllm", "vllm"), ("sglang", "sglang"), ("vllm", "auto")):
        async with (
            ModelServer("grüß dich", shape=shape, weight_version="v7") as server,
            responder(server.url, tokens=tokens) as tiny,
        ):
            reply = await tiny.respond(HELLO)
        [call] = server.calls
        assert reply.completion_ids == call.completion_ids
        assert reply.logprobs == call.logprobs
        assert reply.prompt_ids == call.prompt_ids
        assert reply.extra["id"] == call.id
        assert call.request_id == f"{reply.extra['call']}-1"
        assert reply.weight_version == ("v7" if shape == "sglang" else None)


async def test_nothing_is_made_up_where_a_server_tells_nothing() -> None:
    for shape, tokens, logprobs in (
        (
            "bare",
            "auto",
            False,
        ),  # answers 200 and leaves the fields out, as transformers serve does
        ("openai", "auto", True),
        ("vllm", "none", False),
    ):
        async with (
            ModelServer("hello", shape=shape) as server,
            responder(server.url, tokens=tokens) as tiny,
        ):
            reply = await tiny.respond(HELLO)
        assert (reply.completion_ids, reply.prompt_ids, reply.weight_version) == (None, None, None)
        assert reply.logprobs == (server.calls[0].logprobs if logprobs else None)
        assert len(server.calls) == 1


async def test_an_endpoint_that_refuses_to_be_asked_for_tokens_is_asked_for_less(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[list[str]] = []

    async def strict(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append([name for name in body if name.startswith(("return", "logprobs"))])
        if "return_token_ids" in body:
            return web.Response(status=400, text="Unrecognized request argument: return_token_ids")
        if len(body["messages"]) > 1:
            return web.Response(status=400, text="the context is too long")
        return completion("hi")

    async with endpoint(strict) as url, responder(url, tokens="auto") as tiny:
        assert (await tiny.respond(HELLO)).text == "hi"
        assert (await tiny.respond(HELLO)).text == "hi"
        with pytest.raises(ResponderFailed, match="the context is too long"):
            await tiny.respond(HELLO * 2)
    assert [len(names) for names in asked] == [4, 1, 1, 1]  # and a refusal later is a refusal
    assert "is asked for logprobs: it refused more" in caplog.text
    async with endpoint(strict) as url, responder(url, tokens="vllm") as tiny:
        with pytest.raises(ResponderFailed, match="Unrecognized request argument"):
            await tiny.respond(HELLO)


async def test_a_refusal_that_asking_for_less_does_not_cure_is_told_as_it_was() -> None:
    script = Script(*(web.Response(status=400, text=f"no {i}") for i in range(3)))
    async with endpoint(script) as url, responder(url, tokens="auto") as tiny:
        with pytest.raises(ResponderFailed, match="HTTP 400: no 0"):
            await tiny.respond(HELLO)
        script.responses.append(completion("hi"))
        assert (await tiny.respond(HELLO)).text == "hi"
    assert "return_token_ids" in script.bodies[-1]  # that it was refused is not held against it


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_offered_and_called(stream: bool) -> None:
    async with (
        ModelServer(called("look", place="here", n=3), shape="vllm") as server,
        responder(server.url, stream=stream, tokens="vllm") as tiny,
    ):
        reply = await tiny.respond(HELLO, tools=TOOLS, tool_choice="required")
        again = await tiny.respond([*HELLO, reply.message])
    assert reply.finish_reason == "tool_calls"
    [made] = reply.tool_calls
    assert made["function"] == {"name": "look", "arguments": '{"place": "here", "n": 3}'}
    assert made["id"]
    assert reply.message == {"role": "assistant", "content": None, "tool_calls": [made]}
    first, second = server.calls
    assert (first.body["tools"], first.body["tool_choice"]) == (TOOLS, "required")
    assert "tools" not in second.body
    assert second.messages[-1] == reply.message
    assert again.text == ""
    assert reply.completion_ids == first.completion_ids


async def test_a_stream_is_one_reply() -> None:
    async with (
        ModelServer("grüß dich, schöne welt", shape="vllm") as server,
        responder(server.url, stream=True, tokens="auto") as tiny,
    ):
        reply = await tiny.respond(HELLO, max_tokens=100)
    [call] = server.calls
    assert call.body["stream_options"] == {"include_usage": True}
    assert "return_meta_info" not in call.body  # SGLang refuses it of a stream
    assert (reply.text, reply.finish_reason) == ("grüß dich, schöne welt", "stop")
    assert call.completion_ids is not None
    assert call.prompt_ids is not None
    assert (reply.completion_ids, reply.logprobs) == (call.completion_ids, call.logprobs)
    assert reply.prompt_ids == call.prompt_ids
    assert reply.usage == Usage(len(call.prompt_ids), len(call.completion_ids))
    assert reply.extra["id"] == call.id


FAULTS = {
    "cut": (ResponderUnavailable, True, "Response payload is not completed|Connection"),
    "busy": (ResponderRateLimited, True, "HTTP 429: .*slow down"),
    "broken": (ResponderUnavailable, True, "HTTP 500: .*out of memory"),
    "schema": (InvalidCompletion, False, "other than a chat completion.*often ends in /v1"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_of_a_server_has_its_type_and_names_the_call(
    fault: str, stream: bool
) -> None:
    expected, retryable, text = FAULTS[fault]
    async with (
        ModelServer(faults={fault: 1.0}) as server,
        responder(server.url, max_attempts=3, stream=stream) as tiny,
    ):
        with pytest.raises(expected, match=text) as told:
            await tiny.respond(HELLO)
    error = told.value
    assert isinstance(error, ResponderFailed)
    assert type(error) is expected
    assert error.retryable is retryable
    assert error.detail["attempts"] == len(server.calls) == (3 if retryable else 1)
    assert str(error.detail["call"]) in error.message
    assert {call.request_id for call in server.calls} == {
        f"{error.detail['call']}-{attempt + 1}" for attempt in range(len(server.calls))
    }
    assert pickle.loads(pickle.dumps(error)).detail == error.detail


@pytest.mark.parametrize("stream", [False, True])
async def test_faults_that_pass_cost_no_call(stream: bool) -> None:
    faults = {"cut": 0.1, "busy": 0.1, "broken": 0.1}
    async with (
        ModelServer(lambda messages, body: f"s{body['seed']}", faults=faults) as server,
        responder(server.url, max_attempts=20, stream=stream) as tiny,
    ):
        replies = await asyncio.gather(*(tiny.respond(HELLO, seed=i) for i in range(100)))
    assert [reply.text for reply in replies] == [f"s{i}" for i in range(100)]
    assert server.counts["answer"] == 100
    assert all(server.counts[name] > 0 for name in faults)
    assert sum(reply.extra["attempts"] for reply in replies) == len(server.calls)


async def test_a_stream_that_tells_of_an_error_is_asked_again() -> None:
    answers = [b'data: {"error": {"message": "engine died"}}\n\n', b"data: [DONE]\n\n"]

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunk = b'data: {"choices": [{"index": 0, "delta": {"content": "he"}}]}\r\n\r\n'
        await response.write(chunk)
        await response.write(answers.pop(0))
        return response

    async with endpoint(answer) as url, responder(url, stream=True, max_attempts=2) as tiny:
        assert (await tiny.respond(HELLO)).text == "he"
        assert answers == []
        answers.append(b'data: {"error": {"message": "engine died"}}\n\n')
        answers.append(b'data: {"oops"\n\n')
        with pytest.raises(InvalidCompletion, match="not JSON"):
            await tiny.respond(HELLO)
        answers.extend([b'data: {"error": {"message": "engine died"}}\n\n', b""])
        with pytest.raises(ResponderUnavailable, match="the stream ended before the end"):
            await tiny.respond(HELLO)


async def test_a_truncated_answer_is_a_cut_one() -> None:
    script = Script(web.Response(text='{"choices": [{"mess'), web.Response(text=""))
    script.responses.append(completion("whole"))
    async with endpoint(script) as url, responder(url) as tiny:
        assert (await tiny.respond(HELLO)).text == "whole"


async def test_so_many_calls_at_once_and_no_more() -> None:
    async with (
        ModelServer("hi", delay=0.02) as server,
        responder(server.url, max_concurrency=3) as tiny,
    ):
        replies = await asyncio.gather(*(tiny.respond(HELLO) for _ in range(12)))
    assert server.most_at_once == 3
    waited = sorted(reply.queue_seconds for reply in replies)
    assert waited[2] < waited[3]
    with pytest.raises(ValueError, match="max_concurrency must be at least 1, got 0"):
        OpenAIResponder("m", max_concurrency=0)


async def test_what_waits_for_its_turn_is_not_late() -> None:
    async with (
        ModelServer("hi", delay=0.15) as server,
        responder(server.url, max_concurrency=1, timeout=0.4) as tiny,
    ):
        replies = await asyncio.gather(*(tiny.respond(HELLO) for _ in range(5)))
    assert max(reply.queue_seconds for reply in replies) > 0.4


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2hunter2@host/v1",
        "https://host/v1?api_key=hunter2hunter2",
        "https://host/v1#hunter2hunter2",
    ],
)
def test_a_url_that_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="environment variable MY_KEY") as told:
        OpenAIResponder("m", url, api_key_variable="MY_KEY")
    assert "hunter2" not in str(told.value)


def test_openai_itself_is_asked_as_it_likes() -> None:
    made = OpenAIResponder("gpt", "https://api.openai.com/v1", tokens="auto")
    assert made._asked_tokens == [{"logprobs": True}, {}]
    with pytest.raises(
        ValueError, match="tokens must be one of auto, vllm, sglang, logprobs, none"
    ):
        OpenAIResponder("gpt", tokens="all")  # type: ignore[arg-type]  # the point


async def test_an_endpoint_is_checked_before_a_run_relies_on_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ModelServer() as server:
        for model, warned in (("scripted-1", False), ("tiny", True)):
            made = OpenAIResponder(model, server.url)
            await made.check()
            await made.aclose()
            assert ("there is no such model, it has scripted-1" in caplog.text) is warned
        assert server.calls == []
    async with responder(server.url) as tiny:
        with pytest.raises(ResponderUnavailable, match="start the model's server, or correct its"):
            await tiny.check()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers = [
        web.Response(status=401, text=KEY),
        web.Response(text="<html>"),
        web.Response(status=500),
    ]

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return answers.pop(0)

    async with endpoint(answer) as url, responder(url) as tiny:
        with pytest.raises(ResponderFailed, match=r"refused the key \(HTTP 401\).*OPENAI_API_KEY"):
            await tiny.check()
        await tiny.check()  # something else in place of a list is no reason not to play
        await tiny.check()
        monkeypatch.delenv("OPENAI_API_KEY")
    assert answers == []
