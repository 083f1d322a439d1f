"""R41 OS ceilings: what does not fit is refused by name, and what is there goes on."""

from __future__ import annotations

from openenv_async.errors import ResourceLimit
from tests.requirements.worlds import clients, gather, outcomes, served_process


async def test_too_few_file_descriptors_for_more_processes() -> None:
    """``ulimit -n 128``: a process a session soon takes them all."""
    limited = ("--max-sessions", "64")
    async with served_process("CommandedProcess", *limited, open_files=96) as (url, _):
        async with clients(url, 4) as made:
            await gather(c.reset() for c in made)
            more = [type(made[0])(url) for _ in range(24)]
            results = await outcomes(c.open() for c in more)
            refused = [r for r in results if isinstance(r, BaseException)]
            assert refused
            assert all(isinstance(error, ResourceLimit) for error in refused)
            assert all(error.retryable for error in refused if isinstance(error, ResourceLimit))
            steps = await gather(c.step({}) for c in made)
            assert [r.observation["steps"] for r in steps] == [1] * 4
            await gather(c.close() for c in more)
            await made[0].close()
            await gather(c.step({}) for c in made[1:])
