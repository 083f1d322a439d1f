"""Groups of episodes with one seed, and their baselines: failures are left out, never zeros.

So are infinite returns, which would make every advantage of their group NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal

from openenv_async.types import ActT, ObsT, Outcome

__all__ = ["EpisodeGroup", "InvalidActions", "StreamedEpisode", "advantages", "baseline", "is_kept"]


_LARGE: Final = 1e100
"""Returns of this size and more are scaled before they are squared."""

InvalidActions = Literal["keep", "mask"]
"""The use of episodes that a mistake of the policy ended: keep their returns, or mask them."""


def is_kept(outcome: Outcome, invalid_actions: InvalidActions | None = None) -> bool:
    """Return whether an episode may be trained on as it stands.

    Args:
        outcome: of the episode.
        invalid_actions: the use of one that a mistake of the policy ended; ``None``: it is kept
            if the environment gave a penalty for the mistake.
    """
    if not outcome.invalid_action:
        return outcome.status.usable
    return outcome.penalty is not None if invalid_actions is None else invalid_actions == "keep"


@dataclass(slots=True)
class StreamedEpisode(Generic[ObsT, ActT]):
    """An episode of a stream.

    Attributes:
        outcome: how it ended, its trajectory included where it is recorded.
        group: which group it belongs to, from 0.
        member: which of its group it is, from 0.
        versions: of the policy, when each action was asked for; empty without versions.
        stale: it was cancelled because its policy became too old.
        invalid_actions: what becomes of an episode that a mistake of the policy ended: ``keep``
            its return, ``mask`` it; ``None``: keep it if the environment gave a penalty for it.
    """

    outcome: Outcome[ObsT, ActT]
    group: int
    member: int
    versions: tuple[int, ...] = ()
    stale: bool = False
    invalid_actions: InvalidActions | None = None

    @property
    def usable(self) -> bool:
        """True if it may be trained on as it stands."""
        return is_kept(self.outcome, self.invalid_actions) and not self.stale

    @property
    def partial(self) -> bool:
        """True if it was cancelled or timed out with steps; its return is not known."""
        stopped = self.outcome.status in ("cancelled", "timeout")
        return stopped and self.outcome.steps > 0 and not self.stale

    @property
    def episode_return(self) -> float | None:
        """Sum of its rewards; ``None`` when it has none, or is not usable."""
        return self.outcome.episode_return if self.usable else None


@dataclass(slots=True)
class EpisodeGroup(Generic[ObsT, ActT]):
    """Episodes that began alike.

    Attributes:
        index: which group, from 0.
        episodes: all of them by member, failures included.
    """

    index: int
    episodes: list[StreamedEpisode[ObsT, ActT]]

    @property
    def returns(self) -> list[float | None]:
        """The return of each member; ``None`` for those that have none."""
        return [episode.episode_return for episode in self.episodes]

    @property
    def mask(self) -> list[bool]:
        """True for each member that has a finite return: rows to train on."""
        return [value is not None and math.isfinite(value) for value in self.returns]

    @property
    def baseline(self) -> float | None:
        """Mean return of those that have a finite one."""
        return baseline(self.returns)

    def advantages(self, *, scale: bool = True) -> list[float | None]:
        """Return the advantage of each member, as the function ``advantages`` does."""
        return advantages(self.returns, scale=scale)


def baseline(returns: Sequence[float | None]) -> float | None:
    """Return the mean of the finite returns; ``None`` when there are none."""
    there = [float(value) for value in returns if value is not None and math.isfinite(value)]
    if not there:
        return None
    scale = _scale(there)
    return math.fsum(value / scale for value in there) / len(there) * scale


def advantages(
    returns: Sequence[float | None], *, scale: bool = True, epsilon: float = 1e-4
) -> list[float | None]:
    """Return the returns relative to their group, as in GRPO (Shao et al., 2024).

    Args:
        returns: of one group; ``None`` for what failed. That, and a return that is not finite,
            has ``None`` and counts in neither mean nor deviation.
        scale: divide by the standard deviation (of the sample, as trainers do).
        epsilon: added to the deviation.
    """
    there = [float(value) for value in returns if value is not None and math.isfinite(value)]
    unit = _scale(there)  # 1, but where the squares of returns are beyond what a float holds
    mean = (baseline(there) or 0.0) / unit
    divisor = 1.0 / unit
    if scale and len(there) > 1:
        squares = math.fsum((value / unit - mean) ** 2 for value in there)
        divisor = math.sqrt(squares / (len(there) - 1)) + epsilon / unit
    return [
        None if value is None or not math.isfinite(value) else (value / unit - mean) / divisor
        for value in returns
    ]


def _scale(values: Sequence[float]) -> float:
    """Return a power of two: values divided by it can be squared and summed up."""
    most = max(map(abs, values), default=0.0)
    return 1.0 if most < _LARGE else 2.0 ** (math.frexp(most)[1] - 1)
