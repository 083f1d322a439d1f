"""Trajectories as a Hugging Face dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openenv_async import EpisodeInfo, Outcome, OutcomeStatus
from openenv_async.errors import EnvironmentRaised
from openenv_async.rollouts import Trajectory, Transition, open_writer
from openenv_async.rollouts.datasets import to_dataset


def trajectory(index: int, observations: list[Any], **changes: Any) -> Trajectory:
    made = Trajectory(index)
    made.begin(EpisodeInfo(f"e{index}", index))
    made.transitions = [
        Transition(t, value, t, None if t else 1.5, info={"t": t})
        for t, value in enumerate(observations[:-1])
    ]
    made.final_observation = observations[-1]
    outcome = Outcome(index, OutcomeStatus.COMPLETED, made.episode_id and EpisodeInfo("e", 1))  # type: ignore[arg-type]  # has one
    for name, value in {"episode_return": 1.5, "steps": len(observations) - 1, **changes}.items():
        setattr(outcome, name, value)
    made.finish(outcome)
    return made


def test_a_row_is_a_step(tmp_path: Path) -> None:
    arrays = [np.full(2, value, np.float32) for value in range(3)]
    failed = trajectory(
        1,
        arrays[:2],
        status=OutcomeStatus.ENV_ERROR,
        episode_return=None,
        error=EnvironmentRaised("it broke"),
    )
    made = to_dataset([trajectory(0, arrays), failed])
    assert len(made) == 3
    assert made["observation"][:] == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert made["next_observation"][:] == [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]]
    assert made["action"][:] == [0, 1, 0]
    assert made["reward"][:] == [1.5, None, 1.5]
    assert made["episode_return"][:] == [1.5, 1.5, None]
    assert made["status"][:] == ["completed", "completed", "env_error"]
    assert json.loads(made[1]["info"]) == {"t": 1}
    path = tmp_path / "a.jsonl"
    with open_writer(path) as writer:
        writer.write(Outcome(0, OutcomeStatus.COMPLETED, trajectory=trajectory(0, arrays)))
    assert to_dataset(path)["observation"][:] == made["observation"][:2]


def test_a_row_is_an_episode() -> None:
    made = to_dataset([trajectory(0, ["a", "b", "c"]), trajectory(1, ["d"])], rows="episode")
    assert made["observation"][:] == [["a", "b", "c"], ["d"]]
    assert made["action"][:] == [[0, 1], []]
    assert made["error_code"][:] == [None, None]


def test_what_has_no_one_type_is_json() -> None:
    mixed = [{"a": 1}, "text", np.zeros((1,), np.int8)]
    made = to_dataset([trajectory(0, mixed)])
    assert [json.loads(text) for text in made["observation"]] == [{"a": 1}, "text"]
    assert "__ndarray__" in made["next_observation"][1]
    ragged = to_dataset([trajectory(0, [np.zeros(1), np.zeros(2), np.zeros(1)])])
    assert isinstance(ragged["observation"][0], str)


def test_rows_are_steps_or_episodes() -> None:
    with pytest.raises(ValueError, match="'step' or 'episode', got 'steps'"):
        to_dataset([], rows="steps")  # type: ignore[arg-type]  # the point
