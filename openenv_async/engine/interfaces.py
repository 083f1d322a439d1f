"""What a session stands between: its client's door, and what runs its environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from openenv_async.engine.requests import Codecs, RunnerRequest
from openenv_async.errors import OpenEnvError
from openenv_async.protocol.frames import Frame

if TYPE_CHECKING:
    from openenv_async.engine.session import Session

__all__ = ["Executor", "ReplySink"]


class ReplySink(Protocol):
    """Where a session's replies go: one door's side of one session."""

    codecs: Codecs

    def send(self, frame: Frame, size: int = 0) -> None:
        """Queue a frame with ``size`` bytes of payload; never blocks, never raises."""
        ...

    def ended(self, session: Session, reason: OpenEnvError) -> None:
        """The session ended without its client asking."""
        ...


class Executor(Protocol):
    """Runs the requests of sessions somewhere; one per isolation.

    ``timed`` says whether it can be late at all: a call straight from the loop cannot be
    watched by the loop.
    """

    timed: bool

    def start(self, session: Session, request: RunnerRequest) -> None:
        """Run a request; ``session.complete`` is called with the reply, on the loop."""
        ...

    def interrupt(self, session: Session) -> bool:
        """Ask the running request to stop; ``False`` if it cannot be asked."""
        ...

    def credited(self, session: Session, units: int) -> None:
        """A streaming step may go on."""
        ...

    def abandon(self, session: Session) -> None:
        """The running request will not be waited for any more; the session is dead."""
        ...

    async def aclose(self) -> None:
        """Stop everything the executor owns."""
        ...
