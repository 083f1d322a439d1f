"""The owner's end of the reaper: one reaper per process of ours and Engine.

Rules:

- It is started with the first container and told to go with the last provider; what ends this
  process in any other way closes the pipe, which says the same.
- Nothing here waits: lines are short, the pipe does not block, and a reaper that is gone or
  unresponsive is replaced by one that is told everything again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from openenv_async.providers.docker.address import EngineAddress
from openenv_async.providers.docker.owner import RUN, this_owner

__all__ = ["ReaperClient", "reaper_client"]

log = logging.getLogger("openenv_async.providers.docker")

_SCRIPT: Final = Path(__file__).with_name("reaper.py")
_GOODBYE: Final = 5.0
_SCHEMES: Final = ("unix", "tcp", "http", "https")


class ReaperClient:
    """A reaper and what it has to know; shared by the providers of this process."""

    def __init__(self, engine: EngineAddress) -> None:
        self.pid = os.getpid()
        self.users = 0
        self._engine = engine
        self._process: subprocess.Popen[bytes] | None = None
        self._containers: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._is_told = False

    @property
    def reaper_pid(self) -> int | None:
        """The process id of the reaper; ``None``: there is none now."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def ensure(self) -> None:
        """See to it that a reaper runs and knows every container."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._begin()

    def add(self, name: str, url: str, token: str, lease: float) -> None:
        """Renew the lease of a container, five times in its length, beginning now."""
        where = urlsplit(url)
        line: dict[str, Any] = {"add": name, "token": token, "every": lease / 5}
        line |= {"host": where.hostname, "port": where.port}
        with self._lock:
            self._containers[name] = line
            self._tell(line)

    def drop(self, name: str) -> None:
        """A container is gone."""
        with self._lock:
            if self._containers.pop(name, None) is not None:
                self._tell({"drop": name})

    async def goodbye(self) -> None:
        """End the reaper; it looks once whether anything was left."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            self._write(process, {"goodbye": True})
            assert process.stdin is not None
            process.stdin.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + _GOODBYE
        while process.poll() is None and loop.time() < until:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.02)
        if process.poll() is None:
            process.kill()
            process.wait()

    def _tell(self, line: dict[str, Any]) -> None:
        process = self._process
        if process is not None and not self._write(process, line):
            self._begin()

    def _begin(self) -> None:
        """Start a reaper; without one, the leases in the containers still end them."""
        scheme = self._engine.url.partition("://")[0]
        if scheme not in _SCHEMES:
            if not self._is_told:
                log.warning("no reaper for an Engine at %s://: leases alone end containers", scheme)
            self._is_told = True
            return
        if self._process is not None:
            self._process.kill()  # unresponsive, if not dead
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            log.warning("the reaper of the containers was gone: another one takes over")
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/" if os.name == "posix" else None,
                start_new_session=True,
            )
        except OSError as exc:
            log.warning("no reaper could be started (%s): leases alone end containers", exc)
            self._process = None
            return
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._process = process
        owner = this_owner()
        start = {
            "engine": self._engine.http_url,
            "tls": asdict(self._engine.tls) if self._engine.tls is not None else None,
            "label": f"{RUN}={owner.run}",
            "pid": owner.pid,
        }
        for line in (start, *self._containers.values()):
            self._write(process, line)

    def _write(self, process: subprocess.Popen[bytes], line: dict[str, Any]) -> bool:
        assert process.stdin is not None
        data = json.dumps(line).encode() + b"\n"
        try:
            return process.stdin.write(data) == len(data)
        except OSError:
            return False

    def abandon(self) -> None:
        """Let go, in a forked child, of the pipe that keeps the parent's reaper."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.returncode = 0  # not this process's child: nothing to wait for


_reaper_clients: dict[EngineAddress, ReaperClient] = {}


def reaper_client(engine: EngineAddress) -> ReaperClient:
    """Return this process's reaper client for an Engine; each provider counts in ``users``."""
    found = _reaper_clients.get(engine)
    if found is None or found.pid != os.getpid():
        found = _reaper_clients[engine] = ReaperClient(engine)
    return found


def _forked() -> None:
    for kept in _reaper_clients.values():
        kept.abandon()
    _reaper_clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
