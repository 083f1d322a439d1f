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

    async def aclose(self) -> None: ...
