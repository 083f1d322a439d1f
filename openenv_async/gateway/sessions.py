"""Sessions of the gateway: each has a key, a budget, limits, running samples and records.

Rules:

- A key opens one session and ends with it. The gateway keeps its digest alone.
- A sample is *running* from the call that begins it until its answer is in the journal, or it
  failed for good. Any number of HTTP answers read from it meanwhile.
- A budget is looked at before a sample begins: those that run together may pass it by what they
  cost. Counts that an engine does not tell are not guessed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import deque
from typing import Any, Final

import msgspec

from openenv_async.errors import BudgetExhausted, CallRefused, OpenEnvError, SessionClosed
from openenv_async.gateway.calls import Answer, Call, CallRecord, Piece

__all__ = [
    "Budget",
    "GatewayLimits",
    "Generation",
    "ModelSession",
    "Prices",
    "Reader",
    "Spent",
    "key_digest",
    "new_key",
]

_KEY_PREFIX: Final = "sk-openenv-"
_MILLION: Final = 1_000_000


class Budget(msgspec.Struct, kw_only=True, frozen=True):
    """The most that a session may spend; ``None``: without limit.

    Attributes:
        calls: samples; retries that are given a kept answer are none.
        tokens: of prompts and answers together, as the engine counts.
        cost: in the currency of the ``Prices``.
        seconds: from the opening of the session; a call that runs then is ended.
    """

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"a budget's {name} must not be negative, got {value!r}")


class Prices(msgspec.Struct, kw_only=True, frozen=True):
    """Prices of a million tokens, in any currency.

    Attributes:
        prompt: tokens of the prompt that were not in the engine's cache.
        completion: tokens of the answer.
        cached: tokens of the prompt that were; ``None``: as ``prompt``.
    """

    prompt: float
    completion: float
    cached: float | None = None

    def cost(self, answer: Answer) -> float:
        """Return the cost of an answer by the counts that its engine told."""
        cached = answer.cached_tokens or 0
        fresh = (answer.prompt_tokens or 0) - cached
        price = self.prompt if self.cached is None else self.cached
        total = fresh * self.prompt + cached * price
        return (total + (answer.completion_tokens or 0) * self.completion) / _MILLION


class GatewayLimits(msgspec.Struct, kw_only=True, frozen=True):
    """Limits of a gateway; those of a session are the same for each.

    Attributes:
        max_sessions: that may be open at once.
        max_body_size: bytes of one request.
        max_concurrent: calls of one session at once.
        max_calls_per_minute: of one session; ``None``: any number.
        max_records: calls that one session may make in all.
        session_ttl: seconds after which a session without a call is ended; ``None``: never.
        call_timeout: seconds that one call may take, all attempts together.
        max_attempts: how often an engine is asked before a call fails.
    """

    max_sessions: int = 65_536
    max_body_size: int = 32 * 2**20
    max_concurrent: int = 64
    max_calls_per_minute: int | None = None
    max_records: int = 100_000
    session_ttl: float | None = 24 * 3600.0
    call_timeout: float = 3600.0
    max_attempts: int = 3


class Spent(msgspec.Struct):
    """The expense of a session so far.

    Attributes:
        calls: samples that were begun and did not fail.
        tokens: of prompts and answers, as far as engines counted.
        cost: by the session's prices.
        uncounted: answers of which the engine told no counts.
    """

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    uncounted: int = 0


class Reader:
    """One HTTP answer that is made of a running sample.

    Args:
        generation: the sample.
        wants_pieces: whether the answer is streamed.

    Attributes:
        is_gone: the client has left.
    """

    __slots__ = ("_at", "_generation", "_waiter", "is_gone", "wants_pieces")

    def __init__(self, generation: Generation, wants_pieces: bool) -> None:
        self._generation = generation
        self._at = 0
        self._waiter: asyncio.Future[None] | None = None
        self.wants_pieces = wants_pieces
        self.is_gone = False
        generation.readers.append(self)

    def leave(self) -> None:
        """The client has left: nothing more is waited for."""
        self.is_gone = True
        self.wake()
        self.close()

    def close(self) -> None:
        """Read no more; a sample that nobody reads may be ended by that. Idempotent."""
        generation = self._generation
        if self in generation.readers:
            generation.readers.remove(self)
            if not generation.readers:
                generation.left_alone()

    def wake(self) -> None:
        """Look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def more(self) -> list[Piece]:
        """Wait for pieces and return them; none at the end, or when the client has left."""
        generation = self._generation
        while not self.is_gone:
            if self.wants_pieces and self._at < len(generation.pieces):
                pieces = generation.pieces[self._at :]
                self._at = len(generation.pieces)
                generation.is_passed_on = True
                return pieces
            if generation.is_done:
                break
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return []


