"""A policy whose first episodes end, and whose others wait for ever; and one that closes late."""

from __future__ import annotations

import asyncio
from typing import Any

from openenv_async.rollouts import Turn
from tests.rollouts.environments import Counting

ENDING = 5
_waiting = 0


async def policy(observation: Any, turn: Turn) -> Any:
    global _waiting
    if turn.index < ENDING:
        return {"amount": 1}
    _waiting += 1
    if _waiting == 3:
        print("all others wait", flush=True)
    await asyncio.get_running_loop().create_future()


class ClosesLate(Counting):
    """Its close lasts longer than anybody waits."""

    isolation = "thread"  # type: ignore[assignment]  # a class says which it is

    def close(self) -> None:
        import time

        time.sleep(60)
