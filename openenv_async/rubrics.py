"""Rewards made of named functions: weighted, gated, put in order, or over whole episodes.

Rules:

- A function gets the facts that it names as parameters, ``**facts`` all of them. It returns a
  number or a bool, and may be async.
- A rubric keeps nothing: what an episode has had so far is in the ``EpisodeScores`` that
  ``episode()`` makes, so that one rubric of a module serves every session.
- A part that was not asked, behind a gate or before the episode's end, is recorded as ``None``.
- Parts belong into the info of a result, which is recorded and stands beside the observation.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.errors import shown

__all__ = [
    "MAX_STEPS",
    "PARTS",
    "EpisodeScores",
    "Rubric",
    "Score",
    "gated",
    "part",
    "sequential",
    "trajectory",
    "weighted",
]

PARTS: Final = "reward_parts"
"""The key of the parts in the info of a result."""
MAX_STEPS: Final = 100_000
"""Steps of an episode that are kept for functions of whole episodes."""
_ROOT: Final = "reward"
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """A reward and what it is made of.

    Attributes:
        value: the reward.
        parts: the score of each part by its path, such as ``style.brief``; ``None`` for one that
            was not asked. The first, ``reward``, is the whole.
    """

    value: float
    parts: Mapping[str, float | None]

    @property
    def info(self) -> dict[str, Any]:
        """The parts as the info of a result: ``StepResult(…, score.value, info=score.info)``."""
        return {PARTS: dict(self.parts)}


@dataclass(slots=True)
class _Asked:
    """One scoring: the facts of the step, those of the steps before, and the parts so far."""

    facts: Facts
    steps: Sequence[Facts]
    done: bool
    parts: dict[str, float | None] = field(default_factory=dict)


class Rubric(ABC):
    """A reward with a name, alone or made of others. ``part``, ``weighted``, … make one.

    Attributes:
        name: in the record.
        children: the rubrics that it is made of.
        is_async: whether a function in it is async.
        is_trajectory: whether a function in it scores whole episodes.
    """

    def __init__(self, name: str, children: Sequence[Rubric] = ()) -> None:
        if not name or "." in name:
            raise ValueError(f"a part of a reward needs a name without a dot, got {name!r}")
        self.name = name
        self.children = tuple(children)
        self.is_async: bool = any(child.is_async for child in children)
        self.is_trajectory: bool = any(child.is_trajectory for child in children)
        names = [child.name for child in children]
        if twice := sorted({each for each in names if names.count(each) > 1}):
            raise ValueError(
                f"{name} has several parts called {twice[0]!r}: name them, part(function, name=…)"
            )

    def episode(self) -> EpisodeScores:
        """Return the scores of a new episode."""
        return EpisodeScores(self)

    def score(self, **facts: Any) -> Score:
        """Return the score of an episode that is one step.

        Raises:
            TypeError: a function is async, or a fact that it takes is missing.
            ValueError: a function gave no finite number.
        """
        return self.episode().step(done=True, **facts)

    async def score_async(self, **facts: Any) -> Score:
        """Return the same; functions may be async."""
        return await self.episode().step_async(done=True, **facts)

    @abstractmethod
    async def _value(self, asked: _Asked, path: str) -> float:
        """Return the score; add those of the children to the parts."""

    async def _scored(self, asked: _Asked, path: str = "") -> float:
        """Return the score, and add it and those below to the parts."""
        asked.parts[path or _ROOT] = None  # its place is before its children's
        value = await self._value(asked, path)
        if not math.isfinite(value):
            raise ValueError(f"the part {path or self.name!r} gave {value}, not a finite number")
        asked.parts[path or _ROOT] = value
        return value

    def _path(self, path: str, child: Rubric) -> str:
        return f"{path}.{child.name}" if path else child.name

    def _unasked(self, asked: _Asked, path: str, children: Iterable[Rubric]) -> None:
        """Note that children were not asked."""
        for child in children:
            below = self._path(path, child)
            asked.parts[below] = None
            child._unasked(asked, below, child.children)


class EpisodeScores:
    """The scores of one episode, step by step.

    Args:
        rubric: scores its steps.

    Attributes:
        total: the sum of the values so far.
    """

    def __init__(self, rubric: Rubric) -> None:
        self.total = 0.0
        self._rubric = rubric
        self._steps: list[Facts] = []

    def step(self, *, done: bool = False, **facts: Any) -> Score:
        """Return the score of a step.

        Args:
            done: the episode is over: what scores whole episodes is asked.
            facts: that functions take by name.

        Raises:
            TypeError: a function is async, or a fact that it takes is missing.
            ValueError: a function gave no finite number, or the episode is too long to keep.
        """
        if self._rubric.is_async:
            raise TypeError(f"{self._rubric.name} has async functions: await step_async(…)")
        coroutine: Coroutine[Any, Any, Score] = self.step_async(done=done, **facts)
        try:
            coroutine.send(None)
        except StopIteration as stopped:
            score: Score = stopped.value
            return score
        coroutine.close()
        raise TypeError(f"{self._rubric.name} awaits something: await step_async(…)")

    async def step_async(self, *, done: bool = False, **facts: Any) -> Score:
        """Return the same; functions may be async, those of a weighted sum run at once."""
        if self._rubric.is_trajectory:
            if len(self._steps) == MAX_STEPS:
                raise ValueError(f"an episode of more than {MAX_STEPS} steps is not kept")
            self._steps.append(facts)
        asked = _Asked(facts, self._steps, done)
        value = await self._rubric._scored(asked)
        self.total += value
        return Score(value, asked.parts)


# -- functions ---------------------------------------------------------------------------------


class _Part(Rubric):
    """A function of the facts that it names."""

    def __init__(self, function: Callable[..., Any], name: str | None) -> None:
        if not callable(function):
            raise TypeError(f"a part of a reward is a function, got {shown(function)}")
        super().__init__(name or _name_of(function))
        self._function = function
        call = function if inspect.isroutine(function) else type(function).__call__
        self.is_async = inspect.iscoroutinefunction(call)
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        named = [each for each in parameters if each.kind in _NAMED]
        self._names = [each.name for each in named]
        self._needed = [each.name for each in named if each.default is each.empty]

    async def _value(self, asked: _Asked, path: str) -> float:
        return await self._called(asked.facts)

    async def _called(self, facts: Facts) -> float:
        for name in self._needed:
            if name not in facts:
                given = ", ".join(facts) or "nothing"
                raise TypeError(f"{self.name} takes {name!r}, and was given {given}: pass {name}=")
        taken = facts if self._takes_all else {k: facts[k] for k in self._names if k in facts}
        value = self._function(**taken)
        if self.is_async:
            value = await value
        return _number(value, self.name)


class _Trajectory(_Part):
    """A function of the steps of a whole episode, asked once, when it is over."""

    def __init__(self, function: Callable[..., Any], name: str | None) -> None:
        super().__init__(function, name)
        self.is_trajectory = True

    async def _scored(self, asked: _Asked, path: str = "") -> float:
        if asked.done:
            return await super()._scored(asked, path)
        asked.parts[path or _ROOT] = None
        return 0.0

    async def _value(self, asked: _Asked, path: str) -> float:
        return await self._called({**asked.facts, "steps": asked.steps})


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>":
        raise ValueError("a lambda has no name for the record: part(lambda …, name='…')")
    return str(name)


def _number(value: Any, name: str) -> float:
    if isinstance(value, int | float):  # a bool is one
        return float(value)
    try:
        return float(value.item())  # NumPy's, torch's
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"{name} returned {shown(value)}, not a number") from None


# -- made of others ----------------------------------------------------------------------------


class _Weighted(Rubric):
    def __init__(self, weights: Sequence[float], children: Sequence[Rubric], name: str) -> None:
        super().__init__(name, children)
        if not children:
            raise ValueError(f"{name} has no parts")
        for weight, child in zip(weights, children, strict=True):
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise TypeError(
                    f"the weight of {child.name} is {shown(weight)}: write (weight, function)"
                )
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {child.name} is {weight}, not a finite number")
        self._weights = tuple(weights)

    async def _value(self, asked: _Asked, path: str) -> float:
        paths = [self._path(path, child) for child in self.children]
        if not self.is_async:
            scores = [
                await child._scored(asked, below)
                for child, below in zip(self.children, paths, strict=True)
            ]
            return math.fsum(map(lambda w, s: w * s, self._weights, scores))
        asked.parts.update(dict.fromkeys(paths))  # in this order, not that of their ends
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(child._scored(asked, below))
                    for child, below in zip(self.children, paths, strict=True)
                ]
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from None
        return math.fsum(w * task.result() for w, task in zip(self._weights, tasks, strict=True))


class _Gated(Rubric):
    def __init__(
        self, gate: Rubric, reward: Rubric, threshold: float, otherwise: float, name: str
    ) -> None:
        super().__init__(name, (gate, reward))
        self._threshold, self._otherwise = threshold, otherwise

    async def _value(self, asked: _Asked, path: str) -> float:
        gate, reward = self.children
        if await gate._scored(asked, self._path(path, gate)) >= self._threshold:
            return await reward._scored(asked, self._path(path, reward))
        self._unasked(asked, path, (reward,))
        return self._otherwise


class _Sequential(Rubric):
    def __init__(self, stages: Sequence[Rubric], name: str) -> None:
        super().__init__(name, stages)
        if not stages:
            raise ValueError(f"{name} has no stages")

    async def _value(self, asked: _Asked, path: str) -> float:
        score = 0.0
        for number, stage in enumerate(self.children, 1):
            score = await stage._scored(asked, self._path(path, stage))
            if score == 0.0:
                self._unasked(asked, path, self.children[number:])
                break
        return score


Part = Rubric | Callable[..., Any]
"""A part of a reward: a rubric, or a function that becomes one under its own name."""


def part(function: Callable[..., Any], *, name: str | None = None) -> Rubric:
    """Return a function as a part of a reward.

    Args:
        function: of the facts that it names; returns a number or a bool; may be async.
        name: in the record; that of the function by default.

    Raises:
        TypeError, ValueError: it is not a function, or has no name.
    """
    return _Part(function, name)


def trajectory(function: Callable[..., Any], *, name: str | None = None) -> Rubric:
    """Return a function of whole episodes as a part; before the end it adds 0 and is not asked.

    Args:
        function: gets ``steps``, the facts of each step of the episode in order, and the facts of
            the last one that it names.
        name: in the record; that of the function by default.
    """
    return _Trajectory(function, name)


def weighted(parts: Iterable[tuple[float, Part]], *, name: str = "weighted") -> Rubric:
    """Return the sum of parts, each times its weight; a negative weight makes a penalty.

    Args:
        parts: pairs of weight and part. Async ones run at once.
        name: in the record.

    Raises:
        TypeError, ValueError: a weight is not a finite number, or two parts have one name.
    """
    pairs = list(parts)
    return _Weighted([weight for weight, _ in pairs], [_rubric(each) for _, each in pairs], name)


def gated(
    gate: Part,
    reward: Part,
    *,
    threshold: float = 1.0,
    otherwise: float = 0.0,
    name: str = "gated",
) -> Rubric:
    """Return a reward that counts where a gate's score reaches a threshold.

    Args:
        gate: is asked first, and adds nothing.
        reward: is asked where the gate is open.
        threshold: score of the gate from which it is open.
        otherwise: the score where it is not.
        name: in the record.
    """
    return _Gated(_rubric(gate), _rubric(reward), threshold, otherwise, name)


def sequential(*stages: Part, name: str = "sequential") -> Rubric:
    """Return stages in order: 0 as soon as one gives 0, and no later one is asked; else the last's.

    Args:
        stages: rubrics or functions.
        name: in the record.
    """
    return _Sequential([_rubric(stage) for stage in stages], name)


def _rubric(given: Part) -> Rubric:
    return given if isinstance(given, Rubric) else _Part(given, None)
