"""Time: deadlines, cancellation, and what happens to what still runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.registry import CheckFailed, check, require
from openenv_async.errors import DeadlineExceeded, EnvironmentRaised

_LONG = 60.0
_SOON = 5.0
_LOOK = 0.02


async def _soon(question: Callable[[], Awaitable[Any]], found: str) -> None:
    """Ask until the answer is yes. The server may be anywhere, so there is no event to wait for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SOON):
            while not await question():  # noqa: ASYNC110 - the server may be anywhere
                await asyncio.sleep(_LOOK)
            return
    raise CheckFailed(f"{found} within {_SOON:g} s")


@check(
    "conformance", "deadline", own=True, remedy="look at how the deadline of a request is enforced"
)
async def a_deadline_ends_the_call(subject: Subject) -> None:
    """A step past its deadline fails as such, names the setting, and the session goes on."""
    async with subject.transport.session() as env:
        await env.reset()
        call = env.step({"command": "sleep", "value": _LONG}, timeout=0.1)
        error = await subject.expect(DeadlineExceeded, call)
        require(isinstance(error, TimeoutError), "it is not a TimeoutError")
        detail = getattr(error, "detail", {})
        require(detail.get("field") == "step", f"the details do not name the field: {detail!r}")
        require(detail.get("value") == 0.1, f"the details do not give its value: {detail!r}")
        result = await env.step(subject.action())
        require(result.observation["steps"] == 2, "the next step was not the second")
        require((await env.state())["cancelled"] == 1, "the environment's call was not stopped")


@check(
    "conformance",
    "cancel",
    own=True,
    remedy="look at how a cancelled call reaches the server as a Cancel frame",
)
async def a_cancelled_call_is_stopped(subject: Subject) -> None:
    """Cancelling a call stops it in the environment; the next call gets its own reply."""
    async with subject.transport.session() as env:
        await env.reset()
        for round in range(1, 4):
            call = asyncio.ensure_future(env.step({"command": "sleep", "value": _LONG}))
            await asyncio.sleep(_LOOK)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            text = f"after {round}"
            async with asyncio.timeout(_SOON):
                result = await env.step({"command": "echo", "text": text})
            require(result.observation["text"] == text, f"got {result.observation['text']!r}")
            cancelled = (await env.state())["cancelled"]
            require(cancelled == round, f"{round} calls were cancelled, {cancelled} were stopped")


@check(
    "conformance",
    "cancel",
    own=True,
    remedy="closing must stop what runs and then close the environment",
)
async def closing_stops_what_runs(subject: Subject) -> None:
    """Close while a step runs closes the environment; nothing is left behind."""
    async with subject.transport.session() as witness:
        await witness.reset()
        async with subject.transport.session() as env:
            await env.reset()
            instance = (await env.state())["instance"]
            call = asyncio.ensure_future(env.step({"command": "sleep", "value": _LONG}))
            await asyncio.sleep(_LOOK)
            async with asyncio.timeout(_SOON):
                await env.close()
            await asyncio.wait([call], timeout=_SOON)
            require(call.done(), "the running call was left without an answer")
            require(
                not call.cancelled() and call.exception() is not None,
                "the running call was not told that it was stopped",
            )

        async def gone() -> bool:
            return instance not in (await witness.state())["live"]

        await _soon(gone, "the environment was not closed")


@check(
    "conformance",
    "state",
    "held",
    own=True,
    remedy="close, and the end of the connection, must close the environment",
)
async def closing_releases_the_environment(subject: Subject) -> None:
    """The environment of a closed session is closed."""
    async with subject.transport.session() as witness:
        await witness.reset()
        async with subject.transport.session() as env:
            await env.reset()
            instance = (await env.state())["instance"]
            live = (await witness.state())["live"]
            require(instance in live, "the environment is not among those that live")

        async def gone() -> bool:
            return instance not in (await witness.state())["live"]

        await _soon(gone, "the environment was not closed")


# -- streaming ----------------------------------------------------------------------------


@check("conformance", "stream", own=True, remedy="partials in order, then exactly one final result")
async def a_stream_ends_with_its_result(subject: Subject) -> None:
    """Partial observations come in order, and the last item is what step would have given."""
    async with subject.transport.session() as env:
        await env.reset()
        for count in (0, 1, 5, 300):
            action = {"command": "stream", "count": count}
            items = [item async for item in env.stream_step(action)]
            texts = [item.observation["text"] for item in items]
            wanted = [str(index) for index in range(count)] + [str(count)]
            require(texts == wanted, f"{count} partials came as {texts[:5]} … {texts[-2:]}")
            require(items[-1].reward == 1.0, f"the last reward was {items[-1].reward!r}")
            require(all(i.reward is None for i in items[:-1]), "a partial had a reward")
            require(not any(i.done for i in items), "something was done")


@check(
    "conformance",
    "stream",
    own=True,
    remedy="an error in a stream comes after the partials that were shown",
)
async def an_error_ends_a_stream(subject: Subject) -> None:
    """An environment that raises in mid-stream: its partials, then the error."""
    async with subject.transport.session() as env:
        await env.reset()
        seen: list[str] = []

        async def follow() -> None:
            action = {"command": "stream", "count": 3, "text": "broken"}
            async for item in env.stream_step(action):
                seen.append(item.observation["text"])  # noqa: PERF401 - what came before counts

        await subject.expect(EnvironmentRaised, follow())
        require(seen == ["0", "1", "2"], f"the partials before the error were {seen}")
        await env.step(subject.action())


@check("conformance", "stream", "cancel", own=True, remedy="leaving the loop must cancel the step")
async def leaving_a_stream_cancels_the_step(subject: Subject) -> None:
    """Leaving the ``async for`` stops the environment; the next call gets its own reply."""
    async with subject.transport.session() as env:
        await env.reset()
        action = {"command": "stream", "count": 100_000, "value": 0.001}
        async with contextlib.aclosing(env.stream_step(action)) as stream:
            async for item in stream:
                if item.observation["text"] == "3":
                    break
        async with asyncio.timeout(_SOON):
            result = await env.step({"command": "echo", "text": "next"})
        require(result.observation["text"] == "next", f"got {result.observation['text']!r}")
        require((await env.state())["cancelled"] == 1, "the environment was not stopped")


@check("conformance", "stream", own=True, remedy="a plain step is a stream of one")
async def a_plain_step_is_a_stream_of_one(subject: Subject) -> None:
    """An action that shows nothing on the way gives just its result."""
    async with subject.transport.session() as env:
        await env.reset()
        items = [item async for item in env.stream_step({"command": "echo", "text": "x"})]
        require(len(items) == 1, f"{len(items)} items came")
        require(items[0].observation["text"] == "x", f"it was {items[0]!r:.200}")
