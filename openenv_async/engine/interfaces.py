"""The two sides of a session: what takes its replies, and what runs its requests.

An executor is given a ``Call``: as much of a session as running its requests takes. A session is
one itself, so that a step makes no further object; an executor imports nothing of sessions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from openenv_async.engine.requests import Codecs, RunnerReply, RunnerRequest, Unfinished
from openenv_async.engine.rows import RowReplies
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.errors import OpenEnvError
from openenv_async.protocol.frames import Frame, Reset, Step, StepColumns

__all__ = ["Call", "Executor", "ReplySink", "RowBatch", "RowExecutor"]


class ReplySink(Protocol):
    """The destination of a session's replies: one transport's side of one session."""

    codecs: Codecs

    def send(self, frame: Frame, size: int = 0) -> None:
        """Queue a frame with ``size`` bytes of payload; never blocks, never raises."""
        ...

    def ended(self, channel: int, reason: OpenEnvError) -> None:
        """Take notice that the session on ``channel`` ended without its client asking."""
        ...


class Call(Protocol):
    """The requests of one session as an executor sees them, one after the other.

    Attributes:
        id: the session's.
        runner: the environment, and what calls it.
        codecs: those of the running request.
        current: the running request.
        interrupted: ``"cancel"`` or ``"deadline"`` while the running request is being stopped.
        dead: why the session has ended; nothing waits for its calls any more.
        executor: what its requests are given to.
        slot: the executor's own note on the session.
    """

    id: str
    runner: EnvironmentRunner
    codecs: Codecs
    current: RunnerRequest | None
    interrupted: str | None
    dead: OpenEnvError | None
    executor: Executor
    slot: object | None

    def complete(self, request: RunnerRequest, reply: RunnerReply | Unfinished) -> None:
        """Hand over the reply of a request; on the loop."""
        ...

    def interruption(self, request: RunnerRequest) -> RunnerReply:
        """Return the reply of a request that stopped because it was asked to."""
        ...

    def watch(self, request: RunnerRequest) -> None:
        """Set the deadline of a request that turned out to take long."""
        ...

    def begin_stream(self, credit: int) -> None:
        """Allow a streaming step this many partial observations."""
        ...

    def emit(self, payload: bytes, whole: bool) -> bool:
        """Send a partial observation; ``False`` when the credit is used up after it."""
        ...

    def die(self, error: OpenEnvError) -> None:
        """End the session: its environment is gone."""
        ...


class Executor(Protocol):
    """A place where requests of sessions run; one per isolation.

    Attributes:
        timed: it can be late at all: a call straight from the loop cannot be watched by the loop.
        direct: steps are called straight from the loop, which the session does itself.
    """

    timed: bool
    direct: bool

    def start(self, call: Call, request: RunnerRequest) -> None:
        """Run a request; ``call.complete`` is called with the reply, on the loop."""
        ...

    def interrupt(self, call: Call) -> bool:
        """Ask the running request to stop; ``False`` if it cannot be asked."""
        ...

    def credited(self, call: Call, units: int) -> None:
        """Let a streaming step go on."""
        ...

    def abandon(self, call: Call) -> None:
        """Wait for the running request no more; the session is dead."""
        ...

    async def aclose(self) -> None:
        """Stop everything the executor owns."""
        ...


class RowBatch(Protocol):
    """Rows of one column frame whose sessions an executor runs together.

    Each of them is the running request of its session, as one that came alone: it may be
    interrupted, abandoned and answered on its own, and then is a row of the batch no more.

    Attributes:
        note: the executor's own note on the sessions; the next batch of the same ones has it too.
    """

    note: Any

    @property
    def calls(self) -> Sequence[Call]:
        """The session of each row."""
        ...

    @property
    def requests(self) -> Sequence[Step | Reset]:
        """The request that each row is."""
        ...

    @property
    def frame(self) -> StepColumns:
        """The whole frame that they came in."""
        ...

    @property
    def places(self) -> Sequence[int]:
        """The row of the frame that each is."""
        ...

    @property
    def count(self) -> int:
        """The rows of the frame."""
        ...

    @property
    def codecs(self) -> Codecs:
        """The codecs of the payloads."""
        ...

    def run(self, claims: Iterator[int] | None = None, most: int | None = None) -> RowReplies:
        """Run rows here and now, in any thread; never raises.

        Args:
            claims: indices into ``calls``, of which other threads may take some; all of them
                where it is not given.
            most: how many ``claims`` gives at most.

        Returns:
            The replies that ``finished`` has not returned.
        """
        ...

    def finished(self) -> list[RowReplies]:
        """Return the replies that are there while threads run other rows; on the loop."""
        ...

    def complete(self, replies: RowReplies) -> None:
        """Hand over replies to some of the rows; on the loop, in any number of parts."""
        ...

    def complete_whole(self, replies: RowReplies) -> bool:
        """Hand over replies if they are one to all rows; in any thread.

        Nothing else may use the connection meanwhile.

        Returns:
            Whether they are; if not, nothing was done.
        """
        ...


@runtime_checkable
class RowExecutor(Protocol):
    """An executor that takes the rows of a column frame together."""

    def start_rows(self, batch: RowBatch) -> None:
        """Run rows; ``batch.complete`` is called with their replies, on the loop."""
        ...
