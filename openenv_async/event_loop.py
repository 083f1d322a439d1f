"""The event loop of servers, workers, blocking clients and commands: uvloop's where there is one.

It is a dependency where it exists: not on Windows, and for CPython alone. Programs with a loop of
their own run the async clients on that, whatever it is.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = [
    "is_in_loop",
    "loop_factory",
    "loop_name",
    "new_event_loop",
    "run_apart",
    "version_of",
]

T = TypeVar("T")


def loop_factory(uvloop: bool | None = None) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of an event loop, ``None`` for asyncio's own.

    Args:
        uvloop: whether it is to be uvloop's; ``None``: where that is installed.

    Raises:
        ImportError: uvloop is wanted and not installed.
    """
    if uvloop is False or (uvloop is None and importlib.util.find_spec("uvloop") is None):
        return None
    from uvloop import new_event_loop

    return new_event_loop


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop: uvloop's where that is installed."""
    return (loop_factory() or asyncio.new_event_loop)()


def is_in_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    return asyncio._get_running_loop() is not None


def run_apart(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread and loop of its own, and wait for it.

    For calls that block, of callers in whose thread a loop may be running.
    """
    with ThreadPoolExecutor(1, "openenv-apart") as pool:
        return pool.submit(asyncio.run, coroutine).result()


def loop_name(loop: asyncio.AbstractEventLoop) -> str:
    """Return the library of a loop with its version, ``uvloop 0.22.1``, or ``asyncio``."""
    library = type(loop).__module__.partition(".")[0]
    return version_of(library) if library == "uvloop" else library


def version_of(distribution: str) -> str:
    """Return a library's name with its version; the name alone where it is not known."""
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return distribution
