"""Quotas of callers: sessions at once, steps and bytes a second.

Rules:

- Steps and bytes are taken from token buckets, which may go into debt: what is asked for is taken
  at once, and waits until the bucket has made up for it. So a large message passes as well, and
  those behind it wait, first come, first served.
- A bucket is asked once for a message or request, however many steps are in it. Bytes that are sent
  are taken when they are, so the next request waits for them.
- A request that must wait does so before it is executed. If its deadline comes first it is refused
  at once, and what it took is given back; its session and episode stay as they are.
- The buckets of a caller are the same for all environments of a server.
- A caller without a name has no quotas and is not counted: its requests cost nothing here.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from openenv_async.engine.callers import Caller
from openenv_async.engine.interfaces import Call, Executor
from openenv_async.engine.requests import RunnerRequest
from openenv_async.errors import QuotaReached, Unauthorized
from openenv_async.protocol.frames import Reset, Step

if TYPE_CHECKING:
    from openenv_async.engine.session import Session

__all__ = ["LONGEST_WAIT", "Account", "Turn"]

LONGEST_WAIT: Final = 60.0
"""Seconds that a request without a deadline may wait for its turn."""
_SOON: Final = 1.0
"""Seconds after which a caller with too many sessions may ask again."""


@dataclass(slots=True)
class Account:
    """One caller's use of one environment.

    Attributes:
        caller: whose.
        sessions: there are now.
        opened: sessions that were opened.
        steps: steps and resets that were asked for; each row of a vector is one.
        bytes_in, bytes_out: of messages and HTTP bodies.
        delayed: requests that had to wait for their turn.
        refused: by the name of the quota.
    """

    caller: Caller
    sessions: int = 0
    opened: int = 0
    steps: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    delayed: int = 0
    refused: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("sessions", "steps", "bytes"), 0)
    )

    def check_open(self) -> None:
        """Let one more session be opened.

        Raises:
            QuotaReached: the caller has as many as it may.
            Unauthorized: its token is no longer valid.
        """
        caller = self.caller
        if not caller.is_valid(time.time()):
            raise Unauthorized(f"the token {caller.name!r:.80} is no longer valid: ask for another")
        limit = caller.quota.max_sessions
        if limit is not None and caller.sessions >= limit:
            self.refused["sessions"] += 1
            raise QuotaReached(
                f"the token {caller.name!r:.80} has {caller.sessions} sessions and may have"
                f" {limit}: close one, or try again later",
                quota="sessions",
                limit=limit,
                active=caller.sessions,
                depth=0,
                retry_after=_SOON,
            )

    def begin(self) -> None:
        """Count one more session."""
        self.opened += 1
        self.sessions += 1
        self.caller.sessions += 1

    def end(self) -> None:
        """Count one session less."""
        self.sessions -= 1
        self.caller.sessions -= 1

    def receive(self, size: int) -> None:
        """Take bytes that came."""
        self.bytes_in += size
        self.caller.byte_bucket.take(size, time.monotonic())

    def send(self, size: int) -> None:
        """Take bytes that were sent."""
        self.bytes_out += size
        self.caller.byte_bucket.take(size, time.monotonic())

    def charge(self, steps: int) -> float:
        """Take steps; return the seconds that they have to wait for their turn."""
        self.steps += steps
        caller, now = self.caller, time.monotonic()
        return max(caller.step_bucket.take(steps, now), caller.byte_bucket.take(0, now))

    def refuse(self, steps: int, wait: float) -> QuotaReached:
        """Give steps back that are refused; return the error."""
        caller, now = self.caller, time.monotonic()
        quota = caller.quota
        self.steps -= steps
        is_steps = caller.step_bucket.take(0, now) >= caller.byte_bucket.take(0, now)
        caller.step_bucket.give_back(steps)
        name, limit = ("steps", quota.steps_per_second)
        if not is_steps:
            name, limit = ("bytes", quota.bytes_per_second)
        self.refused[name] += 1
        return QuotaReached(
            f"the token {caller.name!r:.80} has used its {limit:g} {name} a second, and its turn"
            f" comes in {wait:.2g} s, after the deadline: it was not executed, try again then, or"
            " ask for less",
            quota=name,
            limit=limit,
            retry_after=round(wait, 3),
        )


class Turn:
    """An executor of one request that has to wait for its turn; then the real one has it.

    It stands in the place of its session's executor, as ``StepTimer`` does, so that a request that
    waits is cancelled, closed over and answered like one that runs.

    Args:
        executor: the real one.
        account: that pays.
        at: when the turn comes, by the loop's clock.
        steps: that were taken for it.
    """

    timed = True
    direct = False

    def __init__(self, executor: Executor, account: Account, at: float, steps: int) -> None:
        self._executor = executor
        self._account = account
        self._at = at
        self._steps = steps
        self._timer: asyncio.TimerHandle | None = None

    def start(self, call: Call, request: RunnerRequest) -> None:
        """Wait, or refuse what cannot wait for so long; what is neither step nor reset runs now."""
        session: Session = call  # type: ignore[assignment]  # only sessions of a server have turns
        loop = asyncio.get_running_loop()
        wait = self._at - loop.time()
        if wait <= 0 or type(request) not in (Step, Reset):
            self._run(call, request)
        elif wait > min(session.due - session.engine.clock(), LONGEST_WAIT):
            call.executor = self._executor
            error = self._account.refuse(self._steps, wait)
            call.complete(request, session.failure(request, error))
        else:
            self._account.delayed += 1
            self._timer = loop.call_at(self._at, self._run, call, request)

    def _run(self, call: Call, request: RunnerRequest) -> None:
        self._timer = None
        call.executor = self._executor
        self._executor.start(call, request)

    def interrupt(self, call: Call) -> bool:
        """Take the request back; it is answered soon."""
        request = call.current
        assert request is not None
        self._withdraw(call)
        self._account.caller.step_bucket.give_back(self._steps)
        asyncio.get_running_loop().call_soon(call.complete, request, call.interruption(request))
        return True

    def credited(self, call: Call, units: int) -> None:
        """Nothing streams before its turn."""

    def abandon(self, call: Call) -> None:
        """Wait no more."""
        self._withdraw(call)

    def _withdraw(self, call: Call) -> None:
        call.executor = self._executor
        if self._timer is not None:
            self._timer.cancel()

    async def aclose(self) -> None:
        """Nothing is owned here: sessions are closed one by one."""
