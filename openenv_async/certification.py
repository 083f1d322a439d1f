"""An environment's own statements for its certificate: who solves it, what it pays, what is secret.

Rules:

- Everything is optional. A line of the certificate that needs what is not stated is "not shown",
  never passed.
- Policies are those of rollouts: callables of an observation and a ``Turn``, or of the observation
  alone, sync or async; a method ``for_episode(index)`` gives the policy of one episode.
  Observations come as plain data, actions may be of the environment's type or plain data.
- The ``oracle``, and ``secrets``, see more than agents do: ``turn.task`` has its private part, and
  ``turn.episode.seed`` is the seed. ``cheats``, ``skills`` and ``guess`` see what agents see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.errors import InvalidModel, shown

__all__ = ["UNSTATED", "Certification"]

UNSTATED: Final = object()
"""The default of ``Certification.nothing``: ``None`` may be an action."""
_NEAR: Final = 0.02
"""The part of the range of returns by which an oracle may miss the highest, unless it is stated."""
_PANELS: Final = ("cheats", "skills", "levels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certification:
    """Statements of an environment about itself, which ``openenv-async certify`` tests.

    Attributes:
        oracle: the policy that solves every episode; it may look at the task's private part.
        oracle_return: mean return that the oracle must reach; by default 98 % of the way from the
            lowest return to the highest.
        return_range: the lowest and the highest return of an episode.
        reward_range: of one step's reward; ``None``: that of returns.
        guess: a policy that gives valid answers at random; ``None``: actions drawn from the schema,
            legal ones where the environment tells them.
        chance: mean return of such guesses where it is known exactly; ``None``: it is measured.
        answer: makes the action that hands in a text as the answer. With it the panel echoes the
            prompt, answers with every option, with nonsense and with constants, and ends at once.
        options: lists the answers that an observation offers.
        nothing: the action that does nothing; by default the smallest that fits the schema.
        constants: actions that are repeated to the end of each episode, beside those that the
            schema lists.
        cheats: policies that try to be paid without solving the task, by name, such as
            ``read_the_tests``.
        skills: scripted policies by name, from the weakest to the strongest.
        levels: options of ``reset`` by level of difficulty, from the easiest to the hardest.
        secrets: lists texts that no agent may see before it has answered, of an episode's turn at
            its start; ``None``: the values of the task's private columns.
        probes: actions whose observations hold what an agent can read of files; ``None``: unknown.
        reset_options: of every episode.
        params: constructor arguments with which the environment is certified.
        split: of the environment's own tasks; ``None``: the first, else no tasks.
        max_steps: after which an episode is truncated; ``None``: 1,000.
        varying: fields of observations that may differ between equal episodes.

    Raises:
        InvalidModel: a statement makes no sense.
    """

    oracle: Callable[..., Any] | None = None
    oracle_return: float | None = None
    return_range: tuple[float, float] | None = None
    reward_range: tuple[float, float] | None = None
    guess: Callable[..., Any] | None = None
    chance: float | None = None
    answer: Callable[[str], Any] | None = None
    options: Callable[[Any], Iterable[str]] | None = None
    nothing: Any = UNSTATED
    constants: Sequence[Any] = ()
    cheats: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    skills: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    levels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    secrets: Callable[[Any], Iterable[Any]] | None = None
    probes: Sequence[Any] | None = None
    reset_options: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    max_steps: int | None = None
    varying: Collection[str] = ()

    def __post_init__(self) -> None:
        for name in ("return_range", "reward_range"):
            self._check_range(name)
        for name in ("oracle", "guess", "answer", "options", "secrets"):
            if (given := getattr(self, name)) is not None and not callable(given):
                raise InvalidModel(f"Certification: {name} must be a callable, got {shown(given)}")
        for name in _PANELS:
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidModel(
                    f"Certification: {name} is a dict by name, got {shown(getattr(self, name))}"
                )
        for name, policy in {**self.cheats, **self.skills}.items():
            if not callable(policy):
                raise InvalidModel(
                    f"Certification: the policy {name!r} must be a callable, got {shown(policy)}"
                )
        if self.max_steps is not None and self.max_steps < 1:
            raise InvalidModel(f"Certification: max_steps must be at least 1, got {self.max_steps}")

    def _check_range(self, name: str) -> None:
        given: Any = getattr(self, name)
        if given is None:
            return
        try:
            low, high = map(float, given)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not low < high or math.isinf(low) or math.isinf(high):
            raise InvalidModel(
                f"Certification: {name} must be two finite numbers, the lower first, got"
                f" {shown(given)}"
            )

    @property
    def rewards(self) -> tuple[float, float] | None:
        """The range of one step's reward; ``None`` where none is stated."""
        return self.reward_range or self.return_range

    @property
    def oracle_needs(self) -> float | None:
        """Mean return that the oracle must reach; ``None`` where no range is stated."""
        if self.oracle_return is not None or self.return_range is None:
            return self.oracle_return
        low, high = self.return_range
        return high - _NEAR * (high - low)
