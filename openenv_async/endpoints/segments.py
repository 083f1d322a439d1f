"""Memory that a server shares with the client at the other end of a Unix socket.

Rules:

- A segment has no name (``memfd_create``): nothing is left of it when both ends are gone, however
  they went, and nobody can open it who was not given its descriptor.
- It cannot shrink or grow, and once the server has mapped it nobody can map it for writing again
  or write to its descriptor. So neither end can be killed by a page that is gone, and what the
  server has put there stays as it is.
- A mapping lives as long as anything that looks at it.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["Segment", "map_segment"]

log = logging.getLogger("openenv_async.memory")

_SEAL_FUTURE_WRITE: Final = 0x0010
"""Linux 5.1 and later; Python names it from 3.13 on."""
_FIXED_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Segment:
    """A segment, mapped for writing.

    Args:
        fd: its descriptor.
        memory: the mapping.

    Attributes:
        memory: all of it.
        size: octets.
    """

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        self._fd = fd
        self.memory = memoryview(memory)
        self.size = len(memory)

    @classmethod
    def create(cls, size: int) -> Segment | None:
        """Make a segment; ``None`` where the system has none, or ``size`` is 0.

        No memory is taken before something is written.
        """
        if size <= 0 or sys.platform != "linux":
            return None
        try:
            fd = os.memfd_create("openenv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except (OSError, AttributeError) as exc:
            log.info("no shared memory, payloads go by the socket: memfd_create: %s", exc)
            return None
        try:
            os.ftruncate(fd, size)
            memory = mmap.mmap(fd, size)
            fcntl.fcntl(
                fd,
                fcntl.F_ADD_SEALS,
                _FIXED_SIZE | _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL,
            )
        except (OSError, ValueError, OverflowError) as exc:
            os.close(fd)
            log.info("no shared memory, payloads go by the socket: %d bytes: %s", size, exc)
            return None
        return cls(fd, memory)

    def take_fd(self) -> int:
        """Return the descriptor, to be sent and closed by the caller; the mapping stays."""
        fd, self._fd = self._fd, -1
        return fd

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def map_segment(descriptors: Sequence[int], limit: int) -> mmap.mmap | None:
    """Map a segment that a server sent, for reading, and close the descriptors.

    Args:
        descriptors: that of the segment, and no other.
        limit: octets of the largest segment that is mapped; 0 for none at all.

    Returns:
        The mapping; ``None`` where the system refuses it, or it is not a sealed segment.
    """
    try:
        if not limit:
            return None
        [fd] = descriptors
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _FIXED_SIZE != _FIXED_SIZE:
            raise OSError("it is not sealed against shrinking")
        size = os.fstat(fd).st_size
        if size > limit:
            raise OSError(f"its {size:,} bytes are over Limits.max_shared_size, {limit:,}")
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    except (OSError, ValueError, OverflowError) as exc:
        log.info("payloads go by the socket, the server's shared memory is not used: %s", exc)
        return None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
