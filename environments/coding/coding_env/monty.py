"""Monty, an interpreter for a part of Python, as a runner: quicker, and nothing to break out of.

It knows no ``yield``, no files and the modules that the README lists. Its own worker processes are
shared by the sessions of an event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pydantic_monty as monty

from coding_env.sandbox import Execution, Limits
from coding_env.sandbox.inside.canonical import canonical
from openenv_async.errors import EnvironmentDied, InvalidAction

__all__ = ["MontyRunner"]

_MOST_SESSIONS: Final = 4096
_VALUE: Final = 10_000


class _Pool:
    """Worker processes of one event loop: the first session starts them, the last ends them."""

    def __init__(self) -> None:
        self.monty = monty.AsyncMonty(min_processes=1, max_processes=_MOST_SESSIONS)
        self.users = 0
        self.started = asyncio.Lock()
        self.running = False


_pools: dict[asyncio.AbstractEventLoop, _Pool] = {}


class MontyRunner:
    """A runner of code in Monty. See ``runner.Runner``.

    ``Limits.memory_size`` and ``max_output_size`` count; a call's time is limited inside, and
    by the pool from outside.
    """

    def __init__(self, limits: Limits) -> None:
        self.usable = False
        self._limits = limits
        self._pool: _Pool | None = None
        self._session: monty.AsyncMontySession | None = None
        self._timeout = 0.0
        self._seed = 0

    async def start(self, seed: int = 0) -> None:
        """A fresh interpreter, its module ``random`` as after ``random.seed(seed)``."""
        self.usable = False
        self._seed = seed
        await self._leave()
        if self._pool is None:
            loop = asyncio.get_running_loop()
            self._pool = _pools.setdefault(loop, _Pool())
            self._pool.users += 1
        async with self._pool.started:
            if not self._pool.running:
                await self._pool.monty.__aenter__()
                self._pool.running = True
        await self._enter()
        self.usable = True

    async def _enter(self) -> None:
        assert self._pool is not None
        limits: monty.ResourceLimits = {"max_memory": self._limits.memory_size}
        policy: monty.OSPolicy = {
            "random_start": {"seed": self._seed},  # by default it is drawn from the system
            "sleep_system_max": math.inf,  # by default sleep() returns after 10 seconds
        }
        session = self._pool.monty.checkout(script_name="step", limits=limits, os_policy=policy)
        await session.__aenter__()
        self._session = session

    async def execute(
        self, code: str, timeout: float = 30.0, *, stdin: str | None = None
    ) -> Execution:
        """Run code.

        Raises:
            InvalidAction: there is a standard input, which Monty does not have.
        """
        if stdin is not None:
            raise InvalidAction("Monty has no standard input: use interpreter='cpython'")
        execution, value = await self._feed(code, timeout, {})
        return execution if value is None else replace(execution, value=repr(value)[:_VALUE])

    async def write(self, files: Mapping[str, str], timeout: float = 30.0) -> Execution:
        """Refuse.

        Raises:
            InvalidAction: Monty has no files.
        """
        raise InvalidAction("Monty has no files: use interpreter='cpython'")

    async def read(self, names: Sequence[str], timeout: float = 30.0) -> Execution:
        """Refuse.

        Raises:
            InvalidAction: Monty has no files.
        """
        raise InvalidAction("Monty has no files: use interpreter='cpython'")

    async def call(self, function: str, args: list[Any], timeout: float = 30.0) -> Execution:
        """Call a function."""
        names = {f"argument_{i}": value for i, value in enumerate(args)}
        execution, value = await self._feed(f"{function}({', '.join(names)})", timeout, names)
        if execution.exit_code:
            return execution
        try:
            return Execution(execution.stdout, execution.stderr, result=canonical(value))
        except (TypeError, ValueError) as exc:
            return Execution(exit_code=1, error_type=type(exc).__name__, stderr=f"{exc}\n")

    async def _feed(
        self, code: str, timeout: float, inputs: dict[str, Any]
    ) -> tuple[Execution, Any]:
        if self._session is None or not self.usable:
            raise RuntimeError("the interpreter is not started: call start() first")
        self.usable = False
        streams = monty.CollectStreams(max_bytes=self._limits.max_flood_size)
        try:
            async with asyncio.timeout(timeout):
                value = await self._session.feed_run(code, inputs=inputs, print_callback=streams)
        except TimeoutError:
            await self.start(self._seed)
            return self._result(streams, "", -1, "Timeout", restarted=True), None
        except monty.MontyCrashedError as exc:
            raise EnvironmentDied(
                f"Monty's worker died ({exc}): reset() begins a new episode"
            ) from exc
        except monty.MontyError as exc:
            self.usable = True
            text = exc.display() if hasattr(exc, "display") else str(exc)
            name = type(exc.exception()).__name__
            return self._result(streams, f"{text}\n", 1, name), None
        self.usable = True
        return self._result(streams, "", 0, ""), value

    def _result(
        self,
        streams: monty.CollectStreams,
        error: str,
        exit_code: int,
        error_type: str,
        restarted: bool = False,
    ) -> Execution:
        written = {"stdout": "", "stderr": ""}
        for stream, text in streams.output:
            written[stream] += text
        written["stderr"] += error
        stdout, stderr = (self._cut(written[name]) for name in ("stdout", "stderr"))
        return Execution(stdout, stderr, exit_code, error_type, restarted)

    def _cut(self, text: str) -> str:
        data, limit = text.encode("utf-8", "replace"), self._limits.max_output_size
        if len(data) <= limit:
            return text
        kept = data[:limit].decode("utf-8", "replace")
        return f"{kept}\n[truncated: {len(data) - limit} more bytes]\n"

    async def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.__aexit__(None, None, None)

    async def aclose(self) -> None:
        """Give the worker back; the last session ends them all."""
        self.usable = False
        try:
            await self._leave()
        finally:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.users -= 1
                if not pool.users:
                    _pools.pop(asyncio.get_running_loop(), None)
                    if pool.running:
                        await pool.monty.__aexit__(None, None, None)
