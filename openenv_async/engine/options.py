"""The settings of an engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.errors import shown
from openenv_async.types import Limits, Timeouts

__all__ = ["EngineOptions"]


_COUNTS: Final = (
    *(("max_sessions", False), ("max_waiting", False), ("min_free_memory", False)),
    *(("workers", True), ("max_threads", True)),
)
"""Names of counts, and whether each may be None."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of an engine.

    Attributes:
        max_sessions: environments that may exist at once; an instance is capped at 1.
        max_waiting: sessions that may wait for capacity, first come, first served; 0 refuses
            at once.
        workers: processes that share the environments, whatever isolation they declare; by
            default those that declare ``process`` get one each, the others none.
        max_threads: threads for sync environments; by default one per session may exist.
        timeouts: deadlines for requests that bring none of their own.
        limits: sizes.
        interrupt_grace: seconds that an interrupted call has to end before it is abandoned.
        worker_silence: seconds for which a shared worker may do nothing after a call in it passed
            its deadline; then it is killed with all its sessions.
        close_grace: seconds that shutting down may take.
        min_free_memory: bytes of memory, of the machine or its cgroup, below which nothing new is
            opened; 0 never refuses.
        debug: send tracebacks of environments to clients.
    """

    max_sessions: int = 1024
    max_waiting: int = 0
    workers: int | None = None
    max_threads: int | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    interrupt_grace: float = 0.5
    worker_silence: float = 5.0
    close_grace: float = 10.0
    min_free_memory: int = 64 * 2**20
    debug: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.timeouts, Timeouts):
            raise TypeError(f"timeouts must be a Timeouts, got {shown(self.timeouts)}")
        if not isinstance(self.limits, Limits):
            raise TypeError(f"limits must be a Limits, got {shown(self.limits)}")
        for name, optional in _COUNTS:
            value: Any = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and not (optional and value is None):
                raise TypeError(f"{name} must be an integer, got {shown(value)}")
        for name in ("interrupt_grace", "worker_silence", "close_grace"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of seconds, got {shown(value)}")
        if self.max_sessions < 1:
            raise ValueError(f"max_sessions must be at least 1, got {self.max_sessions}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, got {self.max_waiting}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.max_threads is not None and self.max_threads < 1:
            raise ValueError(f"max_threads must be at least 1, got {self.max_threads}")
        if self.min_free_memory < 0:
            raise ValueError(f"min_free_memory must not be negative, got {self.min_free_memory}")
