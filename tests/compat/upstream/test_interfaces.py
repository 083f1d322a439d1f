"""Upstream's base class of environments: transforms, rubrics and what is inherited."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from openenv_async.compat.upstream.interfaces import (
    CompositeTransform,
    Environment,
    NullTransform,
    Transform,
    load_environment_metadata,
)
from openenv_async.compat.upstream.types import Action, Observation, State


class Doubling(Transform[Observation]):
    def __call__(self, observation: Observation) -> Observation:
        observation.reward = (observation.reward or 0) * 2
        return observation


class Counter(Environment[Action, Observation, State]):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._state = State()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any
    ) -> Observation:
        self._reset_rubric()
        self._state = State(episode_id=episode_id)
        return Observation()

    def step(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        self._state.step_count += 1
        observation = Observation(metadata={"timeout_s": timeout_s})
        observation.reward = self._apply_rubric(action, observation)
        return self._apply_transform(observation)

    @property
    def state(self) -> State:
        return self._state


class Threes:
    """A rubric as far as an environment needs one."""

    def __init__(self) -> None:
        self.resets = 0

    def __call__(self, action: Action, observation: Observation) -> float:
        return 3.0

    def reset(self) -> None:
        self.resets += 1


class AsyncThrees(Threes):
    async def __call__(self, action: Action, observation: Observation) -> float:  # type: ignore[override]  # rubrics may be async
        return 3.0

    async def reset_async(self) -> None:
        self.resets += 10


def test_a_class_without_its_methods_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Environment()  # type: ignore[abstract]  # the mistake that is tested


def test_without_rubric_and_transform_nothing_is_changed() -> None:
    env = Counter()
    env.reset()
    assert env.step(Action()).reward == 0.0
    assert Counter.SUPPORTS_CONCURRENT_SESSIONS is False
    assert env.get_metadata().name == "Counter"
    assert (env.render_web({}), env.web_actions({})) == (None, [])


def test_rubric_then_transforms() -> None:
    rubric = Threes()
    transform = CompositeTransform([Doubling(), NullTransform(), Doubling()])
    env = Counter(rubric=rubric, transform=transform)
    env.reset()
    assert env.step(Action()).reward == 12.0
    assert rubric.resets == 1


async def test_the_async_calls_are_the_sync_ones_by_default() -> None:
    env = Counter()
    await env.reset_async(episode_id="e")
    observation = await env.step_async(Action(), timeout_s=2.0)
    assert observation.metadata == {"timeout_s": 2.0}
    assert env.state.model_dump() == {"episode_id": "e", "step_count": 1}


async def test_a_rubric_may_be_async() -> None:
    rubric = AsyncThrees()
    env = Counter(rubric=rubric)
    assert await env._apply_rubric_async(Action(), Observation()) == 3.0
    await env._reset_rubric_async()
    assert rubric.resets == 10
    plain = Threes()
    other = Counter(rubric=plain)
    assert await other._apply_rubric_async(Action(), Observation()) == 3.0
    await other._reset_rubric_async()
    assert plain.resets == 1


def test_what_an_environment_says_of_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_environment_metadata(Counter()).name == "Counter"
    made = functools.partial(Counter)
    assert load_environment_metadata(made).description == "Counter environment"
    assert load_environment_metadata(lambda: Counter(), "count").name == "count"
    readme = tmp_path / "README.md"
    monkeypatch.setenv("ENV_README_PATH", str(readme))
    assert load_environment_metadata(Counter, "count").readme_content is None
    readme.write_text("# Count")
    assert load_environment_metadata(Counter).readme_content == "# Count"
