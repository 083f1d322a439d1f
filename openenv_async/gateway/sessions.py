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
import math
import secrets
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Final

import msgspec

from openenv_async.errors import (
    BudgetExhausted,
    CallRefused,
    OpenEnvError,
    ServerBusy,
    SessionClosed,
)
from openenv_async.gateway.calls import Answer, Call, CallRecord, Piece
from openenv_async.gateway.histories import Histories, History, PackedCall, SharedMessage
from openenv_async.gateway.retries import (
    Again,
    Join,
    New,
    Sample,
    content_digest,
    decide,
    limit_of,
)
from openenv_async.gateway.rows import REWARDED, TrainingRow, training_rows
from openenv_async.server.uvicorn_protocols import HTTPConnection

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


class Budget(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
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


class Prices(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Prices of a million tokens, in any currency.

    Attributes:
        prompt: tokens of the prompt that were not in the engine's cache.
        completion: tokens of the answer.
        cached: tokens of the prompt that were; ``None``: as ``prompt``.
    """

    prompt: float
    completion: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"a price of {name} tokens is a number from 0 on, got {value!r}")

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
        max_concurrent: calls of one session at once, from the head of a request until its answer
            is out; also of those that run on after their client has left.
        max_calls_per_minute: of one session; ``None``: any number.
        max_records: calls that one session may make in all.
        session_ttl: seconds after which a session without a call is ended; ``None``: never.
        body_timeout: seconds in which a request has to come whole.
        call_timeout: seconds that one call may take, all attempts together.
        max_attempts: how often an engine is asked before a call fails.
    """

    max_sessions: int = 65_536
    max_body_size: int = 32 * 2**20
    max_concurrent: int = 64
    max_calls_per_minute: int | None = None
    max_records: int = 100_000
    session_ttl: float | None = 24 * 3600.0
    body_timeout: float = 120.0
    call_timeout: float = 3600.0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("session_ttl", "body_timeout", "call_timeout", "max_attempts"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, got {value!r}")


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
        place: of this delivery among those of the sample, once the end of the answer leaves.
    """

    __slots__ = ("_at", "_generation", "_waiter", "is_gone", "place", "wants_pieces")

    def __init__(self, generation: Generation, wants_pieces: bool) -> None:
        self._generation = generation
        self._at = 0
        self._waiter: asyncio.Future[None] | None = None
        self.wants_pieces = wants_pieces
        self.is_gone = False
        self.place: int | None = None
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
        sample: what tells retries of it.
        history, tools: of the call, as the session holds them.

    Attributes:
        pieces: those that have come.
        answer: once it is whole and in the journal.
        error: once it failed for good.
        readers: HTTP answers that are made of it now.
        is_passed_on: a client was given pieces, which cannot be taken back.
        is_settling: its answer is whole and on its way to the journal.
        sampled: its answer as an earlier attempt sampled it, when the journal could not be written.
        ends_alone: end it when the last reader has left.
        task: the one that asks the engine.
    """

    __slots__ = (
        "answer",
        "call",
        "ends_alone",
        "error",
        "history",
        "is_passed_on",
        "is_settling",
        "pieces",
        "readers",
        "record",
        "sample",
        "sampled",
        "session",
        "task",
        "tools",
    )

    def __init__(
        self,
        session: ModelSession,
        call: Call,
        record: CallRecord,
        sample: Sample,
        history: History,
        tools: SharedMessage,
    ) -> None:
        self.session = session
        self.call = call
        self.record = record
        self.sample = sample
        self.history = history
        self.tools = tools
        self.pieces: list[Piece] = []
        self.answer: Answer | None = None
        self.error: OpenEnvError | None = None
        self.readers: list[Reader] = []
        self.is_passed_on = False
        self.is_settling = False
        self.sampled: Answer | None = None
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
        if self.ends_alone and not self.is_done:
            self.cancel()

    def cancel(self) -> None:
        """End it without an answer, unless the answer is whole and on its way to the journal."""
        if self.task is not None and not self.is_settling:
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
        url: address of the gateway.
        budget: the most that it may spend.
        prices: of its tokens, if it has any.
        spent: what it spent.
        opened_at: Unix time in seconds.
        used_at: monotonic time in seconds at which its last request began or ended.
        is_open: its key opens it.
        requests: of its key that are being read or answered.
        connections: those over which they came.
        running: samples by number that have no answer yet.
    """

    def __init__(
        self,
        id: str,
        key: str,
        url: str,
        *,
        digest: str,
        limits: GatewayLimits,
        budget: Budget,
        prices: Prices | None = None,
        opened_at: float,
        histories: Histories | None = None,
        calls: dict[int, PackedCall] | None = None,
    ) -> None:
        self.id = id
        self.key = key
        self.digest = digest
        self.url = url
        self.limits = limits
        self.budget = budget
        self.prices = prices
        self.spent = Spent()
        self.opened_at = opened_at
        self.used_at = time.monotonic()
        self.is_open = True
        self.requests = 0
        self.connections: set[HTTPConnection] = set()
        self.running: dict[int, Generation] = {}
        self._histories = Histories() if histories is None else histories
        self._calls: dict[int, PackedCall] = {} if calls is None else calls
        self._samples: dict[bytes, list[Sample]] = {}
        self._unkept: dict[int, Answer] = {}
        self._count = 0
        self._begun: deque[float] = deque()
        for number in sorted(self._calls):
            self._recover(self._calls[number])

    def __repr__(self) -> str:
        state = "open" if self.is_open else "ended"
        return f"<ModelSession {self.id} {state}, {self._count} calls>"

    @property
    def openai_base_url(self) -> str:
        """Base URL for clients of OpenAI's APIs; it ends in ``/v1``."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """Base URL for clients of Anthropic's API."""
        return self.url

    @property
    def records(self) -> list[CallRecord]:
        """The calls that have an answer or failed for good, in the order in which they came."""
        unpack = self._histories.unpack
        return [unpack(self._calls[number]) for number in sorted(self._calls)]

    def rows(
        self,
        *,
        reward: float | None = None,
        group: str | int | None = None,
        member: int | None = None,
        rewarded: Collection[str] = REWARDED,
    ) -> list[TrainingRow]:
        """Return the training rows of what was sampled.

        Args:
            reward: of the episode; ``None`` if it failed or gave none.
            group, member: which group of episodes it is compared with, and which of them it is.
            rewarded: relations whose rows have the reward.
        """
        return training_rows(
            self.records, reward=reward, group=group, member=member, rewarded=rewarded
        )

    def admit(self, now: float) -> None:
        """Let one more request in; ``release`` follows at its end.

        Args:
            now: monotonic time in seconds.

        Raises:
            SessionClosed: it has ended.
            ServerBusy: it makes too many at once or too often; ``detail`` has ``retry_after``.
        """
        if not self.is_open:
            raise self._closed()
        self.used_at = now
        limits = self.limits
        if self.requests >= limits.max_concurrent:
            raise self._busy()
        most = limits.max_calls_per_minute
        if most is not None:
            begun = self._begun
            while begun and begun[0] <= now - 60.0:
                begun.popleft()
            if len(begun) >= most:
                raise ServerBusy(
                    f"session {self.id} made {most} calls within a minute, which is the most"
                    " (GatewayLimits.max_calls_per_minute)",
                    retry_after=begun[0] + 60.0 - now if begun else 60.0,
                )
            begun.append(now)
        self.requests += 1

    def release(self) -> None:
        """Note the end of a request that was let in."""
        self.requests -= 1
        self.used_at = time.monotonic()

    def _busy(self) -> ServerBusy:
        return ServerBusy(
            f"session {self.id} has {self.limits.max_concurrent} calls running, which is the most"
            " (GatewayLimits.max_concurrent): wait for one to end",
            retry_after=1.0,
        )

    def _closed(self) -> SessionClosed:
        return SessionClosed(f"session {self.id} has ended: open another one")

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
        if self._count >= self.limits.max_records:
            raise CallRefused(
                f"session {self.id} made {self.limits.max_records} calls, which is the most"
                " (GatewayLimits.max_records): open another one"
            )

    @property
    def exhausted(self) -> str | None:
        """Return what of its budget is spent, in words; ``None`` while it may make more calls."""
        try:
            self.check_budget()
        except BudgetExhausted as exc:
            return exc.message
        except CallRefused:
            pass
        return None

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

    # -- samples ------------------------------------------------------------------------------

    def take(self, call: Call) -> Generation:
        """Return the sample that answers a call: a new one, one that runs, or a kept one.

        Of one that has no task yet the caller has to start it.

        Raises:
            SessionClosed: the session ended while the request was read.
            BudgetExhausted, CallRefused, ServerBusy: a new one is not allowed.
        """
        if not self.is_open:
            raise self._closed()
        history = self._histories.read(call.messages)
        tools = self._histories.tools(call.tools)
        digest = content_digest(history.digest, tools.digest, call.tool_choice, call.sampling)
        samples = self._samples.get(digest)
        decision = decide(call, digest, samples) if samples else New()
        if isinstance(decision, New | Again) and len(self.running) >= self.limits.max_concurrent:
            raise self._busy()
        if isinstance(decision, New):
            self.check_budget()
            number = self._count
            self._count += 1
            sample = Sample(
                number=number,
                digest=digest,
                thread=call.thread,
                max_tokens=limit_of(call),
                ambiguous=decision.ambiguous,
            )
            if samples is None:
                self._samples[digest] = [sample]
            else:
                samples.append(sample)
            return self._begin(call, sample, history, tools)
        assert samples is not None  # a retry is one of them
        [sample] = [each for each in samples if each.number == decision.number]
        if isinstance(decision, Again):
            self.check_budget()
            return self._begin(call, sample, history, tools)
        sample.connected += 1
        if isinstance(decision, Join):
            return self.running[sample.number]
        record = self._histories.unpack(self._calls[sample.number])
        generation = Generation(self, call, record, sample, history, tools)
        generation.answer = record.answer
        return generation

    def _begin(
        self,
        call: Call,
        sample: Sample,
        history: History,
        tools: SharedMessage,
    ) -> Generation:
        record = CallRecord(
            session=self.id,
            number=sample.number,
            dialect=call.dialect,
            messages=call.messages,
            tools=call.tools,
            tool_choice=call.tool_choice,
            sampling=call.sampling,
            is_streamed=call.is_streamed,
            asked_model=call.asked_model,
            left_out=call.left_out,
            thread=call.thread,
            deliveries=sample.deliveries,
            ambiguous=sample.ambiguous,
            started_at=time.time(),
        )
        sample.state, sample.connected = "running", 1
        sample.max_tokens = limit_of(call)
        self.spent.calls += 1
        generation = Generation(self, call, record, sample, history, tools)
        generation.sampled = self._unkept.pop(sample.number, None)
        self.running[sample.number] = generation
        return generation

    def hold(self, generation: Generation, answer: Answer) -> None:
        """Hold an answer that the journal did not take, for a retry: a few, the last ones."""
        self._unkept[generation.sample.number] = answer
        if len(self._unkept) > self.limits.max_concurrent:
            del self._unkept[next(iter(self._unkept))]

    def pack(self, generation: Generation) -> PackedCall:
        """Return the record of a sample that has ended, as it is kept."""
        return self._histories.pack(generation.record, generation.history, generation.tools)

    def settle(self, generation: Generation, packed: PackedCall) -> None:
        """Keep a sample that has ended; what was spent on its answer is counted."""
        sample, answer = generation.sample, generation.record.answer
        self._calls[sample.number] = packed
        sample.deliveries = packed.deliveries
        sample.state = "failed" if answer is None else "answered"
        del self.running[sample.number]
        if answer is None:
            self.spent.calls -= 1
        else:
            self._count_answer(answer)

    def _count_answer(self, answer: Answer) -> None:
        spent = self.spent
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            spent.uncounted += 1
        spent.tokens += (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
        if self.prices is not None:
            spent.cost += self.prices.cost(answer)

    def _recover(self, packed: PackedCall) -> None:
        """Take over a call from before the gateway was started again."""
        record = self._histories.unpack(packed)
        history, tools = packed.history, packed.tools
        digest = content_digest(history.digest, tools.digest, record.tool_choice, record.sampling)
        sample = Sample(
            number=packed.number,
            digest=digest,
            thread=record.thread,
            max_tokens=limit_of(record),
            state="failed" if record.answer is None else "answered",
            connected=0,
            deliveries=packed.deliveries,
            ambiguous=record.ambiguous,
        )
        self._samples.setdefault(digest, []).append(sample)
        self._count = packed.number + 1
        if record.answer is not None:
            self.spent.calls += 1
            self._count_answer(record.answer)

    def clear(self) -> None:
        """Forget what tells retries; the records stay."""
        self._samples.clear()
        self._unkept.clear()
        self._histories.clear()

    def summary(self) -> dict[str, Any]:
        """Return the facts of the session as plain values, without its key."""
        return {
            "id": self.id,
            "open": self.is_open,
            "opened_at": self.opened_at,
            "running": len(self.running),
            "budget": msgspec.to_builtins(self.budget),
            "spent": msgspec.to_builtins(self.spent),
            "exhausted": self.exhausted,
        }


def new_key() -> str:
    """Make the key of a session."""
    return _KEY_PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """Return what is kept of a key: it has 256 random bits, so a plain digest tells nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
