"""Errors: each typed, with a code; the session usable afterwards; other sessions undisturbed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.registry import CheckFailed, Skipped, check, require
from openenv_async.errors import (
    EnvironmentRaised,
    EnvironmentStartFailed,
    EpisodeEnded,
    EpisodeNotStarted,
    InvalidAction,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    ServerBusy,
    SessionBusy,
    SessionLost,
    SessionNotFound,
)
from openenv_async.schemas.refs import resolved

_TYPED = "look at how the error is typed: its code must be the one of docs/protocol.md, section 8"
_USABLE = "a call that is refused must change nothing, and end nothing"
_MOST_TO_OPEN = 64


async def _goes_on(subject: Subject, env: Any) -> None:
    """The session still takes a reset and a step."""
    try:
        result = await env.reset()
        if not result.done:
            await subject.step(env)
    except Skipped:
        return  # it answers, and refuses as an environment may
    except Exception as exc:  # a finding, whatever it is
        raise CheckFailed(f"afterwards the session failed: {type(exc).__name__}: {exc}") from exc


@check("conformance", "order", remedy=_TYPED)
async def a_step_before_reset_is_refused(subject: Subject) -> None:
    """Step before the first reset is an error of the caller; reset works afterwards."""
    async with subject.transport.session() as env:
        await subject.expect(EpisodeNotStarted, env.step(subject.action()))
        await _goes_on(subject, env)


@check("conformance", "order", own=True, remedy=_TYPED)
async def a_step_after_the_end_is_refused(subject: Subject) -> None:
    """Step after the end is an error of the caller and does not reach the environment."""
    async with subject.transport.session() as env:
        await env.reset()
        await env.step({"command": "terminate", "value": 1.0})
        await subject.expect(EpisodeEnded, env.step(subject.action()))
        if "state" in subject.transport.features:
            steps = (await env.state())["steps"]
            require(steps == 1, f"the environment took {steps} steps instead of 1")
        await _goes_on(subject, env)


@check("conformance", remedy=_TYPED)
async def an_invalid_action_is_refused(subject: Subject) -> None:
    """An action of the wrong shape is an error of the caller; the episode goes on."""
    async with subject.transport.session() as env:
        result = await env.reset()
        if result.done:
            raise Skipped("the episode is over with its reset")
        await subject.expect(InvalidAction, env.step(_wrong_action(subject)))
        if subject.own or {"reset", "held"} <= subject.transport.features:
            await subject.step(env)
            await _goes_on(subject, env)


def _wrong_action(subject: Subject) -> Any:
    if subject.own:
        return {"command": ["not", "a", "text"]}
    whole = subject.schema.get("action", {})
    schema = resolved(whole, whole)
    kind = schema.get("type")
    if kind == "object" and not schema.get("properties"):
        raise Skipped("any object is an action of this environment")
    if kind not in ("object", "string", "integer", "number", "array", "boolean"):
        raise Skipped("the schema does not tell which values are not actions")
    return {"command": 5} if kind != "object" else "neither an object nor an action"


@check(
    "conformance", own=True, remedy="unknown fields must be refused, nested ones too: never dropped"
)
async def unknown_fields_are_refused(subject: Subject) -> None:
    """A field that the action does not have is an error, not dropped in silence."""
    async with subject.transport.session() as env:
        await env.reset()
        wrong = {"command": "echo", "comand": "typo"}
        await subject.expect(InvalidAction, env.step(wrong))
        await _goes_on(subject, env)


@check("conformance", "options", remedy=_TYPED)
async def an_unknown_reset_option_is_refused(subject: Subject) -> None:
    """A reset option that the environment does not declare is an error that names it."""
    if subject.schema.get("reset", {}).get("additionalProperties") is True:
        raise Skipped("the environment's reset takes any option")
    async with subject.transport.session() as env:
        error = await subject.expect(InvalidOption, env.reset(no_such_option=1))
        require("no_such_option" in str(error), f"the error does not name it: {error}")
        await _goes_on(subject, env)


@check("conformance", "choice", "options", own=True, remedy=_TYPED)
async def a_reset_option_of_the_wrong_type_is_refused(subject: Subject) -> None:
    """A reset option is checked against what the environment declares."""
    async with subject.transport.session() as env:
        await subject.expect(InvalidOption, env.reset(text={"no": "text"}))
        result = await env.reset(text="a text")
        require(result.observation["text"] == "a text", "the option did not arrive")


@check("conformance", "held", own=True, remedy=_TYPED)
async def an_environment_that_raises_in_step(subject: Subject) -> None:
    """The error says what was raised; the episode goes on if the environment can."""
    async with subject.transport.session() as env:
        await env.reset()
        await env.step(subject.action())
        error = await subject.expect(
            EnvironmentRaised, env.step({"command": "raise", "text": "out of cheese"})
        )
        require("out of cheese" in str(error), f"the cause is not in the error: {error}")
        result = await env.step(subject.action())
        require(result.observation["steps"] == 3, f"steps are {result.observation['steps']}")


@check("conformance", "choice", "options", own=True, remedy=_TYPED)
async def an_environment_that_raises_in_reset(subject: Subject) -> None:
    """The error says what was raised; there is no episode, and the next reset may work."""
    async with subject.transport.session() as env:
        error = await subject.expect(EnvironmentRaised, env.reset(fail="no luck"))
        require("no luck" in str(error), f"the cause is not in the error: {error}")
        await subject.expect(EpisodeNotStarted, env.step(subject.action()))
        await _goes_on(subject, env)


@check("conformance", "session_options", own=True, remedy=_TYPED)
async def an_environment_that_cannot_be_built(subject: Subject) -> None:
    """The error says what was raised; the capacity is given back."""
    for _ in range(3):
        error = await subject.expect(
            EnvironmentStartFailed, _opened(subject, {"fail": "no licence"})
        )
        require("no licence" in str(error), f"the cause is not in the error: {error}")
    async with subject.transport.session(options={"label": "next"}) as env:
        await env.reset()
        require((await env.state())["label"] == "next", "the option did not arrive")


@check("conformance", "session_options", remedy=_TYPED)
async def an_unknown_session_option_is_refused(subject: Subject) -> None:
    """A constructor option that the environment does not open to clients is an error."""
    await subject.expect(InvalidOption, _opened(subject, {"no_such_option": 1}))


async def _opened(subject: Subject, options: dict[str, Any]) -> None:
    async with subject.transport.session(options=options) as env:
        await env.reset()


@check("conformance", own=True, remedy=_TYPED)
async def an_observation_that_cannot_be_sent(subject: Subject) -> None:
    """The environment is named as the culprit; the session goes on."""
    async with subject.transport.session() as env:
        await env.reset()
        await subject.expect(InvalidObservation, env.step({"command": "unsendable"}))
        await env.step(subject.action())


@check(
    "conformance",
    "busy",
    own=True,
    remedy="one call at a time per session; the second is refused, not queued",
)
async def a_second_call_meanwhile_is_refused(subject: Subject) -> None:
    """A call while another one runs on the same session is refused; the first is not hurt."""
    async with subject.transport.session() as env:
        await env.reset()
        first = asyncio.ensure_future(env.step({"command": "sleep", "value": 0.2}))
        await asyncio.sleep(0)
        await subject.expect(SessionBusy, env.step(subject.action()))
        result = await first
        require(result.observation["text"] == "slept", f"the first call gave {result!r:.200}")
        await env.step(subject.action())


@check("conformance", "sessions", remedy=_TYPED)
async def an_unknown_session_is_not_found(subject: Subject) -> None:
    """A session that never was is a typed error and opens nothing."""
    try:
        await subject.transport.use_unknown_session()
    except OpenEnvError as exc:
        found = isinstance(exc, SessionLost | SessionNotFound)
        require(found, f"got {type(exc).__name__}: {exc}")
        return
    raise CheckFailed("a session that never was answered")


@check("conformance", "held", own=True, remedy="one session's failure must stay its own")
async def other_sessions_are_undisturbed(subject: Subject) -> None:
    """The others see their own replies while one session raises, sends nonsense and ends."""

    async def quiet(number: int) -> None:
        async with subject.transport.session() as env:
            await env.reset()
            for step in range(30):
                text = f"{number}-{step}"
                result = await env.step({"command": "echo", "text": text})
                require(
                    result.observation["text"] == text,
                    f"asked for {text!r}, got {result.observation['text']!r}",
                )
                require(result.observation["steps"] == step + 1, "a step was lost or doubled")

    async def loud() -> None:
        async with subject.transport.session() as env:
            for _ in range(10):
                await env.reset()
                wrongs: tuple[Any, ...] = ({"command": "raise", "text": "loud"}, {"command": []}, 5)
                for wrong in wrongs:
                    with contextlib.suppress(Exception):
                        await env.step(wrong)
                await env.step({"command": "terminate"})

    async with asyncio.TaskGroup() as group:
        group.create_task(loud())
        for number in range(3):
            group.create_task(quiet(number))


@check("conformance", "session_options", remedy="look at admission: full must be said, and counted")
async def a_full_server_says_so(subject: Subject) -> None:
    """One session more than the server holds is refused as busy; closing one makes room."""
    limit = await subject.transport.capacity()
    if limit is None:
        raise Skipped("this transport does not tell how many sessions the server holds")
    if limit > _MOST_TO_OPEN:
        raise Skipped(f"the server holds {limit} sessions: too many to open for a check")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(limit - 1):
            await stack.enter_async_context(subject.transport.session())
        async with _last(subject):
            error = await subject.expect(ServerBusy, _opened(subject, {}))
            require(error.retryable, "the error is not marked as retryable")
            require(error.detail.get("limit") == limit, f"its details are {error.detail!r}")
        async with _last(subject) as env:  # there is room again
            await env.reset()


@contextlib.asynccontextmanager
async def _last(subject: Subject) -> AsyncIterator[Any]:
    async with subject.transport.session() as env:
        yield env
