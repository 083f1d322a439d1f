"""A process whose network has nothing but its own loopback, for programs of others.

It reaches nobody: no vendor, no registry, no server of this machine. Servers that it
needs are started in it. It ends with all its children when it is done or its time is up::

    found = run_alone("tests.agents.plays:play", agent="pi", seconds=60)
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import importlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["run_alone"]

_ROOT: Final = Path(__file__).parent.parent.parent
_UP_AND_RUNNING: Final = 0x1 | 0x40
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914


def run_alone(work: str, *, seconds: float, **arguments: Any) -> Any:
    """Return what a coroutine function returns in a process of its own.

    Args:
        work: ``module:function``; what it is given and returns is JSON.
        seconds: until everything in there is killed.
        arguments: of the function.

    Raises:
        AssertionError: it raised; the message has the end of what it wrote.
        TimeoutError: its time was up.
    """
    with tempfile.TemporaryDirectory(prefix="alone-") as folder:
        result = Path(folder, "result.json")
        log = Path(folder, "log")
        inner = [sys.executable, "-m", "tests.agents.alone", work, json.dumps(arguments)]
        with log.open("wb") as output:
            try:
                ended = subprocess.run(
                    [*_namespaces(), *inner, str(result)],
                    cwd=_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired as exc:
                raise TimeoutError(f"{work} took over {seconds} s: {_tail(log)}") from exc
        assert ended.returncode == 0, f"{work} ended with {ended.returncode}: {_tail(log)}"
        return json.loads(result.read_text())


@functools.cache
def _namespaces() -> tuple[str, ...]:
    """Return the command that makes them; a test is skipped where none can be made."""
    command = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no network namespace can be made here: {exc}")
    return tuple(command)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


def _raise_loopback() -> None:
    """Set the interface up, which is down in a new namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_FLAGS, asked))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP_AND_RUNNING))


def _main(work: str, arguments: str, result: str) -> None:
    module, _, name = work.partition(":")
    _raise_loopback()
    function = getattr(importlib.import_module(module), name)
    found = asyncio.run(function(**json.loads(arguments)))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
