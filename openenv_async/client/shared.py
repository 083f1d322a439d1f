"""The client's side of a connection whose large payloads lie in memory that the server shares.

Rules:

- A payload is a view of the server's memory, and so is every array that is decoded from it. Its
  loan goes back when the last of them is gone, in whichever thread that happens, with the next
  message that leaves.
- The views stay what they are after the connection has ended.
- Without NumPy a payload is copied, and its loan goes back at once.
"""

from __future__ import annotations

import importlib
import mmap
import weakref
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from openenv_async.errors import ProtocolError
from openenv_async.protocol.blocks import (
    REFERENCE_MARK,
    REFERENCE_SIZE,
    has_references,
    is_reference,
    pack_loans,
    read_reference,
)
from openenv_async.protocol.codec import MsgpackCodec, WireMessage
from openenv_async.protocol.frames import Failed, Release

if TYPE_CHECKING:
    import numpy as np

    Holder = np.ndarray[Any, np.dtype[np.uint8]]

__all__ = ["SharedCodec"]

_MOST: Final = 4096
"""Loans given back by one message."""


class _Loan(weakref.ref["Holder"]):
    __slots__ = ("number",)

    number: int


class SharedCodec(MsgpackCodec):
    """Messages as MessagePack, some of whose payloads lie in a segment.

    Args:
        max_size: bytes of a message that is read.
        memory: the segment.
    """

    def __init__(self, max_size: int, memory: mmap.mmap) -> None:
        super().__init__("client", max_size)
        self._memory: mmap.mmap | bytes = memory
        self._size = len(memory)
        self._loans: dict[int, _Loan] = {}
        self._ended: deque[_Loan] = deque()  # appended to in any thread
        self._copied: list[int] = []

    @property
    def loans(self) -> int:
        """Payloads that are in use now."""
        return len(self._loans)

    def close(self) -> None:
        """Let go of the segment but for the views; no payload can be found any more."""
        self._memory, self._size = b"", 0

    def decode(self, message: WireMessage) -> Sequence[Any]:
        """Frames in order, as ``MsgpackCodec`` reads them, each with its payload."""
        frames = super().decode(message)
        if type(message) is bytes and (
            REFERENCE_MARK not in message or not has_references(message)
        ):
            return frames  # without a look at each
        for i, frame in enumerate(frames):
            payload = getattr(frame, "payload", None)
            if payload is not None and len(payload) == REFERENCE_SIZE and is_reference(payload):
                try:
                    frame.payload = self._view(payload)
                except ProtocolError as exc:
                    frames[i] = _unreadable(frame, exc)  # type: ignore[index]  # it is a list
        return frames

    def resolve(self, frame: Any) -> None:
        """Give a frame that was decoded elsewhere its payload.

        Raises:
            ProtocolError: it points to no payload.
        """
        if len(frame.payload) == REFERENCE_SIZE:
            payload = bytes(frame.payload)
            if is_reference(payload):
                frame.payload = self._view(payload)

    def _view(self, reference: bytes) -> bytes | memoryview:
        number, offset, length = read_reference(reference, self._size)
        if number in self._loans:
            raise ProtocolError(f"loan {number} of shared memory came twice")
        np = _numpy()
        if np is None:
            self._copied.append(number)
            return self._memory[offset : offset + length]
        # Arrays that are decoded from a view of this one keep it, and nothing else does.
        holder: Holder = np.ndarray(length, "u1", self._memory, offset)
        loan = _Loan(holder, self._ended.append)
        loan.number = number
        self._loans[number] = loan
        return holder.data

    @property
    def has_returns(self) -> bool:
        """True if there are loans to be given back."""
        return bool(self._ended or self._copied)

    def take_release(self) -> Release:
        """The frame that gives back what is not used any more; there must be some."""
        ended, loans = self._ended, self._loans
        numbers, self._copied = self._copied, []
        while ended and len(numbers) < _MOST:
            number = ended.popleft().number
            del loans[number]
            numbers.append(number)
        return Release(pack_loans(numbers))


@cache
def _numpy() -> Any:
    """NumPy, or ``None`` where there is none."""
    try:
        return importlib.import_module("numpy")
    except ImportError:
        return None


def _unreadable(frame: Any, error: ProtocolError) -> Any:
    """The failure of the request whose reply this is.

    Raises:
        ProtocolError: it is the reply of many.
    """
    if not hasattr(frame, "channel"):
        raise error
    return Failed(frame.channel, getattr(frame, "seq", 0), error.code, error.message)
