"""The gateway: it opens sessions, samples for them, and keeps what was sampled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Literal, Self

from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    CallRefused,
    DeadlineExceeded,
    GoingAway,
    OpenEnvError,
    OperationCancelled,
    ResponderFailed,
    ServerBusy,
    SessionClosed,
    SessionNotFound,
    Unauthorized,
)
from openenv_async.gateway.app import GatewayApp, error_body, send_whole
from openenv_async.gateway.calls import Answer, Call, Delivery, Dialect, Sampler
from openenv_async.gateway.sessions import (
    Budget,
    GatewayLimits,
    Generation,
    ModelSession,
    Prices,
    key_digest,
    new_key,
)
from openenv_async.server.run import Server, address, listen, running, uvicorn_config

__all__ = ["Gateway"]

log = logging.getLogger("openenv_async.gateway")

_KEEP_ALIVE: Final = 120
"""Seconds that an idle connection is kept: agents think and run tools between their calls."""
_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 30.0
"""Seconds before an engine is asked again, where it does not say."""


class Gateway:
    """A gateway between agents and an inference engine.

    ``async with Gateway(engine) as gateway: session = await gateway.open()``

    Args:
        engine: what samples.
        routes: dialect of each path that takes calls.
        host, port: where it listens; port 0 takes a free one.
        limits: sizes, counts and times.
        prices: of tokens, for budgets of cost; a session may have its own.
        on_leave: when a client leaves before its answer is whole, ``finish`` lets the engine go
            on, so that a retry gets the answer; ``cancel`` ends it.

    Attributes:
        url: the address, once it listens.
    """

    def __init__(
        self,
        engine: Sampler,
        *,
        routes: Mapping[str, Dialect],
        host: str = "127.0.0.1",
        port: int = 0,
        limits: GatewayLimits | None = None,
        prices: Prices | None = None,
        on_leave: Literal["finish", "cancel"] = "finish",
    ) -> None:
        if on_leave not in ("finish", "cancel"):
            raise ValueError(f"on_leave is 'finish' or 'cancel', got {on_leave!r}")
        self._engine = engine
        self._host = host
        self._port = port
        self._limits = limits or GatewayLimits()
        self._prices = prices
        self._on_leave = on_leave
        self._sessions: dict[str, ModelSession] = {}
        self._by_digest: dict[str, ModelSession] = {}
        self._resources = contextlib.AsyncExitStack()
        self._is_open = False
        self.url = ""
        self.app = GatewayApp(self, routes, self._verb, self._limits.max_body_size)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.url = await stack.enter_async_context(self._listening(self._host, self._port))
            stack.push_async_callback(self._cut_all)  # what runs is told, then the sockets close
            self._resources = stack.pop_all()
        self._is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cut the calls that run and listen no more. Idempotent."""
        self._is_open = False
        await self._resources.aclose()

    # -- sessions -----------------------------------------------------------------------------

    async def open(
        self, *, budget: Budget | None = None, prices: Prices | None = None
    ) -> ModelSession:
        """Open a session: a key for one agent, and a record of its calls.

        Args:
            budget: the most that it may spend.
            prices: of tokens, for a budget of cost; those of the gateway by default.

        Raises:
            GoingAway: the gateway is closed.
            ServerBusy: there are as many sessions as may be.
            ValueError: a budget of cost has no prices.
        """
        if not self._is_open:
            raise GoingAway("the gateway is closed: open it with `async with`")
        if len(self._sessions) >= self._limits.max_sessions:
            raise ServerBusy(
                f"{self._limits.max_sessions} sessions are open, which is the most"
                " (GatewayLimits.max_sessions): end some"
            )
        budget, prices = budget or Budget(), prices or self._prices
        if budget.cost is not None and prices is None:
            raise ValueError("a budget of cost needs prices=Prices(prompt=…, completion=…)")
        session = ModelSession(
            secrets.token_hex(8),
            new_key(),
            self.url,
            limits=self._limits,
            budget=budget,
            prices=prices,
        )
        self._sessions[session.id] = session
        self._by_digest[session.digest] = session
        return session

    async def end(self, session: ModelSession | str) -> None:
        """End a session: its key opens nothing more, and calls that run are cut. Idempotent.

        Raises:
            SessionNotFound: no session has this id.
        """
        found = session if isinstance(session, ModelSession) else self.session(session)
        self._by_digest.pop(found.digest, None)
        self._sessions.pop(found.id, None)
        found.is_open = False
        await _cut(found)

    def session(self, id: str) -> ModelSession:
        """Return an open session.

        Raises:
            SessionNotFound: no session has this id.
        """
        try:
            return self._sessions[id]
        except KeyError:
            raise SessionNotFound(f"the gateway has no session {id!r}") from None

    async def _cut_all(self) -> None:
        for session in list(self._sessions.values()):
            session.is_open = False
            await _cut(session)

    # -- listening ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _listening(self, host: str, port: int) -> AsyncIterator[str]:
        listener: socket.socket = listen(host, port, private=True)
        config = uvicorn_config(
            self.app, EngineOptions(), timeout_keep_alive=_KEEP_ALIVE, lifespan="off"
        )
        async with running(Server(config), listener):
            yield address(host, listener)

    # -- calls --------------------------------------------------------------------------------

    def session_of(self, key: str) -> ModelSession:
        """Return the session that a key opens.

        Raises:
            Unauthorized: it opens none.
        """
        session = self._by_digest.get(key_digest(key))
        if session is None:
            raise Unauthorized("this key opens no session: it has ended, or there never was one")
        return session

    def admit(self, session: ModelSession) -> None:
        """Let one more request of a session in.

        Raises:
            OpenEnvError: the session or its limits do not allow it.
        """
        session.admit(time.monotonic())

    async def answer(self, session: ModelSession, call: Call) -> Generation:
        """Return the sample that answers a call.

        Raises:
            OpenEnvError: it cannot be had.
        """
        generation = session.begin(call)
        self._start(generation)
        return generation

    async def delivered(self, generation: Generation, delivery: Delivery) -> None:
        """Note how an answer reached its client."""
        generation.record.deliveries.append(delivery)

    def _start(self, generation: Generation) -> None:
        generation.ends_alone = self._on_leave == "cancel"
        task = asyncio.get_running_loop().create_task(self._sample(generation))
        generation.task = task
        task.add_done_callback(lambda _: self._cancelled(generation))

    def _cancelled(self, generation: Generation) -> None:
        """Make an end of a sample whose task was cancelled before its first step."""
        if not generation.is_done:
            self._fail(generation, _cut_error(generation))

    async def _sample(self, generation: Generation) -> None:
        """Ask the engine until there is an answer, or an error for good; the generation's task."""
        record, session = generation.record, generation.session
        begun = time.perf_counter()
        left = session.seconds_left
        limit = self._limits.call_timeout if left is None else min(self._limits.call_timeout, left)
        error: OpenEnvError
        try:
            async with asyncio.timeout(limit):
                answer = await self._asked(generation)
            record.seconds = time.perf_counter() - begun
            record.answer = answer
            session.count(answer)
        except asyncio.CancelledError:
            error = _cut_error(generation)
        except TimeoutError as exc:
            if isinstance(exc, OpenEnvError):
                error = exc
            elif limit == left:
                error = session.out_of_time()
            else:
                error = DeadlineExceeded(
                    f"the engine took more than {limit:g} s (GatewayLimits.call_timeout)"
                )
        except OpenEnvError as exc:
            error = exc
        except Exception as exc:  # of a sampler of the user's
            log.exception("a sampler raised")
            error = ResponderFailed(f"the engine's client raised {type(exc).__name__}")
        else:
            del session.running[record.number]
            generation.finish(answer)
            return
        record.seconds = time.perf_counter() - begun
        self._fail(generation, error)

    def _fail(self, generation: Generation, error: OpenEnvError) -> None:
        record, session = generation.record, generation.session
        record.error = (error.code, error.message)
        session.spent.calls -= 1
        del session.running[record.number]
        generation.fail(error)

    async def _asked(self, generation: Generation) -> Answer:
        """Return the engine's answer; ask again while that may help and nothing was passed on.

        Raises:
            OpenEnvError: there is none.
        """
        record = generation.record
        wait = _FIRST_WAIT
        for attempt in range(self._limits.max_attempts):
            record.attempts = attempt + 1
            try:
                return await self._asked_once(generation, attempt)
            except ResponderFailed as exc:
                is_last = attempt + 1 == self._limits.max_attempts
                if is_last or not exc.retryable or generation.is_passed_on:
                    raise
                told = exc.detail.get("retry_after")
                if told is not None and told > _LONGEST_WAIT:
                    raise
                generation.begin_again()
                await asyncio.sleep(wait if told is None else told)
                wait *= 2
        raise AssertionError("max_attempts is at least 1")

    async def _asked_once(self, generation: Generation, attempt: int) -> Answer:
        parts = self._engine.sample(generation.call, session=generation.session.id, attempt=attempt)
        answer: Answer | None = None
        async for part in parts:  # to its end: what the engine's client holds is free by then
            if isinstance(part, Answer):
                answer = part
            else:
                generation.add(part)
        if answer is None:
            raise ResponderFailed("the engine's client ended without an answer")
        return answer

    # -- verbs --------------------------------------------------------------------------------

    async def _verb(self, scope: Any, receive: Any, send: Any) -> None:
        error = CallRefused(f"there is nothing at {scope['path']}", status=404)
        await send_whole(send, *error_body(error))


async def _cut(session: ModelSession) -> None:
    """End the samples of a session that run."""
    tasks = [each.task for each in session.running.values() if each.task is not None]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _cut_error(generation: Generation) -> OpenEnvError:
    session = generation.session
    if not session.is_open:
        return SessionClosed(f"session {session.id} has ended: open another one")
    return OperationCancelled("the client left, and on_leave='cancel' ends its call")
