"""Payloads in memory that two processes share: the blocks, and who still needs them.

A *segment* is memory that the sender writes and the receiver may only read. A large payload is put
into a *block* of it, in the form it always has, and the frame carries a *reference* in its place:
25 octets, the first of which (0xC1) begins no MessagePack object::

    u8    0xC1
    u64   the number of the loan, little-endian, as what follows
    u64   offset in the segment
    u64   length in octets

Rules:

- Each reference that is sent is a *loan* of its block, under a number of its own. The receiver
  gives the number back (``Release``) when nothing there uses the payload any more, or a view of it.
- A block is free when all its loans have come back, and the sender does not keep its payload.
- Nothing that a peer says is believed: a loan that is not out, a place outside the segment.
- When there is no room the payload travels in its frame, as ever.
- Payloads are written in any thread, and the last use of one may end in any, at any moment. So
  blocks are taken by one call of a list, or under a lock; the end of a use is noted by one call of
  a deque, and counted in the lender's own thread alone.
"""

from __future__ import annotations

import struct
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Final

from openenv_async.errors import ProtocolError

__all__ = [
    "LEAST_SHARED",
    "REFERENCE_MARK",
    "REFERENCE_SIZE",
    "SHARED_MEMORY",
    "Block",
    "BlockTable",
    "Lender",
    "has_references",
    "is_reference",
    "pack_loans",
    "read_reference",
    "unpack_loans",
]

SHARED_MEMORY: Final = "shared_memory"
"""The name of what a server grants, and of the client's word in its Hello that it has mapped it."""
LEAST_SHARED: Final = 8 * 1024
"""Octets of the smallest payload that is worth a block: copying fewer costs less than its loan."""

REFERENCE_MARK: Final = 0xC1
"""The first octet of a reference, which no MessagePack begins with."""
_REFERENCE: Final = struct.Struct("<BQQQ")
_pack: Final = _REFERENCE.pack
REFERENCE_SIZE: Final = _REFERENCE.size
_ALIGNMENT: Final = 64
"""Octets of a cache line."""
_MANY_SIZES: Final = 256
_STEPS: Final = 4
"""Significant bits of a block's size, so that payloads of about one size have the same."""


def is_reference(payload: object) -> bool:
    """Return whether a payload as it came is a reference."""
    return (
        isinstance(payload, bytes)
        and len(payload) == REFERENCE_SIZE
        and payload[0] == REFERENCE_MARK
    )


def has_references(message: bytes) -> bool:
    """Return whether any payload of a message may be a reference; false only if none is."""
    at = message.find(REFERENCE_MARK)
    while at > 0 and message[at - 1] != REFERENCE_SIZE:  # the last octet of the payload's length
        at = message.find(REFERENCE_MARK, at + 1)
    return at > 0


def read_reference(payload: bytes, size: int) -> tuple[int, int, int]:
    """Return loan, offset and length.

    Args:
        payload: a reference.
        size: octets of the segment.

    Raises:
        ProtocolError: it points outside the segment.
    """
    _, loan, offset, length = _REFERENCE.unpack(payload)
    if offset > size or length > size - offset:
        raise ProtocolError(
            f"a payload of {length:,} bytes at {offset:,} is not inside the shared memory of"
            f" {size:,} bytes"
        )
    return loan, offset, length


def pack_loans(loans: Sequence[int]) -> bytes:
    """Return numbers of loans as ``Release`` carries them: uint64, little-endian."""
    return struct.pack(f"<{len(loans)}Q", *loans)


def unpack_loans(packed: bytes) -> Sequence[int]:
    """Return the numbers of loans in a ``Release``.

    Raises:
        ProtocolError: they are not whole numbers of 8 octets.
    """
    if len(packed) % 8:
        raise ProtocolError("the loans that are given back are 8 bytes each")
    return struct.unpack(f"<{len(packed) // 8}Q", packed)


class Block:
    """A piece of the segment.

    Attributes:
        offset: where it begins, a multiple of 64.
        free: the list that it is in while nobody needs it: of all blocks of its size.
        users: how many need it still: each loan, and the sender while it keeps the payload.
    """

    __slots__ = ("free", "offset", "users")

    def __init__(self, offset: int, free: list[Block]) -> None:
        self.offset = offset
        self.free = free
        self.users = 0


