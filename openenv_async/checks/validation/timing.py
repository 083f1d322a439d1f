"""Checks of time and load: deadlines, cancellation, calls that delay others, closing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from openenv_async.checks.registry import CheckFailed, Skipped, check, require
from openenv_async.checks.validation.candidate import Candidate, Session, answered, play
from openenv_async.errors import DeadlineExceeded, InvalidAction, OpenEnvError, ServerError

_BRIEF: Final = 0.001
_SLOW: Final = 0.3
"""Seconds from which a call is slow enough to tell whether it delays others."""
_SLOW_SESSION: Final = 1.0
_CALLS: Final = 6
"""Calls that are looked at: in episodes of one step, three resets and three steps."""
_MANY: Final = 12
_FEW: Final = 4


# -- deadlines and cancellation ----------------------------------------------------------------


async def _steps(candidate: Candidate, env: Session, count: int) -> AsyncIterator[Any]:
    """Yield actions to try, in episodes that are begun anew when they end."""
    rng = random.Random(17)
    await answered(env, "reset", seed=17)
    for _ in range(count):
        yield candidate.action(rng)


@check("behaviour", remedy="let CancelledError through, and do not wait where nothing can stop you")
async def deadlines_are_honoured(candidate: Candidate) -> None:
    """A step past its deadline is stopped; the session, or a new one, then works at once."""
    async with candidate.session() as env:
        cut = False
        async for action in _steps(candidate, env, 10):
            try:
                async with asyncio.timeout(candidate.timeout):
                    result = await env.step(action, timeout=_BRIEF)
            except (DeadlineExceeded, ServerError):  # or it did not even get a thread in time
                cut = True
                break
            except InvalidAction:
                continue
            except TimeoutError:
                raise CheckFailed(f"a deadline of {_BRIEF:g} s was not kept") from None
            except OpenEnvError as exc:
                raise CheckFailed(f"a step failed: {exc.message}") from exc
            if result.done:
                await answered(env, "reset", seed=17)
        if not cut:
            raise Skipped(f"every step ended within {_BRIEF:g} s: there was nothing to stop")
        await _goes_on(candidate, env, "its deadline")


@check("behaviour", remedy="let CancelledError through: clean up in finally and re-raise")
async def cancelling_is_honoured(candidate: Candidate) -> None:
    """A step whose caller cancels it is stopped; the session, or a new one, works at once."""
    if candidate.is_upstream:
        raise Skipped("upstream's dialect cannot cancel")
    async with candidate.session() as env:
        cut = False
        async for action in _steps(candidate, env, 5):
            call = asyncio.ensure_future(env.step(action))
            await asyncio.wait([call], timeout=10 * _BRIEF)
            if call.cancel():
                cut = True
                with contextlib.suppress(asyncio.CancelledError):
                    await call
                break
            failure = call.exception()
            if failure is not None and not isinstance(failure, InvalidAction):
                raise CheckFailed(f"a step: {failure}") from failure
            if failure is None and call.result().done:
                await answered(env, "reset", seed=17)
        if not cut:
            raise Skipped("every step ended before it could be cancelled")
        await _goes_on(candidate, env, "being cancelled")


async def _goes_on(candidate: Candidate, env: Session, what: str) -> None:
    """Check that the session goes on, or is over where it must be, and that a new one works."""
    session = env.session_id
    assert env.connection is not None
    isolation = env.connection.server.get("isolation")
    try:
        await env.reset(seed=18)
    except DeadlineExceeded as exc:
        raise CheckFailed(f"the step went on after {what}: {exc.message}") from exc
    except OpenEnvError:
        session = None
    # A thread or process can only be abandoned, with its session; a task can be stopped.
    if isolation == "inline" and env.session_id != session:
        raise CheckFailed(f"the step went on after {what}, and its session was lost with it")
    async with candidate.session() as other:
        async for _ in play(candidate, other, seed=18, steps=2):
            pass


@check("behaviour", remedy="await instead of blocking, or let isolation be 'thread' or 'process'")
async def slow_calls_delay_nobody(candidate: Candidate) -> None:
    """The server answers others while a call of one session takes its time."""
    import aiohttp

    from openenv_async.endpoints.addresses import is_here

    held: list[str] = []
    headers = {} if candidate.token is None else {"Authorization": f"Bearer {candidate.token}"}
    address = candidate.url.rstrip("/") + "/health"
    async with (
        aiohttp.ClientSession(headers=headers, trust_env=not is_here(address)) as http,
        candidate.session() as env,
    ):

        async def ask() -> None:
            async with http.get(address) as response:
                await response.read()

        await ask()  # the connection is there from now on
        rng = random.Random(23)
        name = "reset"
        for _ in range(_CALLS):
            arguments = () if name == "reset" else (candidate.action(rng),)
            call = asyncio.ensure_future(answered(env, name, *arguments))
            took, worst = await _beside(call, ask)
            if took >= _SLOW and worst >= 0.7 * took:
                held.append(f"{name}() took {took:.2f} s and delayed others for {worst:.2f} s")
            error = call.exception()
            if error is not None and not isinstance(error, InvalidAction):
                raise CheckFailed(str(error)) from error.__cause__
            # An episode may be over with its first step: the next one tells as much.
            name = "reset" if error is None and call.result().done and name == "step" else "step"
    require(len(held) < 2, "; ".join(held))


async def _beside(call: asyncio.Future[Any], ask: Any) -> tuple[float, float]:
    """Return how long a call took, and the longest that a request sent meanwhile waited."""
    begun = time.perf_counter()
    worst = 0.0
    while True:
        await asyncio.wait([call], timeout=0.01)
        if call.done():
            return time.perf_counter() - begun, worst
        asked = time.perf_counter()
        await ask()
        worst = max(worst, time.perf_counter() - asked)


# -- closing -----------------------------------------------------------------------------------


@check("behaviour", remedy="make close() free what there is and raise nothing, also after no reset")
async def closing_succeeds(candidate: Candidate) -> None:
    """Closing raises nothing: after steps, after a reset, and where nothing was begun."""
    for steps in (None, 0, 3):
        async with candidate.session() as env:
            if steps is not None:
                async for _ in play(candidate, env, seed=4, steps=steps):
                    pass
            try:
                await env.close_openly()
            except OpenEnvError as exc:
                raise CheckFailed(f"close() failed: {exc.message}") from exc


@check("behaviour", remedy="free in close() what the constructor and reset() took")
async def closing_releases(candidate: Candidate) -> None:
    """Sessions that are closed leave no file, thread or process behind in the server."""
    pid = candidate.pid
    if pid is None or not _can_look(pid):
        raise Skipped("only of a server that was started here, on Linux")
    begun = time.perf_counter()
    await _sessions(candidate, 1)
    slow = time.perf_counter() - begun > _SLOW_SESSION
    count = _FEW if slow else _MANY
    await _sessions(candidate, count)  # what is kept for all sessions is there from now on
    before = await _settled(pid)
    await _sessions(candidate, count)
    for _ in range(10):
        after = _held(pid)
        # A session that takes long to open is large, and its own threads come and go.
        kinds = ("files", "processes") if slow else tuple(after)
        grown = {kind: after[kind] - before[kind] for kind in kinds}
        if max(grown.values()) < count - 1:
            return
        await asyncio.sleep(0.1)
    left = ", ".join(f"{more} {kind}" for kind, more in grown.items() if more >= count - 1)
    raise CheckFailed(f"{count} sessions that were closed left {left} behind")


async def _settled(pid: int) -> dict[str, int]:
    """Count what a process holds once it has let go of what it needed to start, within a second."""
    held = _held(pid)
    for _ in range(10):
        await asyncio.sleep(0.1)
        last, held = held, _held(pid)
        if held == last:
            break
    return held


def _can_look(pid: int) -> bool:
    return Path(f"/proc/{pid}/fd").is_dir()


async def _sessions(candidate: Candidate, count: int) -> None:
    for _ in range(count):
        async with candidate.session() as env:
            async for _ in play(candidate, env, seed=6, steps=1):
                pass


def _held(pid: int) -> dict[str, int]:
    """Count file descriptors, threads and processes of a process and those below it."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                stat = Path(f"/proc/{name}/stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(name))
    family, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        family.append(one)
        waiting += parents.get(one, [])
    held = {"files": 0, "threads": 0, "processes": len(family)}
    for one in family:
        with contextlib.suppress(OSError):
            held["files"] += len(os.listdir(f"/proc/{one}/fd"))
            held["threads"] += len(os.listdir(f"/proc/{one}/task"))
    return held


# -- load --------------------------------------------------------------------------------------


@check("behaviour", remedy="instances must not fight for one port, file or lock")
async def sessions_run_at_once(candidate: Candidate) -> None:
    """Many sessions at once play whole episodes, and none of them fails."""
    opened = asyncio.Semaphore(0)
    failures: list[CheckFailed] = []
    skipped: list[str] = []

    async def one(seed: int) -> None:
        try:
            async with candidate.session() as env:
                opened.release()
                async for _ in play(candidate, env, seed=seed, steps=10, choices=seed):
                    pass
        except Skipped as exc:
            skipped.append(str(exc))
        except CheckFailed as exc:
            failures.append(exc)

    count = candidate.sessions
    await asyncio.gather(*(one(seed) for seed in range(count)))
    for first in failures[:1]:
        text = f"{len(failures)} of {count} failed at once: {first}"
        raise CheckFailed(text) from first.__cause__
    if skipped:
        raise Skipped(f"{len(skipped)} of {count}: {skipped[0]}")
