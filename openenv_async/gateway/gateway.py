"""The gateway: it opens sessions, samples for them, and keeps what was sampled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self, cast

import msgspec

from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    CallRefused,
    DeadlineExceeded,
    GoingAway,
    JournalFailed,
    OpenEnvError,
    OperationCancelled,
    OperationUnsupported,
    ResponderFailed,
    ServerBusy,
    SessionClosed,
    SessionNotFound,
    Unauthorized,
)
from openenv_async.gateway.app import GatewayApp
from openenv_async.gateway.calls import Answer, Call, Delivery, Dialect, Level, Sampler
from openenv_async.gateway.dialects import ROUTES
from openenv_async.gateway.dialects.system_messages import put_system_first
from openenv_async.gateway.engines import Engines, TokenFields
from openenv_async.gateway.histories import Histories, PackedCall, Shared
from openenv_async.gateway.journal import Journal, SessionFacts
from openenv_async.gateway.retries import Sample
from openenv_async.gateway.sessions import (
    Budget,
    GatewayLimits,
    Generation,
    ModelSession,
    Prices,
    key_digest,
    new_key,
)
from openenv_async.gateway.verbs import Verbs
from openenv_async.server.run import Server, address, listen, running, uvicorn_config
from openenv_async.telemetry.spans import record_model_call
from openenv_async.telemetry.tracing import current

__all__ = ["Gateway"]

log = logging.getLogger("openenv_async.gateway")

_REFUSALS: Final = frozenset({400, 413, 422})
"""Statuses by which an engine says that it does not take a request."""
_KEEP_ALIVE: Final = 120
"""Seconds that an idle connection is kept: agents think and run tools between their calls."""
_ENDING: Final = 10.0
"""Seconds in which a sample that was cancelled has to end."""
_CANCEL_AGAIN: Final = 1.0
_LAST_BYTES: Final = 3.0
"""Seconds in which clients of a session that has ended have to send and to read the rest."""
_FIRST_WAIT: Final = 0.25
_LONGEST_SWEEP: Final = 60.0
_LONGEST_WAIT: Final = 30.0
"""Seconds before an engine is asked again, where it does not say."""


class _Settings(msgspec.Struct):
    """The settings of a session, as the journal has them."""

    budget: Budget = Budget()
    prices: Prices | None = None


class Gateway:
    """A gateway between agents and inference engines.

    ``async with Gateway("http://127.0.0.1:8000/v1") as gateway: session = await gateway.open()``

    Args:
        engines: base URLs of engines that serve the same model, or what samples in their place,
            which its owner opens and closes.
        model, api_key, level, tokens: as for ``Engines``, where URLs are given.
        journal: a folder, or a ``Journal``, which its owner closes; ``None``: calls are kept in
            memory alone, and end with the process.
        host, port: where it listens; port 0 takes a free one.
        ssl_certfile, ssl_keyfile: PEM files, for https at that address.
        admin_token: opens the verbs over HTTP; ``None``: there are none.
        limits: sizes, counts and times.
        prices: of tokens, for budgets of cost; a session may have its own.
        on_leave: when a client leaves before its answer is whole, ``finish`` lets the engine go
            on, so that a retry gets the answer; ``cancel`` ends it.
        system: places of system messages that the model's chat template takes: ``anywhere``, so
            that they pass as agents send them, or ``first``: one, at the beginning.
        routes: dialect of each path that takes calls; those of ``gateway.dialects`` by default.

    Attributes:
        url: the address, once it listens.
        engine: what samples.
        is_open: it takes calls.
        running: count of samples that run.
    """

    def __init__(
        self,
        engines: str | Sequence[str] | Sampler,
        *,
        model: str | None = None,
        api_key: str | None = None,
        level: Level = "tokens",
        tokens: TokenFields = "auto",
        journal: str | os.PathLike[str] | Journal | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        admin_token: str | None = None,
        limits: GatewayLimits | None = None,
        prices: Prices | None = None,
        on_leave: Literal["finish", "cancel"] = "finish",
        system: Literal["anywhere", "first"] = "anywhere",
        routes: Mapping[str, Dialect] = ROUTES,
    ) -> None:
        if on_leave not in ("finish", "cancel"):
            raise ValueError(f"on_leave is 'finish' or 'cancel', got {on_leave!r}")
        if system not in ("anywhere", "first"):
            raise ValueError(f"system is 'anywhere' or 'first', got {system!r}")
        self._owned: Engines | None = None
        self.engine: Sampler
        if isinstance(engines, str | list | tuple):
            self._owned = Engines(engines, model=model, api_key=api_key, level=level, tokens=tokens)
            self.engine = self._owned
        else:
            self.engine = cast(Sampler, engines)
        self._kept_at = journal
        self._journal: Journal | None = None
        self._host = host
        self._port = port
        self._tls = {"ssl_certfile": ssl_certfile, "ssl_keyfile": ssl_keyfile}
        self._limits = limits or GatewayLimits()
        self._prices = prices
        self._on_leave = on_leave
        self._puts_system_first = system == "first"
        self._shared = Shared()
        self._sessions: dict[str, ModelSession] = {}
        self._opening = 0
        self._by_digest: dict[str, ModelSession] = {}
        self._resources = contextlib.AsyncExitStack()
        self._also_at: dict[str, str] = {}
        self._asking = asyncio.Lock()
        self.is_open = False
        self.running = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._counts: Counter[str] = Counter()
        self.url = ""
        verbs = Verbs(self, admin_token)
        self.app = GatewayApp(self, routes, verbs, self._limits.max_body_size)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            if self._owned is not None:
                stack.push_async_callback(self._owned.aclose)
                await self._owned.open()
            if isinstance(self._kept_at, Journal):
                self._journal = self._kept_at
            elif self._kept_at is not None:
                self._journal = Journal.open(os.fspath(self._kept_at))
                stack.push_async_callback(self._journal.aclose)
            self._recover()  # before any of their keys can be shown
            self._resources = stack
            self._also_at.clear()
            self.is_open = True
            stack.callback(self._close)
            self.url = await self._listen(self._host, self._port, self._tls)
            for session in self._sessions.values():
                session.url = self.url
            self._resources = stack.pop_all()
        if self._limits.session_ttl is not None:
            self._sweep()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cut the calls that run and listen no more. Idempotent.

        Sessions of a journal stay open in it: they go on where it is opened again.
        """
        self._close()
        ending, self._ending = self._ending, None
        try:
            if ending is not None:
                await asyncio.wait([ending])
            await self._cut_all()  # what runs is told, then the sockets close
            for session in self._sessions.values():
                _abort_later(session)
        finally:
            await self._resources.aclose()

    def _close(self) -> None:
        """Take no more calls."""
        self.is_open = False
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def drain(self, seconds: float) -> None:
        """Take no more calls, and wait for those that run.

        Args:
            seconds: at most.
        """
        self._close()
        tasks = [
            each.task
            for session in self._sessions.values()
            for each in session.running.values()
            if each.task is not None
        ]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

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
            CallRefused: a budget of cost has no prices.
            JournalFailed: it cannot be written to the journal.
        """
        if not self.is_open:
            raise _closed()
        if len(self._sessions) + self._opening >= self._limits.max_sessions:
            raise ServerBusy(
                f"{self._limits.max_sessions} sessions are open, which is the most"
                " (GatewayLimits.max_sessions): end some"
            )
        budget, prices = budget or Budget(), prices or self._prices
        if budget.cost is not None and prices is None:
            raise CallRefused("a budget of cost needs prices=Prices(prompt=…, completion=…)")
        key = new_key()
        facts = SessionFacts(
            id=secrets.token_hex(8),
            key_digest=key_digest(key),
            opened_at=time.time(),
            settings={
                "budget": msgspec.to_builtins(budget),
                "prices": msgspec.to_builtins(prices),
            },
        )
        if self._journal is None:
            session = self._session(facts, key, Histories(self._shared), {})
        else:
            self._opening += 1
            try:
                kept = await self._journal.opened(facts)
            finally:
                self._opening -= 1
            session = self._session(facts, key, kept.histories, kept.calls)
        self._counts["sessions"] += 1
        return session

    def _session(
        self,
        facts: SessionFacts,
        key: str,
        histories: Histories,
        calls: dict[int, PackedCall],
    ) -> ModelSession:
        settings = msgspec.convert(facts.settings, _Settings)
        session = ModelSession(
            facts.id,
            key,
            self.url,
            digest=facts.key_digest,
            limits=self._limits,
            budget=settings.budget,
            prices=settings.prices,
            opened_at=facts.opened_at,
            histories=histories,
            calls=calls,
        )
        self._sessions[session.id] = session
        self._by_digest[session.digest] = session
        return session

    def _recover(self) -> None:
        """Take over the sessions that the journal has from before."""
        if self._journal is None:
            return
        for kept in self._journal.recovered.values():
            self._session(kept.facts, "", kept.histories, kept.calls)

    async def close_session(self, session: ModelSession) -> None:
        """Let a session take no more calls, and cut those that run. Idempotent.

        It is ended by ``end``, and until then its records are here and in the journal. In a gateway
        that is started again meanwhile its key is good once more.
        """
        self._by_digest.pop(session.digest, None)
        session.is_open = False
        await self._cut([session])
        _abort_later(session)

    async def end(self, session: ModelSession | str) -> None:
        """End a session: its key opens nothing more, and calls that run are cut. Idempotent.

        Its records and rows can still be read from the object.

        Raises:
            SessionNotFound: no session has this id.
            JournalFailed: its end cannot be written to the journal; end it again.
        """
        found = session if isinstance(session, ModelSession) else self.session(session)
        await self.close_session(found)
        if self._journal is not None:
            await self._journal.ended(found.id)
        if self._sessions.pop(found.id, None) is not None:
            found.clear()
            forget = getattr(self.engine, "forget", None)
            if forget is not None:
                forget(found.id)

    def session(self, id: str) -> ModelSession:
        """Return an open session.

        Raises:
            SessionNotFound: no session has this id.
        """
        try:
            return self._sessions[id]
        except KeyError:
            raise SessionNotFound(f"the gateway has no session {id[:80]!r}") from None

    def sessions(self) -> list[ModelSession]:
        """Return the open sessions."""
        return list(self._sessions.values())

    async def _cut_all(self) -> None:
        await self._cut(self.sessions())
        for session in self.sessions():
            session.is_open = False

    async def _cut(self, sessions: Sequence[ModelSession]) -> None:
        """End the samples of sessions that run; one that does not end is failed without its end."""
        running = [each for session in sessions for each in session.running.values()]
        until = asyncio.get_running_loop().time() + _ENDING
        while waiting := [each.task for each in running if each.task and not each.task.done()]:
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            for each in running:
                each.cancel()
            await asyncio.wait(waiting, timeout=min(left, _CANCEL_AGAIN))
        for each in running:
            if each.task and not each.task.done() and not each.is_done and not each.is_settling:
                error = ResponderFailed(
                    f"{type(self.engine).__name__} did not end call {each.record.call_id} within"
                    f" {_ENDING:g} s of its being cancelled: its sample() has to let"
                    " asyncio.CancelledError through"
                )
                log.error("%s", error.message)
                self._fail(each, error)

    def _sweep(self) -> None:
        """End the sessions that nobody used for too long, now and again later."""
        ttl = self._limits.session_ttl
        assert ttl is not None
        oldest = time.monotonic() - ttl
        idle = [each for each in self._sessions.values() if _is_idle(each, oldest)]
        if idle and (self._ending is None or self._ending.done()):
            self._ending = asyncio.create_task(self._end_idle(idle, oldest))
        pause = min(ttl / 4, _LONGEST_SWEEP)
        self._sweeping = asyncio.get_running_loop().call_later(pause, self._sweep)

    async def _end_idle(self, idle: list[ModelSession], oldest: float) -> None:
        for session in idle:
            if not self.is_open or not _is_idle(session, oldest):
                continue  # it was used while others ended
            try:
                await self.end(session)
            except JournalFailed as exc:
                log.warning("session %s cannot be ended: %s", session.id, exc.message)

    # -- the model ----------------------------------------------------------------------------

    def publish(self, version: str | int) -> None:
        """Name the version of the weights that tokens are sampled under from now on.

        Raises:
            OperationUnsupported: what samples has no versions.
        """
        publish = getattr(self.engine, "publish", None)
        if publish is None:
            raise OperationUnsupported(
                f"{type(self.engine).__name__} has no publish(version), which names versions"
            )
        publish(version)

    @property
    def version(self) -> str | int | None:
        """The version of the weights that was published last, where what samples has versions."""
        return getattr(self.engine, "version", None)

    def models(self) -> list[str]:
        """Return the name of the model; agents may ask for it by any other as well."""
        return [getattr(self.engine, "model", None) or "model"]

    async def count_tokens(self, call: Call) -> int:
        """Return the tokens of a prompt as the engine counts them.

        Raises:
            CallRefused: the engine does not count tokens.
            ResponderFailed: it failed to.
        """
        count = getattr(self.engine, "count_tokens", None)
        if count is None:
            raise CallRefused("the engine of this gateway does not count tokens")
        if self._puts_system_first:
            put_system_first(call)
        counted: int = await count(call)
        return counted

    @property
    def level(self) -> Level | None:
        """The level of knowledge that engines are held to; ``None`` for a sampler without."""
        return None if self._owned is None else self._owned.level

    @property
    def journal_path(self) -> str | None:
        """The folder of the journal, if there is one."""
        return None if self._journal is None else str(self._journal.path)

    def stats(self) -> dict[str, Any]:
        """Return what the gateway does now, and did, as plain values."""
        facts = getattr(self.engine, "facts", None)
        return {
            "sessions": len(self._sessions),
            "running": self.running,
            "counts": dict(sorted(self._counts.items())),
            "engines": [] if facts is None else facts(),
            "journal": None if self._journal is None else {"size": self._journal.size},
        }

    # -- listening ----------------------------------------------------------------------------

    async def listen(self, host: str, port: int = 0) -> str:
        """Listen at one more address until the gateway is closed, and return its URL.

        Every path asks for a session's key or the admin's token, so that an address may be one
        that others reach, such as the bridge of containers.

        Raises:
            GoingAway: the gateway is closed.
            OSError: the address cannot be had.
        """
        if not self.is_open:
            raise _closed()
        return await self._listen(host, port, {})

    async def reachable_at(self, host: str) -> str:
        """Return its URL at an address of this machine, where it listens from the first asking on.

        Raises:
            OSError: the address cannot be had.
        """
        async with self._asking:
            if host not in self._also_at:
                self._also_at[host] = await self.listen(host)
            return self._also_at[host]

    async def _listen(self, host: str, port: int, tls: Mapping[str, Any]) -> str:
        config = uvicorn_config(
            self.app,
            EngineOptions(),
            timeout_keep_alive=_KEEP_ALIVE,
            lifespan="off",
            proxy_headers=False,  # nothing asks for the address of a client
            **tls,
        )
        listener = listen(host, port)
        await self._resources.enter_async_context(running(Server(config), listener))
        return address(host, listener, config.is_ssl)

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
        """Let one more request of a session in; its ``release`` follows at the end.

        Raises:
            OpenEnvError: the session or its limits do not allow it.
        """
        if not self.is_open:
            raise _going_away()
        session.admit(time.monotonic())

    def answer(self, session: ModelSession, call: Call) -> Generation:
        """Return the sample that answers a call: a new one, one that runs, or a kept one.

        Raises:
            OpenEnvError: it cannot be had.
        """
        if not self.is_open:  # it was closed while the request was read
            raise _going_away()
        if self._puts_system_first:
            put_system_first(call)
        generation = session.take(call)
        if generation.is_done:
            self._counts["replays"] += 1
        elif generation.task is not None:
            self._counts["joins"] += 1
        else:
            self._counts["samples"] += 1
            generation.ends_alone = self._on_leave == "cancel"
            task = asyncio.get_running_loop().create_task(self._sample(generation))
            generation.task = task
            self.running += 1
            task.add_done_callback(lambda _: self._cancelled(generation))
        return generation

    def leaving(self, generation: Generation) -> int:
        """Note that the end of an answer leaves now: its client may have it whole from then on.

        Returns:
            The place of this delivery among those of the sample.

        Raises:
            JournalFailed: it cannot be noted: the end must not leave.
        """
        sample = generation.sample
        place = len(sample.deliveries)
        if self._journal is not None:
            self._journal.leaving(generation.session.id, sample.number)
        if len(sample.deliveries) == place:  # the journal has no list of them, or another one
            sample.deliveries.append("whole")
        return place

    def delivered(self, generation: Generation, delivery: Delivery, place: int | None) -> None:
        """Note how an answer reached its client.

        Args:
            generation: what it was made of.
            delivery: how it ended.
            place: of this delivery, if the end of the answer left.
        """
        session, sample = generation.session, generation.sample
        sample.connected -= 1
        self._counts[delivery] += 1
        if place is not None:
            if delivery != "whole":
                self.unread(session.id, sample, place)
            return
        before = len(sample.deliveries)
        if self._journal is not None:
            self._journal.delivered(session.id, sample.number, delivery)
        if len(sample.deliveries) == before:
            sample.deliveries.append(delivery)

    def unread(self, session: str, sample: Sample, place: int) -> None:
        """Note that a delivery of a sample, which seemed whole, was not."""
        sample.deliveries[place] = "broken"
        if self._journal is not None:
            self._journal.unread(session, sample.number, place)

    def _cancelled(self, generation: Generation) -> None:
        """Make an end of a sample whose task was cancelled before its first step."""
        if not generation.is_done:
            self._fail(generation, self._cut_error(generation))

    def _cut_error(self, generation: Generation) -> OpenEnvError:
        session = generation.session
        if not session.is_open:
            return SessionClosed(f"session {session.id} has ended: open another one")
        if not self.is_open:
            return _going_away()
        return OperationCancelled("the client left, and on_leave='cancel' ends its call")

    async def _sample(self, generation: Generation) -> None:
        """Ask the engine until there is an answer, or an error for good; the generation's task."""
        record, session = generation.record, generation.session
        begun = time.perf_counter()
        left = session.seconds_left
        limit = self._limits.call_timeout if left is None else min(self._limits.call_timeout, left)
        error: OpenEnvError
        try:
            async with asyncio.timeout(limit) as timer:
                answer = generation.sampled or await self._asked(generation)
            if generation.is_done:
                return  # it was failed, since it went on although it was cancelled
            record.seconds = time.perf_counter() - begun
            record.answer = answer
            generation.is_settling = True  # it is not cancelled any more: it may be on the disk
            packed = session.pack(generation)
            if self._journal is not None:
                await self._journal.answered(record, packed)
        except JournalFailed as exc:
            error = exc
            if exc.retryable and (sampled := record.answer) is not None:
                session.hold(generation, sampled)
        except asyncio.CancelledError:
            error = self._cut_error(generation)
        except TimeoutError as exc:
            if isinstance(exc, OpenEnvError):
                error = exc
            elif not timer.expired():
                error = _raised_by_sampler(exc)
            elif limit == left:
                error = session.out_of_time()
            else:
                error = DeadlineExceeded(
                    f"the engine took more than {limit:g} s (GatewayLimits.call_timeout)"
                )
        except OpenEnvError as exc:
            error = exc
        except Exception as exc:  # of a sampler of the user's
            error = _raised_by_sampler(exc)
        else:
            session.settle(generation, packed)
            self.running -= 1
            record_model_call(record, current.get())
            generation.finish(answer)
            return
        if generation.is_done:
            return
        record.seconds = time.perf_counter() - begun
        packed = self._fail(generation, error)
        record_model_call(record, current.get())
        if self._journal is not None and session.is_open:
            with contextlib.suppress(JournalFailed):  # it has no answer that could be lost
                await self._journal.answered(record, packed)

    def _fail(self, generation: Generation, error: OpenEnvError) -> PackedCall:
        """Keep a sample that failed for good and tell its readers; return what is kept."""
        record, session = generation.record, generation.session
        record.answer = None
        record.error = (error.code, error.message)
        record.is_refused = error.detail.get("status") in _REFUSALS
        packed = session.pack(generation)
        session.settle(generation, packed)
        self.running -= 1
        self._counts["failures"] += 1
        generation.fail(error)
        return packed

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
        parts = self.engine.sample(generation.call, session=generation.session.id, attempt=attempt)
        answer = None
        async for part in parts:  # to its end, so that it gives back what it holds
            if isinstance(part, Answer):
                answer = part
            elif generation.error is not None:
                raise generation.error
            else:
                generation.add(part)
        if answer is None:
            raise ResponderFailed("the engine's client ended without an answer")
        return answer


def _raised_by_sampler(exc: Exception) -> ResponderFailed:
    log.error("a sampler raised", exc_info=exc)
    return ResponderFailed(f"the engine's client raised {type(exc).__name__}")


def _is_idle(session: ModelSession, oldest: float) -> bool:
    """Tell whether nobody has used a session since a monotonic time."""
    return session.used_at < oldest and not session.running and not session.requests


def _abort_later(session: ModelSession) -> None:
    """Give clients of a session that has ended a little time, then end their connections."""

    def abort() -> None:
        for connection in tuple(session.connections):
            connection.abort()

    if session.connections:
        asyncio.get_running_loop().call_later(_LAST_BYTES, abort)


def _closed() -> GoingAway:
    return GoingAway("the gateway is closed: open it with `async with`")


def _going_away() -> GoingAway:
    return GoingAway("the gateway is shutting down: ask again when it is back")