class Generation:
    """A running sample: one task asks the engine for it, readers make answers of it.

    Args:
        session: the session that it is of.
        call: the request that began it.
        record: what is known of it.

    Attributes:
        pieces: those that have come.
        answer: once it is whole and in the journal.
        error: once it failed for good.
        readers: HTTP answers that are made of it now.
        is_passed_on: a client was given pieces, which cannot be taken back.
        ends_alone: end it when the last reader has left.
        task: the one that asks the engine.
    """

    __slots__ = (
        "answer",
        "call",
        "ends_alone",
        "error",
        "is_passed_on",
        "pieces",
        "readers",
        "record",
        "session",
        "task",
    )

    def __init__(self, session: ModelSession, call: Call, record: CallRecord) -> None:
        self.session = session
        self.call = call
        self.record = record
        self.pieces: list[Piece] = []
        self.answer: Answer | None = None
        self.error: OpenEnvError | None = None
        self.readers: list[Reader] = []
        self.is_passed_on = False
        self.ends_alone = False
        self.task: asyncio.Task[None] | None = None

    @property
    def is_done(self) -> bool:
        """True once there is an answer or an error."""
        return self.answer is not None or self.error is not None

    def add(self, piece: Piece) -> None:
        """Pass a piece on."""
        self.pieces.append(piece)
        for reader in self.readers:
            if reader.wants_pieces:
                reader.wake()

    def begin_again(self) -> None:
        """Forget the pieces of an attempt that failed; none was passed on."""
        self.pieces.clear()

    def finish(self, answer: Answer) -> None:
        """Let readers have the answer, which is in the journal."""
        self.answer = answer
        self._end()

    def fail(self, error: OpenEnvError) -> None:
        """Let readers have an error."""
        self.error = error
        self._end()

    def left_alone(self) -> None:
        """The last reader has left."""
        if self.ends_alone and not self.is_done and self.task is not None:
            self.task.cancel()

    def _end(self) -> None:
        for reader in self.readers:
            reader.wake()