def _rounded(size: int) -> int:
    step = max(_ALIGNMENT, 1 << max(0, size.bit_length() - _STEPS))
    return -(-size // step) * step


class BlockTable:
    """The blocks of one segment. One is given back by appending it to its list ``free``.

    Slots of one size are used again, the last first, whose memory is still in the cache. When
    there is none of a size, one is cut from what was never used; when that is used up, the free
    blocks of all sizes are put together again.

    Args:
        size: octets of the segment.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: dict[int, list[Block]] = {}
        self._gaps: list[tuple[int, int]] = [(0, size)] if size else []
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """Octets that are in no block which somebody needs."""
        with self._lock:
            gaps = sum(length for _, length in self._gaps)
            return gaps + sum(size * len(free) for size, free in self._free.items())

    def take(self, size: int) -> Block | None:
        """Return a block of at least ``size`` octets; ``None``: there is no room."""
        rounded = _rounded(size)
        try:
            block = self._free[rounded].pop()
        except (KeyError, IndexError):
            found = self._cut(rounded)
            if found is None:
                return None
            block = found
        return block

    def _cut(self, size: int) -> Block | None:
        with self._lock:
            offset = self._cut_gap(size)
            if offset is None and any(self._free.values()):
                self._join()
                offset = self._cut_gap(size)
            if offset is None:
                return None
            return Block(offset, self._free.setdefault(size, []))

    def _cut_gap(self, size: int) -> int | None:
        for i, (offset, length) in enumerate(self._gaps):
            if length >= size:
                if length == size:
                    del self._gaps[i]
                else:
                    self._gaps[i] = (offset + size, length - size)
                return offset
        return None

    def _join(self) -> None:
        """Make gaps of all free blocks, and one of those that lie side by side."""
        gaps = self._gaps
        for size, free in self._free.items():
            while free:
                try:
                    block = free.pop()
                except IndexError:  # another thread took it
                    break
                gaps.append((block.offset, size))
        joined: list[tuple[int, int]] = []
        for offset, length in sorted(gaps):
            if joined and sum(joined[-1]) == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((offset, length))
        self._gaps = joined


class _Kept(weakref.ref[memoryview]):
    """The sender's use of a block: it ends when the payload in it is gone here."""

    __slots__ = ("block", "key", "offset")

    key: int
    offset: int
    block: Block


class Lender:
    """The sender's end of a segment: payloads are put into it, and lent.

    It belongs to the thread that makes it; only ``place`` may be called in others.

    Args:
        memory: the segment, writable.

    Attributes:
        table: its blocks.
    """

    def __init__(self, memory: memoryview) -> None:
        self.table = BlockTable(len(memory))
        self._memory = memory
        self._thread = threading.get_ident()
        self._kept: dict[int, _Kept] = {}
        self._dropped: deque[_Kept] = deque()
        self._loans: dict[int, Block] = {}
        self._last_loan = 0
        # The list of blocks for a size, found without rounding it.
        self._recent: dict[int, list[Block]] = {}

    @property
    def loans(self) -> int:
        """Loans that are out."""
        return len(self._loans)

    def place(self, size: int, before: int = 0) -> memoryview | None:
        """Return memory for a payload, which is the sender's own as long as it keeps that object.

        Args:
            size: octets of it.
            before: octets of it that stand before those that should be aligned.

        Returns:
            The memory; ``None`` when there is no room.
        """
        if self._dropped and threading.get_ident() == self._thread:
            self._settle()
        memory = self._memory  # before its blocks: see close
        padding = -before % _ALIGNMENT
        try:
            block = self._recent[size + padding].pop()
        except (KeyError, IndexError):
            found = self.table.take(size + padding)
            if found is None:
                return None
            block = found
            if len(self._recent) > _MANY_SIZES:
                self._recent = {}
            self._recent[size + padding] = block.free
        block.users = 1
        offset = block.offset + padding
        payload = memory[offset : offset + size]
        kept = _Kept(payload, self._dropped.append)
        kept.key = key = id(payload)
        kept.offset = offset
        kept.block = block
        self._kept[key] = kept
        return payload

    def has(self, payload: bytes | memoryview) -> bool:
        """Return whether this is memory that ``place`` gave."""
        kept = self._kept.get(id(payload))
        return kept is not None and kept() is payload

    def close(self) -> None:
        """Lend nothing more, and let go of the segment but for the payloads that are kept."""
        self.table = BlockTable(0)
        self._recent = {}
        self._memory = memoryview(b"")

    def _settle(self) -> None:
        """Count the payloads that the sender keeps no more."""
        kept_all, dropped = self._kept, self._dropped
        while dropped:
            kept = dropped.popleft()
            # Another payload may have its address by now, or at any moment, in another thread.
            found = kept_all.pop(kept.key, None)
            if found is not None and found is not kept:
                kept_all.setdefault(kept.key, found)
            self._drop(kept.block)

    def _drop(self, block: Block) -> None:
        block.users -= 1
        if not block.users:
            block.free.append(block)

    def refer(self, payload: bytes | memoryview) -> bytes | None:
        """Return a reference to send in place of a payload, copied here unless it is here already.

        Returns:
            The reference; ``None`` when there is no room.
        """
        kept = self._kept.get(id(payload))
        if kept is None or kept() is not payload:
            copy = self.place(len(payload))
            if copy is None:
                return None
            copy[:] = payload
            kept = self._kept[id(copy)]
        block = kept.block
        block.users += 1
        self._last_loan = loan = self._last_loan + 1
        self._loans[loan] = block
        return _pack(REFERENCE_MARK, loan, kept.offset, len(payload))

    def give_back(self, loans: Sequence[int]) -> None:
        """Take back loans.

        Raises:
            ProtocolError: one of them is not out; those before it have been taken back.
        """
        if self._dropped:
            self._settle()
        out = self._loans
        for loan in loans:
            block = out.pop(loan, None)
            if block is None:
                raise ProtocolError(
                    f"loan {loan} of shared memory is given back, and it is not out"
                )
            block.users -= 1
            if not block.users:
                block.free.append(block)
