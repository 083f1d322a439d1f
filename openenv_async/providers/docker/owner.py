"""The owner of a container, written on it as labels, so that any process can tell if it lives.

Rules:

- A *run* is one process of ours. Everything it makes carries its id; what ends a run's containers
  asks for this label and touches nothing else.
- An owner is its host, its pid and the time it started. A pid alone proves nothing: it is used
  again. A host is a machine and a namespace of pids: where an owner cannot be looked up, it counts
  as alive.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["EXPIRES", "HOST", "PID", "RUN", "STARTED", "Owner", "expires_at", "this_owner"]

RUN: Final = "openenv_async.run"
HOST: Final = "openenv_async.host"
PID: Final = "openenv_async.owner.pid"
STARTED: Final = "openenv_async.owner.started"
EXPIRES: Final = "openenv_async.expires"


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that a container belongs to."""

    run: str
    host: str
    pid: int
    started: str

    def labels(self, lifetime: float) -> dict[str, str]:
        """The labels of a container made now that nobody needs after ``lifetime`` seconds."""
        return {
            RUN: self.run,
            HOST: self.host,
            PID: str(self.pid),
            STARTED: self.started,
            EXPIRES: str(int(time.time() + lifetime)),
        }

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Owner | None:
        """Return the owner of a container with these labels; ``None``: it is not one of ours."""
        pid = labels.get(PID, "")
        if RUN not in labels or not (pid.isascii() and pid.isdigit()):
            return None
        return cls(labels[RUN], labels.get(HOST, ""), int(pid), labels.get(STARTED, ""))

    def is_here(self) -> bool:
        """Return whether the owner can be looked up from here."""
        return self.host == _host()

    def is_alive(self) -> bool:
        """Return whether the owner still runs; only where ``is_here``."""
        return bool(self.started) and _started(self.pid) == self.started


def expires_at(labels: Mapping[str, str]) -> float:
    """Return when a container may be removed without its owner, in seconds since the epoch."""
    try:
        return float(labels.get(EXPIRES, "inf"))
    except ValueError:
        return float("inf")


_lock = threading.Lock()
_this: Owner | None = None


def this_owner() -> Owner:
    """This process; a forked child is an owner, and a run, of its own."""
    global _this
    with _lock:
        if _this is None or _this.pid != os.getpid():
            _this = Owner(uuid.uuid4().hex, _host(), os.getpid(), _started(os.getpid()))
        return _this


def _host() -> str:
    """This machine and this namespace of pids, as a short hash."""
    parts = [os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")]
    # Not the boot: that is part of an owner's start, and a restarted machine is the same host.
    with contextlib.suppress(OSError, ValueError):
        parts.append(Path("/etc/machine-id").read_text("ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _started(pid: int) -> str:
    """Return when a process started, as text that only it has; empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except ProcessLookupError:
        return ""
    except OSError:
        return "" if Path("/proc/self").exists() else _started_by_ps(pid)
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":  # a zombie owns nothing
        return ""
    return f"{boot[:8]}.{fields[19]}"


def _started_by_ps(pid: int) -> str:
    """The same where there is no /proc."""
    try:
        done = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=5.0
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "_".join(done.stdout.split())
