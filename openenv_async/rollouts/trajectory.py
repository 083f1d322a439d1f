"""The record of an episode: what the agent saw, did and got.

A transition holds the observation *before* its action, as it was shown to the policy; what came
after the last action is the trajectory's ``final_observation``. So nothing is stored twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from openenv_async.errors import sendable
from openenv_async.types import EpisodeInfo, Outcome, OutcomeStatus

__all__ = ["Trajectory", "Transition", "error_text"]


@dataclass(slots=True)
class Transition:
    """One step.

    Attributes:
        t: number of the step in its episode, from 0.
        observation: what the policy saw when it chose the action.
        action: what it chose.
        reward: what the environment gave for it, ``None`` when it gave none.
        terminated, truncated: whether the episode ended with this step, and how.
        info: what came with the step's result.
        extra: what a file has for this step besides, by name.
    """

    t: int
    observation: Any
    action: Any
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Trajectory:
    """One episode.

    Attributes:
        index: which rollout of its batch.
        episode_id, seed: of the episode; ``None`` when its reset failed.
        transitions: the steps that were answered.
        final_observation: what came after the last of them; the first observation when there
            was none; ``None`` when the reset failed.
        reset_reward, reset_info: what came with the first observation. The reward is no part
            of the return.
        status, episode_return, steps, duration: as in the ``Outcome``.
        error_code, error_message: what ended a failed episode: the wire code of an
            ``OpenEnvError``, else the name of the exception's class.
        extra: what a file has for this episode besides, by name: keys of a newer release or of
            yours, and of a ``StreamedEpisode`` its group, member, versions and staleness.
    """

    index: int
    episode_id: str | None = None
    seed: int | None = None
    transitions: list[Transition] = field(default_factory=list)
    final_observation: Any = None
    reset_reward: float | None = None
    reset_info: dict[str, Any] = field(default_factory=dict)
    status: OutcomeStatus | None = None
    episode_return: float | None = None
    steps: int = 0
    duration: float = 0.0
    error_code: str | None = None
    error_message: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def finish(self, outcome: Outcome) -> None:
        """Copy how the episode ended."""
        self.status = outcome.status
        self.episode_return = outcome.episode_return
        self.steps = outcome.steps
        self.duration = outcome.duration
        if outcome.error is not None:
            self.error_code = getattr(outcome.error, "code", type(outcome.error).__name__)
            self.error_message = error_text(outcome.error)

    def begin(self, episode: EpisodeInfo | None) -> None:
        """Note which episode it is."""
        if episode is not None:
            self.episode_id = episode.episode_id
            self.seed = episode.seed


def error_text(error: BaseException) -> str:
    """The message of an exception, also of one whose ``__str__`` raises."""
    try:
        return sendable(str(error))
    except Exception as exc:
        return f"{type(error).__name__}, whose message cannot be read: {type(exc).__name__}"