class ModelSession:
    """A session of the gateway: an agent's access to the model, and what it sampled.

    Made by ``Gateway.open``.

    Attributes:
        id: of the session, in every record.
        key: the only key that opens it; empty in a gateway that was started again since.
        openai_base_url: for ``OPENAI_BASE_URL``; it ends in ``/v1``.
        anthropic_base_url: for ``ANTHROPIC_BASE_URL``.
        budget: the most that it may spend.
        spent: what it spent.
        opened_at: Unix time in seconds.
        is_open: its key opens it.
        running: samples by number that have no answer yet.
    """

    def __init__(
        self,
        id: str,
        key: str,
        url: str,
        *,
        limits: GatewayLimits,
        budget: Budget,
        prices: Prices | None = None,
        opened_at: float | None = None,
        digest: str | None = None,
    ) -> None:
        self.id = id
        self.key = key
        self.digest = key_digest(key) if digest is None else digest
        self.url = url
        self.limits = limits
        self.budget = budget
        self.prices = prices
        self.spent = Spent()
        self.opened_at = time.time() if opened_at is None else opened_at
        self.used_at = time.monotonic()
        self.is_open = True
        self.running: dict[int, Generation] = {}
        self._records: list[CallRecord] = []
        self._begun: deque[float] = deque()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "ended"
        return f"<ModelSession {self.id} {state}, {len(self._records)} calls>"

    @property
    def openai_base_url(self) -> str:
        """Base URL for clients of OpenAI's APIs."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """Base URL for clients of Anthropic's API."""
        return self.url

    @property
    def records(self) -> list[CallRecord]:
        """The calls that have an answer or failed for good, in the order in which they came."""
        return [each for each in self._records if each.answer is not None or each.error is not None]

    def record(self, number: int) -> CallRecord:
        """Return the record of a call."""
        return self._records[number]

    def admit(self, now: float) -> None:
        """Let one more request in.

        Args:
            now: monotonic time in seconds.

        Raises:
            SessionClosed: it has ended.
            CallRefused: it makes too many at once or too often; ``retryable``.
        """
        if not self.is_open:
            raise SessionClosed(f"session {self.id} has ended: open another one")
        self.used_at = now
        limits = self.limits
        if len(self.running) >= limits.max_concurrent:
            raise CallRefused(
                f"session {self.id} has {limits.max_concurrent} calls running, which is the most"
                " (GatewayLimits.max_concurrent): wait for one to end",
                retryable=True,
                status=429,
                retry_after=1.0,
            )
        most = limits.max_calls_per_minute
        if most is not None:
            begun = self._begun
            while begun and begun[0] <= now - 60.0:
                begun.popleft()
            if len(begun) >= most:
                raise CallRefused(
                    f"session {self.id} made {most} calls within a minute, which is the most"
                    " (GatewayLimits.max_calls_per_minute)",
                    retryable=True,
                    status=429,
                    retry_after=begun[0] + 60.0 - now if begun else 60.0,
                )
            begun.append(now)

    def check_budget(self) -> None:
        """Refuse a new sample that the budget does not allow.

        Raises:
            BudgetExhausted: names what is spent.
            CallRefused: it made as many calls as a session may.
        """
        budget, spent = self.budget, self.spent
        if budget.calls is not None and spent.calls >= budget.calls:
            raise self._exhausted(f"all its {budget.calls} calls")
        if budget.tokens is not None and spent.tokens >= budget.tokens:
            raise self._exhausted(f"{spent.tokens} of its {budget.tokens} tokens")
        if budget.cost is not None and spent.cost >= budget.cost:
            raise self._exhausted(f"{spent.cost:.6g} of its {budget.cost:.6g} in cost")
        if budget.seconds is not None and time.time() - self.opened_at >= budget.seconds:
            raise self.out_of_time()
        if spent.uncounted and (budget.tokens is not None or budget.cost is not None):
            raise self._exhausted(
                "what nobody counted: the engine told no usage, so that a budget of tokens or"
                " cost cannot be kept"
            )
        if len(self._records) >= self.limits.max_records:
            raise CallRefused(
                f"session {self.id} made {self.limits.max_records} calls, which is the most"
                " (GatewayLimits.max_records): open another one"
            )

    def out_of_time(self) -> BudgetExhausted:
        """Make the error of a session whose seconds are over."""
        return self._exhausted(f"its {self.budget.seconds:g} seconds")

    def _exhausted(self, what: str) -> BudgetExhausted:
        return BudgetExhausted(f"session {self.id} has spent {what}: it may make no more calls")

    @property
    def seconds_left(self) -> float | None:
        """Seconds until its budget ends it; ``None``: no limit."""
        if self.budget.seconds is None:
            return None
        return self.opened_at + self.budget.seconds - time.time()

    def begin(self, call: Call, ambiguous: int | None = None) -> Generation:
        """Begin a new sample.

        Raises:
            BudgetExhausted, CallRefused: as by ``check_budget``.
        """
        self.check_budget()
        record = CallRecord(
            session=self.id,
            number=len(self._records),
            dialect=call.dialect,
            messages=call.messages,
            tools=call.tools,
            tool_choice=call.tool_choice,
            sampling=call.sampling,
            is_streamed=call.is_streamed,
            asked_model=call.asked_model,
            left_out=call.left_out,
            thread=call.thread,
            ambiguous=ambiguous,
            started_at=time.time(),
        )
        self._records.append(record)
        self.spent.calls += 1
        generation = Generation(self, call, record)
        self.running[record.number] = generation
        return generation

    def count(self, answer: Answer) -> None:
        """Add an answer to what is spent."""
        spent = self.spent
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            spent.uncounted += 1
        spent.tokens += (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
        if self.prices is not None:
            spent.cost += self.prices.cost(answer)

    def summary(self) -> dict[str, Any]:
        """Return the facts of the session as plain values, without its key."""
        return {
            "id": self.id,
            "open": self.is_open,
            "opened_at": self.opened_at,
            "running": len(self.running),
            "budget": msgspec.to_builtins(self.budget),
            "spent": msgspec.to_builtins(self.spent),
        }


def new_key() -> str:
    """Make the key of a session."""
    return _KEY_PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """Return what is kept of a key: it has 256 random bits, so a plain digest tells nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
