"""Memory per session: little while it is idle, returned when it is closed."""

from __future__ import annotations

import gc
import tracemalloc

from tests.behaviours.environments import LedgerAsync, client, gather, rss, served

IDLE = 1000
_CEILING = 40 * 1024


async def test_idle_sessions_are_small_and_leave_nothing() -> None:
    """Both ends are in this process, so both are counted."""
    async with served(LedgerAsync, max_sessions=2 * IDLE) as (url, engine):
        warm = [client(url) for _ in range(50)]
        await gather(c.reset() for c in warm)
        await gather(c.close() for c in warm)
        sizes = []
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            resident = rss()
            for _ in range(3):
                made = [client(url) for _ in range(IDLE)]
                await gather(c.reset() for c in made)
                held, _ = tracemalloc.get_traced_memory()
                await gather(c.close() for c in made)
                del made
                gc.collect()
                left, _ = tracemalloc.get_traced_memory()
                sizes.append((held - before, left - before))
        finally:
            tracemalloc.stop()
        assert rss() - resident < IDLE * _CEILING * 2  # what the tracer itself takes included
        assert not engine.sessions
        for held, left in sizes:
            assert held < IDLE * _CEILING
            assert left < IDLE * 2048  # tables that grew for them, of the loop's own too
        assert sizes[2][1] < sizes[1][1] + 100_000  # and it does not grow
        # What is watched for half an hour to come is let go of with the session.
        assert len(engine.deadlines._heap) < 500
