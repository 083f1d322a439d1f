"""The arguments of ``collect`` in one place: checked once, handed on as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from openenv_async.rollouts.run import Rollout
from openenv_async.rollouts.summary import Summary

__all__ = ["CollectOptions", "Retry"]

Retry = Literal["never", "unstarted", "seeded"]
"""Which episodes are played again when what carried their environment failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectOptions:
    """Arguments of ``collect``, by the same names, that make sense.

    Raises:
        ValueError: they do not.
    """

    policy: Callable[..., Any]
    episodes: int
    concurrency: int
    seeds: int | Sequence[int] | None
    max_steps: int | None
    timeout: float | None
    reset_options: Mapping[str, Any] | None
    record: bool
    min_count: int | None
    deadline: float | None
    max_ahead: int | None
    on_progress: Callable[[Summary], None] | None
    retry: Retry
    summary: Summary

    def __post_init__(self) -> None:
        episodes = self.episodes
        seeds = self.seeds
        if seeds is not None and not isinstance(seeds, int) and len(seeds) < episodes:
            raise ValueError(f"{len(seeds)} seeds do not suffice for {episodes} episodes")
        if self.retry not in get_args(Retry):
            raise ValueError(
                f"retry must be one of {', '.join(get_args(Retry))}, got {self.retry!r}"
            )
        for name in ("episodes", "concurrency"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.min_count is not None and not 1 <= self.min_count <= episodes:
            raise ValueError(f"min_count must be 1 to {episodes} (episodes), got {self.min_count}")
        if self.max_ahead is not None and self.max_ahead < 1:
            raise ValueError(f"max_ahead must be at least 1, got {self.max_ahead}")
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(
                f"deadline must be a positive number of seconds, got {self.deadline!r}"
            )
        self.rollout(0)  # what it refuses is told now, not by a worker

    @property
    def workers(self) -> int:
        """Episodes at once, of those that there are."""
        return min(self.concurrency, self.episodes)

    @property
    def most_ready(self) -> int:
        """Outcomes that may wait for the reader."""
        return self.max_ahead or 2 * self.workers

    def seed(self, index: int) -> int | None:
        """Of one episode."""
        if self.seeds is None:
            return None
        return self.seeds + index if isinstance(self.seeds, int) else self.seeds[index]

    def rollout(self, index: int) -> Rollout:
        """One episode, yet to be played."""
        return Rollout(
            self.policy,
            seed=self.seed(index),
            max_steps=self.max_steps,
            timeout=self.timeout,
            reset_options=self.reset_options,
            record=self.record,
            index=index,
            latencies=self.summary.latencies,
        )
