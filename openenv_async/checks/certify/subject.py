"""The environment that is certified: its server, what it states, and play on it.

Rules:

- Every policy plays the same seeds and tasks, so that scores can be compared.
- The oracle, and ``secrets``, are given the private part of the task; nobody else is.
- Rewards and returns of all that is played are kept as totals, which are looked at in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openenv_async.certification import Certification
from openenv_async.checks.registry import CheckFailed, Skipped
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.errors import OpenEnvError, error_text
from openenv_async.rollouts import RandomPolicy, TaskSet, collect
from openenv_async.rollouts.policies import Turn, bind
from openenv_async.targets.served import Server
from openenv_async.tasks import TaskBook
from openenv_async.types import Outcome, OutcomeStatus, Task

__all__ = ["TOLERANCE", "Returns", "Subject", "score_of"]

TOLERANCE: Final = 0.05
"""The part of the range of returns by which a policy may lie above chance."""
_SURE: Final = 2.6
"""Standard errors between a mean and a limit from which no further episodes are needed."""
_GROWTH: Final = 16
"""The factor by which the first number of episodes may grow until a score is sure."""
_LEAST: Final = 4
"""The factor by which it grows at least where chance is measured."""
_MAX_STEPS: Final = 1000
_EPISODE_TIMEOUT: Final = 120.0
_SEED: Final = 1_000
_MISTAKES: Final = 10
_SCORED: Final = (OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED, OutcomeStatus.INVALID_ACTION)
_NO_STATEMENTS: Final = "the environment states nothing of it: see Certification"


@dataclass(slots=True)
class Returns:
    """The returns of one policy.

    Attributes:
        values: of its episodes.
    """

    values: list[float]

    @property
    def mean(self) -> float:
        """The mean return."""
        return statistics.fmean(self.values)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        count = len(self.values)
        return statistics.stdev(self.values) / math.sqrt(count) if count > 1 else math.inf

    def exceeds(self, limit: float) -> bool:
        """Return whether the mean lies above a limit by more than its standard error."""
        error = self.error if len(self.values) > 1 else 0.0
        return self.mean - error > limit

    def __str__(self) -> str:
        return f"{self.mean:.3g} (of {len(self.values)} episodes)"


@dataclass
class Subject:
    """An environment that is certified.

    Attributes:
        candidate: the environment as validation knows it: the address of its server, its schemas.
        stated: what it states; ``None`` where nothing is known.
        book: its own tasks with their private part, where they can be read here.
        split: of its tasks that is played; ``None``: it has none.
        tasks: how many the split has.
        other: another server of the same environment, in a process of its own.
        episodes: of each policy, at first.
        seconds: that one policy may be played beyond these.
        concurrency: episodes at once.
        temporary: folder of its server's temporary files, if it has one of its own.
        figures: what was measured, by the name of the check.
        rewards, returns: the lowest and highest of all that was played.
        listing, about: what the server tells of its tasks and of itself.
    """

    candidate: Candidate
    stated: Certification | None = None
    book: TaskBook | None = None
    split: str | None = None
    tasks: int = 0
    other: Server | None = None
    episodes: int = 32
    seconds: float = 20.0
    concurrency: int = 16
    temporary: Path | None = None
    figures: dict[str, str] = field(default_factory=dict)
    rewards: tuple[float, float, int] = (math.inf, -math.inf, 0)
    returns: tuple[float, float, int] = (math.inf, -math.inf, 0)
    listing: list[Task] = field(default_factory=list)
    about: list[Any] = field(default_factory=list)
    _chance: Returns | None = None
    _hung: str = ""

    def note(self, check: Callable[..., Any], text: str) -> None:
        """Keep what a check measured, for the report."""
        self.figures[check.__name__] = text

    @property
    def statements(self) -> Certification:
        """The statements of the environment.

        Raises:
            Skipped: there are none.
        """
        if self.stated is None:
            raise Skipped(
                "nothing is stated of this environment: it declares no certification, and no"
                " --declaration was given"
            )
        return self.stated

    def needed(self, name: str) -> Any:
        """Return one statement.

        Raises:
            Skipped: it is not made.
        """
        found = getattr(self.statements, name)
        if found is None:
            raise Skipped(f"the environment states no {name}")
        return found

    @property
    def span(self) -> float:
        """The distance from the lowest return to the highest."""
        low, high = self.needed("return_range")
        return float(high - low)

    # -- play ----------------------------------------------------------------------------------

    async def play(
        self,
        policy: Callable[..., Any],
        count: int,
        *,
        first: int = 0,
        options: Mapping[str, Any] | None = None,
        privileged: bool = False,
        max_steps: int | None = None,
    ) -> list[Outcome[Any, Any]]:
        """Play the episodes ``first`` to ``first + count`` with a policy.

        Args:
            policy: who plays.
            count: of episodes.
            first: number of the first, which decides its seed and task.
            options: of ``reset``, in place of the task.
            privileged: whether it sees the private part of tasks.
            max_steps: of each episode, where that is fewer than usual.

        Raises:
            CheckFailed: an episode failed, or all of an earlier line took too long: nothing is
                played after them.
        """
        if self._hung:
            raise CheckFailed(self._hung)
        stated = self.stated or Certification()
        total = first + count
        arguments: dict[str, Any] = {"episodes": total, "seeds": _SEED}
        if self.split is not None and options is None:
            epochs = -(-total // max(self.tasks, 1))
            arguments["tasks"] = TaskSet(self.split, shuffle=0, epochs=epochs)
        outcomes: list[Outcome[Any, Any]] = []
        try:
            stream = collect(
                self.candidate.url,
                _Privileged(policy, self.book) if privileged else policy,
                **arguments,
                only=range(first, total),
                token=self.candidate.token,
                concurrency=self.concurrency,
                max_steps=min(stated.max_steps or _MAX_STEPS, max_steps or _MAX_STEPS),
                timeout=_EPISODE_TIMEOUT,
                reset_options={**stated.reset_options, **(options or {})} or None,
                on_mistake="tell",
                max_mistakes=_MISTAKES,
            )
            async with contextlib.aclosing(stream):
                outcomes = [outcome async for outcome in stream]
        except OpenEnvError as exc:
            raise CheckFailed(f"{type(exc).__name__}: {exc.message}") from exc
        failed = [outcome for outcome in outcomes if outcome.status not in _SCORED]
        if failed:
            error = failed[0].error
            why = "" if error is None else f": {type(error).__name__}: {error_text(error)}"
            if {outcome.status for outcome in outcomes} == {OutcomeStatus.TIMEOUT}:
                self._hung = (
                    f"not played: {len(outcomes)} episodes before took more than"
                    f" {_EPISODE_TIMEOUT:g} s each"
                )
            raise CheckFailed(
                f"{len(failed)} of {len(outcomes)} episodes ended with {failed[0].status}{why}"
            )
        for outcome in outcomes:
            self._count(outcome)
        return outcomes

    def _count(self, outcome: Outcome[Any, Any]) -> None:
        assert outcome.trajectory is not None
        for step in outcome.trajectory.transitions:
            if step.reward is not None and step.mistake is None:
                self.rewards = _widened(self.rewards, step.reward)
        if outcome.episode_return is not None and not outcome.mistakes:
            self.returns = _widened(self.returns, outcome.episode_return)

    async def measured(
        self,
        policy: Callable[..., Any],
        limit: float | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        privileged: bool = False,
    ) -> Returns:
        """Return the returns of a policy: of more episodes while its mean is near the limit.

        Args:
            policy: who plays.
            limit: that its mean return is compared with; ``None``: none.
            options, privileged: as for ``play``.

        Raises:
            CheckFailed: an episode failed.
            Skipped: no reward is given at all.
        """
        begun = time.monotonic()
        returns: list[float] = []
        given = 0
        while True:
            outcomes = await self.play(
                policy,
                len(returns) or self.episodes,
                first=len(returns),
                options=options,
                privileged=privileged,
            )
            returns += [score_of(outcome) for outcome in outcomes]
            given += sum(outcome.episode_return is not None for outcome in outcomes)
            found = Returns(returns)
            enough = len(returns) >= _GROWTH * self.episodes
            late = time.monotonic() - begun > self.seconds
            if limit is None or enough or late:
                break
            if found.error and abs(found.mean - limit) > _SURE * found.error:
                break
            if not found.error and len(returns) >= 2 * self.episodes:
                break
        if not given and not self.returns[2]:
            raise Skipped("the environment gives no reward")
        return found

    def guess(self) -> Callable[..., Any]:
        """Return the policy of valid answers at random.

        Raises:
            Skipped: the server gives no schema of its actions.
        """
        if self.stated is not None and self.stated.guess is not None:
            return self.stated.guess
        return self.random()

    def random(self) -> RandomPolicy:
        """Return the policy of random actions.

        Raises:
            Skipped: the server gives no schema of its actions.
        """
        if "action" not in self.candidate.schema:
            raise Skipped("the server gives no action schema (GET /schema)")
        return RandomPolicy(self.candidate.schema["action"], seed=7)

    async def chance(self) -> float:
        """Return the mean return of valid answers at random."""
        stated = self.statements
        if stated.chance is not None:
            return float(stated.chance)
        if self._chance is None:
            begun, returns = time.monotonic(), list[float]()
            sure = TOLERANCE * self.span / _SURE
            while len(returns) < _GROWTH * self.episodes:
                first = len(returns)
                outcomes = await self.play(self.guess(), first or self.episodes, first=first)
                returns += map(score_of, outcomes)
                self._chance = Returns(returns)
                is_late = time.monotonic() - begun > self.seconds
                if len(returns) >= _LEAST * self.episodes and (
                    is_late or self._chance.error < sure
                ):
                    break
            assert self._chance is not None
        return self._chance.mean

    async def nothing(self) -> float:
        """Return what counts as being paid nothing: the lowest return, or more where texts answer.

        There it is that of the worst guess, and at most 0: penalties that no valid answer incurs,
        such as one for code that fails, would make chance look larger, and the panel's gain
        smaller.
        """
        low, high = map(float, self.needed("return_range"))
        await self.chance()
        if self.statements.answer is None or self._chance is None:
            return low
        return min(max(low, min(self._chance.values)), max(low, 0.0), high)

    async def limit(self) -> float:
        """Return the mean return that a policy may have at most which does not solve anything."""
        high = float(self.needed("return_range")[1])
        return await self.chance() + TOLERANCE * (high - await self.nothing())

    def need_secrets(self) -> None:
        """Find out before anything is played that no secrets are known.

        Raises:
            Skipped: there are none.
        """
        if self.stated is not None and self.stated.secrets is not None:
            return
        if not self.candidate.findings.get("private_columns"):
            raise Skipped(
                "no secrets are known: the environment states no secrets, and no private columns"
                " of its tasks can be read here"
            )

    def secrets_of(self, turn: Turn) -> list[str]:
        """Return the texts that the agent of an episode may not see."""
        stated = self.stated
        turn = _with_private(turn, self.book)
        if stated is not None and stated.secrets is not None:
            return _texts(list(stated.secrets(turn)))
        return [] if turn.task is None else _texts(list(turn.task.private.values()))


def _widened(old: tuple[float, float, int], value: float) -> tuple[float, float, int]:
    if math.isnan(value):
        return math.nan, math.nan, old[2] + 1
    return min(old[0], value), max(old[1], value), old[2] + 1


def score_of(outcome: Outcome[Any, Any]) -> float:
    """Return the return of an episode; one that was paid nothing has 0."""
    return 0.0 if outcome.episode_return is None else float(outcome.episode_return)


def _texts(value: Any) -> list[str]:
    """Return the numbers and texts in a value, as text."""
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list | tuple | set | frozenset):
        return [text for each in value for text in _texts(each)]
    if value is None or isinstance(value, bool):
        return []
    text = str(value).strip()
    return [text] if text else []


@dataclass(frozen=True)
class _Privileged:
    """A policy that is given the private part of tasks."""

    policy: Callable[..., Any]
    book: TaskBook | None

    def for_episode(self, index: int) -> Callable[..., Any]:
        bound = bind(self.policy, index)
        return lambda observation, turn: bound(observation, _with_private(turn, self.book))

    def __call__(self, observation: Any, turn: Turn) -> Any:
        return bind(self.policy, turn.index)(observation, _with_private(turn, self.book))


def _with_private(turn: Turn, book: TaskBook | None) -> Turn:
    task = turn.task
    if book is None or task is None or task.split is None:
        return turn
    return dataclasses.replace(turn, task=book.find(task.id, task.split))


async def read_book(book: TaskBook) -> Sequence[str]:
    """Read an environment's tasks, in a thread, and return the names of their splits."""
    await asyncio.wait_for(book.in_thread(book.read_all), _EPISODE_TIMEOUT)
    return book.splits
