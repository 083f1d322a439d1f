"""Upstream's rubrics: rewards as trees of functions of an action and an observation.

Rules:

- A rubric that is called runs its hooks before, ``forward``, and its hooks after, and keeps the
  score in ``last_score``.
- ``forward`` and hooks may be async. The call then gives a coroutine; the hooks after it and
  ``last_score`` follow when that is awaited. A container is async when a child's score is.
- A rubric that is assigned to an attribute of another one is its child, under that name.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from openenv_async.event_loop import is_in_loop

__all__ = [
    "ExponentialDiscountingTrajectoryRubric",
    "Gate",
    "LLMJudge",
    "Rubric",
    "RubricDict",
    "RubricList",
    "Sequential",
    "TrajectoryRubric",
    "WeightedSum",
]

_NUMBER: Final = r"(\d+\.?\d*)"
_TOLERANCE: Final = 1e-6
"""The largest difference from 1 of a sum of weights."""

Hook = Callable[..., Any]


class Rubric(ABC):
    """A reward as a function of an action and the observation that it led to.

    Attributes:
        last_score: the score of the last call; ``None`` before the first.
    """

    _rubric_children: dict[str, Rubric]
    _forward_hooks: list[Hook]
    _forward_pre_hooks: list[Hook]
    last_score: float | None

    def __init__(self) -> None:
        self.__dict__.update(
            _rubric_children={}, _forward_hooks=[], _forward_pre_hooks=[], last_score=None
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Rubric):
            self._rubric_children[name] = value
        object.__setattr__(self, name, value)

    @abstractmethod
    def forward(self, action: Any, observation: Any) -> Any:
        """Return the score, mostly between 0 and 1; it may be async."""

    def __call__(self, action: Any, observation: Any) -> Any:
        """Return the score, or a coroutine that gives it."""
        if inspect.iscoroutinefunction(self.forward):
            return self._call_async(action, observation, 0)
        for number, hook in enumerate(self._forward_pre_hooks):
            if inspect.iscoroutinefunction(hook):
                return self._call_async(action, observation, number)
            hook(self, action, observation)
        score = self.forward(action, observation)
        if inspect.iscoroutine(score):
            return self._finish_async(action, observation, score)
        if any(map(inspect.iscoroutinefunction, self._forward_hooks)):
            return self._finish_async(action, observation, _value(score))
        self.last_score = score
        for hook in self._forward_hooks:
            hook(self, action, observation, score)
        return score

    async def _call_async(self, action: Any, observation: Any, start: int) -> Any:
        """The call from the hook ``start`` on."""
        for hook in self._forward_pre_hooks[start:]:
            await _settled(hook(self, action, observation))
        score = self.forward(action, observation)
        coroutine = score if inspect.iscoroutine(score) else _value(score)
        return await self._finish_async(action, observation, coroutine)

    async def _finish_async(self, action: Any, observation: Any, score: Awaitable[Any]) -> Any:
        """The rest of the call, once ``forward`` was called."""
        result = self.last_score = await score
        for hook in self._forward_hooks:
            await _settled(hook(self, action, observation, result))
        return result

    def register_forward_hook(self, hook: Hook) -> None:
        """Have ``hook(rubric, action, observation, score)`` called after ``forward``."""
        self._forward_hooks.append(hook)

    def register_forward_pre_hook(self, hook: Hook) -> None:
        """Have ``hook(rubric, action, observation)`` called before ``forward``."""
        self._forward_pre_hooks.append(hook)

    def children(self) -> Iterator[Rubric]:
        """Yield the rubrics that are attributes of this one."""
        yield from self._rubric_children.values()

    def named_children(self) -> Iterator[tuple[str, Rubric]]:
        """Yield the rubrics that are attributes of this one, with their names."""
        yield from self._rubric_children.items()

    def rubrics(self) -> Iterator[Rubric]:
        """Yield all rubrics below this one, each before its own children."""
        for _, rubric in self.named_rubrics():
            yield rubric

    def named_rubrics(self, prefix: str = "") -> Iterator[tuple[str, Rubric]]:
        """Yield all rubrics below this one with their paths, such as ``code.syntax``."""
        for name, child in self._rubric_children.items():
            path = f"{prefix}.{name}" if prefix else name
            yield path, child
            yield from child.named_rubrics(path)

    def get_rubric(self, path: str) -> Rubric:
        """Return the rubric of a path.

        Raises:
            KeyError: there is none.
        """
        found: Rubric = self
        for name in path.split("."):
            if name not in found._rubric_children:
                raise KeyError(f"Rubric path not found: {path}")
            found = found._rubric_children[name]
        return found

    def reset(self) -> None:  # noqa: B027  # a hook that may stay empty
        """Forget the last episode."""

    def state_dict(self) -> dict[str, Any]:
        """Return the settings, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take settings that ``state_dict`` returned."""
        for name in self.state_dict():
            if name in state:
                setattr(self, name, state[name])


async def _value(score: Any) -> Any:
    """A score that is there already, to be awaited."""
    return score


async def _settled(result: Any) -> Any:
    """Return the result of a function, awaited if need be."""
    return await result if inspect.isawaitable(result) else result


# -- containers -------------------------------------------------------------------------------


class _Score(float):
    """A score that may be awaited as well: what sync children give inside an event loop."""

    def __await__(self) -> Generator[Any, None, float]:
        return _value(float(self)).__await__()


class Sequential(Rubric):
    """Rubrics in order: 0 as soon as one gives 0, else the score of the last."""

    def __init__(self, *rubrics: Rubric) -> None:
        super().__init__()
        self._rubric_list = list(rubrics)
        _name_children(self, rubrics)

    def forward(self, action: Any, observation: Any) -> Any:
        """Return the score, or a coroutine where a child gave one."""
        score: Any = 1.0
        for number, rubric in enumerate(self._rubric_list):
            score = rubric(action, observation)
            if inspect.iscoroutine(score):
                return self._rest(action, observation, score, number + 1)
            if score == 0.0:
                break
        return score

    def __call__(self, action: Any, observation: Any) -> Any:
        """Return the score; inside an event loop it may be awaited whatever the children are."""
        score = super().__call__(action, observation)
        if inspect.iscoroutine(score) or not is_in_loop():
            return score
        return _Score(score)

    async def _rest(self, action: Any, observation: Any, score: Awaitable[Any], start: int) -> Any:
        """The score from an async child on."""
        result = await score
        for rubric in self._rubric_list[start:]:
            if result == 0.0:
                break
            result = await _settled(rubric(action, observation))
        return result

    def __len__(self) -> int:
        return len(self._rubric_list)

    def __getitem__(self, index: int) -> Rubric:
        return self._rubric_list[index]


class Gate(Rubric):
    """A rubric whose score counts from a threshold on, and is 0 below."""

    def __init__(self, rubric: Rubric, threshold: float = 1.0) -> None:
        super().__init__()
        self.rubric = rubric
        self.threshold = threshold

    def forward(self, action: Any, observation: Any) -> Any:
        """Return the score, or a coroutine where the child gave one."""
        score = self.rubric(action, observation)
        return self._passed_async(score) if inspect.iscoroutine(score) else self._passed(score)

    def _passed(self, score: Any) -> Any:
        return 0.0 if score < self.threshold else score

    async def _passed_async(self, score: Awaitable[Any]) -> Any:
        return self._passed(await score)


class WeightedSum(Rubric):
    """The weighted sum of rubrics; async ones run at the same time.

    Raises:
        ValueError: there are more weights or fewer than rubrics, or their sum is not 1.
    """

    def __init__(self, rubrics: Sequence[Rubric], weights: Sequence[float]) -> None:
        super().__init__()
        if len(rubrics) != len(weights):
            raise ValueError(
                f"Number of rubrics ({len(rubrics)}) must match number of weights ({len(weights)})"
            )
        if abs(sum(weights) - 1.0) > _TOLERANCE:
            raise ValueError(f"Weights must sum to 1.0, got {sum(weights)}")
        self._rubric_list = list(rubrics)
        self._weights = list(weights)
        _name_children(self, rubrics)

    def forward(self, action: Any, observation: Any) -> Any:
        """Return the score, or a coroutine where a child gave one."""
        scores: list[Any] = []
        try:
            scores.extend(rubric(action, observation) for rubric in self._rubric_list)
        except BaseException:
            for score in filter(inspect.iscoroutine, scores):
                score.close()
            raise
        return (
            self._gathered(scores) if any(map(inspect.iscoroutine, scores)) else self._sum(scores)
        )

    def _sum(self, scores: Sequence[Any]) -> Any:
        total = 0.0
        for score, weight in zip(scores, self._weights, strict=True):
            total += score * weight
        return total

    async def _gathered(self, scores: Sequence[Any]) -> Any:
        tasks = [asyncio.ensure_future(_settled(score)) for score in scores]
        try:
            return self._sum(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @property
    def weights(self) -> list[float]:
        """The weights, in a list of their own."""
        return list(self._weights)


def _name_children(parent: Rubric, rubrics: Sequence[Rubric]) -> None:
    """Make rubrics children by their number."""
    for number, rubric in enumerate(rubrics):
        setattr(parent, f"rubric_{number}", rubric)


class RubricList(Rubric):
    """Rubrics by number, for a parent that chooses among them; it gives no score itself."""

    def __init__(self, rubrics: Sequence[Rubric] | None = None) -> None:
        super().__init__()
        self._rubrics: list[Rubric] = []
        self.extend(rubrics or ())

    def forward(self, action: Any, observation: Any) -> float:
        """Refuse: the parent calls one of them."""
        raise NotImplementedError(
            "RubricList.forward() is not implemented: call one of its rubrics in the forward() of"
            " the rubric that has the list"
        )

    def append(self, rubric: Rubric) -> None:
        """Add a rubric at the end."""
        setattr(self, f"rubric_{len(self._rubrics)}", rubric)
        self._rubrics.append(rubric)

    def extend(self, rubrics: Sequence[Rubric]) -> None:
        """Add rubrics at the end."""
        for rubric in rubrics:
            self.append(rubric)

    def __len__(self) -> int:
        return len(self._rubrics)

    def __getitem__(self, index: int) -> Rubric:
        return self._rubrics[index]

    def __iter__(self) -> Iterator[Rubric]:
        return iter(self._rubrics)


class RubricDict(Rubric):
    """Rubrics by name, for a parent that chooses among them; it gives no score itself.

    Each is an attribute too, unless the class has one of that name.
    """

    def __init__(self, rubrics: Mapping[str, Rubric] | None = None) -> None:
        super().__init__()
        self._rubric_dict: dict[str, Rubric] = {}
        self.update(rubrics or {})

    def forward(self, action: Any, observation: Any) -> float:
        """Refuse: the parent calls one of them."""
        raise NotImplementedError(
            "RubricDict.forward() is not implemented: call one of its rubrics in the forward() of"
            " the rubric that has the dict"
        )

    def __setitem__(self, key: str, rubric: Rubric) -> None:
        self._rubric_dict[key] = self._rubric_children[key] = rubric
        if not hasattr(type(self), key) and key not in self.__dict__:
            object.__setattr__(self, key, rubric)

    def __getitem__(self, key: str) -> Rubric:
        return self._rubric_dict[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rubric_dict

    def __len__(self) -> int:
        return len(self._rubric_dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rubric_dict)

    def keys(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._rubric_dict.keys())

    def values(self) -> Iterator[Rubric]:
        """Return the rubrics."""
        return iter(self._rubric_dict.values())

    def items(self) -> Iterator[tuple[str, Rubric]]:
        """Return the names with their rubrics."""
        return iter(self._rubric_dict.items())

    def update(self, rubrics: Mapping[str, Rubric]) -> None:
        """Add rubrics by name, in place of those that have it."""
        for key, rubric in rubrics.items():
            self[key] = rubric


# -- whole episodes ---------------------------------------------------------------------------


class TrajectoryRubric(Rubric):
    """A rubric that scores whole episodes: it keeps the steps until one says ``done``.

    Args:
        intermediate_reward: the score of every step before the last.
    """

    def __init__(self, intermediate_reward: float = 0.0) -> None:
        super().__init__()
        self.intermediate_reward = intermediate_reward
        self._trajectory: list[tuple[Any, Any]] = []

    def forward(self, action: Any, observation: Any) -> Any:
        """Keep the step and return its score."""
        self._trajectory.append((action, observation))
        if getattr(observation, "done", False):
            return self.score_trajectory(self._trajectory)
        return self.intermediate_reward

    @abstractmethod
    def score_trajectory(self, trajectory: list[tuple[Any, Any]]) -> Any:
        """Return the score of an episode, its actions with their observations."""

    @abstractmethod
    def compute_step_rewards(self) -> list[float]:
        """Return a reward for each step kept: how the score is shared among them."""

    def reset(self) -> None:
        """Forget the steps."""
        self._trajectory = []

    @property
    def trajectory(self) -> list[tuple[Any, Any]]:
        """The steps kept, in a list of their own."""
        return list(self._trajectory)

    def state_dict(self) -> dict[str, Any]:
        """Return the settings; the steps are none."""
        return {"intermediate_reward": self.intermediate_reward}


class ExponentialDiscountingTrajectoryRubric(TrajectoryRubric):
    """A rubric of whole episodes whose score is discounted by the steps to the end.

    Args:
        gamma: discount of a step, from 0 (all for the last step) to 1 (the same for each).
        intermediate_reward: the score of every step before the last.

    Raises:
        ValueError: ``gamma`` is not between 0 and 1.
    """

    def __init__(self, gamma: float = 0.99, intermediate_reward: float = 0.0) -> None:
        super().__init__(intermediate_reward)
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}")
        self.gamma = gamma

    def compute_step_rewards(self) -> list[float]:
        """Return the score of the episode, discounted, for each of its steps."""
        if not self._trajectory:
            return []
        score = self.score_trajectory(self._trajectory)
        last = len(self._trajectory) - 1
        return [score * self.gamma ** (last - step) for step in range(last + 1)]

    def state_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {**super().state_dict(), "gamma": self.gamma}


# -- a model as the judge ---------------------------------------------------------------------


class _Completes(Protocol):
    """A client of a language model, as far as a judge needs one."""

    async def complete(self, prompt: str) -> str: ...


class LLMJudge(Rubric):
    """A rubric that asks a language model for the score.

    Args:
        prompt_template: the question, with ``{action}`` and ``{observation}``.
        client: what answers it: any object with ``async def complete(prompt)``.
        score_pattern: regular expression of the score in the answer, its first group if it has
            one; the first number by default.
        default_score: the score where the answer has none.
        normalize: whether to cut the score to what lies between 0 and 1.
    """

    def __init__(
        self,
        prompt_template: str,
        client: _Completes,
        *,
        score_pattern: str | None = None,
        default_score: float = 0.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.prompt_template = prompt_template
        self._client = client
        self._score_pattern = re.compile(score_pattern or _NUMBER)
        self.default_score = default_score
        self.normalize = normalize

    @property
    def score_pattern(self) -> str:
        """The regular expression of the score."""
        return self._score_pattern.pattern

    @score_pattern.setter
    def score_pattern(self, pattern: str) -> None:
        self._score_pattern = re.compile(pattern)

    async def forward(self, action: Any, observation: Any) -> float:
        """Return the score that the model gives."""
        prompt = self._render_prompt(action, observation)
        return self._parse_score(await self._client.complete(prompt))

    def _render_prompt(self, action: Any, observation: Any) -> str:
        """Return the question; override it for another one."""
        return self.prompt_template.format(action=action, observation=observation)

    def _parse_score(self, response: str) -> float:
        """Return the score in an answer."""
        found = self._score_pattern.search(response)
        if found is None:
            return self.default_score
        try:
            score = float(found.group(1 if found.lastindex else 0))
        except (TypeError, ValueError):  # the group is empty, or no number
            return self.default_score
        return max(0.0, min(1.0, score)) if self.normalize else score

    def state_dict(self) -> dict[str, Any]:
        """Return the settings."""
        names = ("prompt_template", "score_pattern", "default_score", "normalize")
        return {name: getattr(self, name) for name in names}
