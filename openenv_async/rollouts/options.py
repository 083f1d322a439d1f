"""The arguments of ``collect`` in one place: checked once, handed on as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from openenv_async.rollouts.admission import Admission
from openenv_async.rollouts.checking import check_count, check_policy, check_seconds, check_seed
from openenv_async.rollouts.run import Rollout
from openenv_async.rollouts.summary import Summary

__all__ = ["CollectOptions", "Retry"]

Retry = Literal["never", "unstarted", "seeded"]
"""Which episodes are played again when what carried their environment failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectOptions:
    """Arguments of ``collect``, by the same names, that make sense.

    Attributes:
        admission: says when an episode may begin; ``None``: as soon as there is a session.

    Raises:
        TypeError, ValueError: they do not.
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
    admission: Admission | None = None

    def __post_init__(self) -> None:
        check_policy(self.policy)
        for name in ("episodes", "concurrency", "min_count", "max_ahead"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_count(name, value))
        episodes = self.episodes
        object.__setattr__(self, "seeds", _checked(self.seeds, episodes))
        if self.retry not in get_args(Retry):
            raise ValueError(
                f"retry must be one of {', '.join(get_args(Retry))}, got {self.retry!r}"
            )
        if self.min_count is not None and self.min_count > episodes:
            raise ValueError(f"min_count must be 1 to {episodes} (episodes), got {self.min_count}")
        if self.deadline is not None:
            check_seconds("deadline", self.deadline)
        if not isinstance(self.summary, Summary):
            raise TypeError(f"summary must be a Summary, got {self.summary!r}")
        if self.on_progress is not None and not callable(self.on_progress):
            raise TypeError(f"on_progress must be callable, got {self.on_progress!r}")
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
            strict=False,
        )


def _checked(seeds: Any, episodes: int) -> int | Sequence[int] | None:
    """The seeds of as many episodes.

    Raises:
        TypeError: they are neither an integer nor a sequence of integers.
        ValueError: they do not suffice, or one is out of range.
    """
    if seeds is None:
        return None
    if hasattr(seeds, "__index__") and not hasattr(seeds, "__len__"):
        first = check_seed("seeds", seeds)
        check_seed("the last of seeds", first + episodes - 1)
        return first
    if isinstance(seeds, str | bytes) or not hasattr(seeds, "__getitem__"):
        raise TypeError(f"seeds must be an integer or a list of integers, got {seeds!r}")
    if len(seeds) < episodes:
        raise ValueError(f"{len(seeds)} seeds do not suffice for {episodes} episodes")
    if isinstance(seeds, list | tuple):
        return [check_seed(f"seeds[{i}]", seed) for i, seed in enumerate(seeds[:episodes])]
    return cast(Sequence[int], seeds)
