"""Recorded episodes as a load: their actions, and the time that their policy took for each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from openenv_async.types import Trajectory

__all__ = ["RecordedEpisode", "read_trace"]

_MOST_EPISODES: Final = 1024
"""Episodes that are kept: sessions play them in turn, so more would change little."""


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """One episode to be played again.

    Attributes:
        seed: of its reset.
        reset_options: arguments of ``reset`` besides.
        steps: pairs of the seconds that the policy took and the action that it then chose.
    """

    seed: int | None
    reset_options: Mapping[str, Any]
    steps: Sequence[tuple[float, Any]]


def read_trace(episodes: Iterable[Trajectory], *, think: float = 1.0) -> list[RecordedEpisode]:
    """Return the episodes of a run that have steps, 1,024 at most.

    Args:
        episodes: as ``read_trajectories`` gives them.
        think: factor of the recorded times of the policy; 0: none is waited.

    Raises:
        ValueError: none has a step, or the factor makes no sense.
    """
    if not (think >= 0 and math.isfinite(think)):
        raise ValueError(f"the factor of think times must be a number of at least 0, got {think}")
    with_steps = (each for each in (_recorded(t, think) for t in episodes) if each.steps)
    found = list(itertools.islice(with_steps, _MOST_EPISODES))
    if not found:
        raise ValueError("the trace has no episode with a step: record one with rollout --out")
    return found


def _recorded(trajectory: Trajectory, think: float) -> RecordedEpisode:
    steps = []
    waited = 0.0
    for transition in trajectory.transitions:
        waited += (transition.timings or {}).get("policy", 0.0)
        if transition.mistake is None:  # after one the policy was asked again, which took time
            steps.append((think * waited, transition.action))
            waited = 0.0
    return RecordedEpisode(trajectory.seed, trajectory.reset_options or {}, steps)
