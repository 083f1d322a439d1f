"""The client."""

from __future__ import annotations

from openenv_async import StepResult
from openenv_async.client.env import EnvClient
from repl_env.models import REPLAction, REPLObservation, REPLState

__all__ = ["REPLEnv"]


class REPLEnv(EnvClient[REPLAction, REPLObservation, REPLState]):
    """One session of a served REPL environment."""

    async def execute(self, code: str) -> StepResult[REPLObservation]:
        """Run code."""
        return await self.step(REPLAction(code))

    async def submit_final_answer(self, answer: str) -> StepResult[REPLObservation]:
        """End the episode with this answer."""
        return await self.step(REPLAction(is_final=True, final_answer=answer))
