"""Sync environments that promise short calls: called straight from the reader."""

from __future__ import annotations

from openenv_async.engine.requests import HostRequest
from openenv_async.engine.session import Session

__all__ = ["InlineDriver"]


class InlineDriver:
    """No task, no thread, no await. A slow call delays every session: that is the promise."""

    timed = False

    def start(self, session: Session, request: HostRequest) -> None:
        """Run it now."""
        try:
            reply = session.host.handle(request, session.wire)
        except BaseException as exc:
            reply = session.raised(request, exc)
        session.complete(request, reply)

    def leave(self, session: Session) -> None:
        """Nothing is held for a session."""

    def credited(self, session: Session, units: int) -> None:
        """Sync environments do not stream."""

    def interrupt(self, session: Session) -> bool:
        """Nothing is ever running when somebody could ask."""
        return False

    def abandon(self, session: Session) -> None:
        """Never needed."""

    async def aclose(self) -> None:
        """Nothing to stop."""
