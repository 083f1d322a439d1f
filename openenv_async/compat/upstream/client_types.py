"""Upstream's result of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["StepResult"]

ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")


@dataclass
class StepResult(Generic[ObsT]):
    """The result of ``reset`` and ``step`` of a client.

    Attributes:
        observation: what the agent sees.
        reward: the reward; ``None`` where the environment gave none.
        done: whether the episode is over.
        metadata: further facts that came with the observation.
    """

    observation: ObsT
    reward: float | None = None
    done: bool = False
    metadata: dict[str, Any] | None = None
