"""What carries the messages of a connection."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Transport"]


class Transport(Protocol):
    """Carries messages. ``send`` never blocks; ``drained`` is awaited before more is sent."""

    subprotocol: str

    @property
    def congested(self) -> bool: ...

    def send(self, message: bytes, text: bool) -> None: ...

    async def drained(self) -> None: ...

    async def aclose(self, leaving: bool = True) -> None:
        """Close.

        Args:
            leaving: whether to say so, at which the server ends the sessions on it; otherwise
                they wait for their client to resume them.
        """
        ...
