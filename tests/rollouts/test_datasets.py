"""Trajectories as a Hugging Face dataset, as data frames, and as other programs read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from openenv_async import Environment, EpisodeInfo, Outcome, OutcomeStatus, StepResult
from openenv_async.errors import EnvironmentRaised
from openenv_async.rollouts import (
    Trajectory,
    Transition,
    collect,
    open_writer,
    read_trajectories,
)
from openenv_async.rollouts.datasets import to_dataframe, to_dataset
from openenv_async.types import Mistake, ModelCall


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


def mistaken() -> Trajectory[Any, Any]:
    made = trajectory(0, [{"x": 1}, {"x": 2}, {"x": 2}])
    call = ModelCall(
        [{"role": "user", "content": "go"}],
        {"role": "assistant", "content": "hm"},
        prompt_ids=[1, 2],
        completion_ids=[3],
        logprobs=[-0.5],
        mask=[1],
        weight_version=7,
        seconds=0.25,
    )
    mistake = Mistake("unreadable_reply", "write JSON", "unreadable_reply")
    made.transitions[1] = Transition(1, {"x": 2}, "hm", mistake=mistake, model_calls=[call])
    return made


def test_mistakes_and_calls_of_models_have_columns_and_leave_actions_typed(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with open_writer(path) as writer:
        writer.write(mistaken())
    for source in ([mistaken()], path):
        steps = to_dataframe(source, library="polars")
        assert steps["action"].to_list() == [0, None]
        assert steps["action"].dtype.is_integer()
        assert steps["mistake"].to_list() == [None, "unreadable_reply"]
        assert steps["mistake_message"].to_list() == [None, "write JSON"]
        assert steps["mistake_action"].to_list() == [None, '"hm"']
        [nothing, [call]] = steps["model_calls"].to_list()
        assert nothing == []
        assert (call["prompt_ids"], call["completion_ids"], call["logprobs"]) == (
            [1, 2],
            [3],
            [-0.5],
        )
        assert json.loads(call["messages"]) == [{"role": "user", "content": "go"}]
        assert json.loads(call["reply"]) == {"role": "assistant", "content": "hm"}
        assert (call["weight_version"], call["seconds"], call["continues"]) == ("7", 0.25, True)
        assert steps["next_observation"].to_list() == [{"x": 2}, {"x": 2}]
        [episode] = to_dataset(source, rows="episode")
        assert episode["action"] == [0, None]
        assert episode["mistake"] == [None, "unreadable_reply"]
        assert episode["model_calls"][1][0]["completion_ids"] == [3]
        assert episode["observation"] == [{"x": 1}, {"x": 2}, {"x": 2}]


def test_rows_are_steps_or_episodes() -> None:
    with pytest.raises(ValueError, match="'step' or 'episode', got 'steps'"):
        to_dataset([], rows="steps")  # type: ignore[arg-type]  # the point


# -- data frames, and programs that read the files ------------------------------------------------


class Place(Environment[int, dict[str, Any], int]):
    """Observations of every typed kind."""

    def reset(self, seed: int = 0) -> dict[str, Any]:
        self.x = seed
        return self.seen()

    def step(self, action: int) -> StepResult[dict[str, Any]]:
        self.x += action
        return StepResult(self.seen(), 0.5, terminated=self.x >= 12)

    def seen(self) -> dict[str, Any]:
        return {
            "x": self.x,
            "height": self.x / 2,
            "name": f"at {self.x}",
            "place": np.array([self.x, 0.5], np.float32),
            "frame": np.full((40, 40, 3), self.x % 256, np.uint8),
        }


class Plain(Place):
    """The same without arrays, whose tagged objects polars does not read from JSON Lines."""

    def seen(self) -> dict[str, Any]:
        return {name: value for name, value in super().seen().items() if name in PLAIN}


PLAIN = ("x", "height", "name")


async def played(path: Path, environment: type[Place] = Place) -> list[Trajectory[Any, Any]]:
    """Write the file of a real rollout; return its episodes, sorted."""
    with open_writer(path) as writer:
        async for outcome in collect(environment, lambda seen: 3, episodes=6, seeds=0):
            writer.write(outcome)
    return sorted(read_trajectories(path), key=lambda each: each.index)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_a_data_frame_has_numbers_as_numbers(
    tmp_path: Path, library: Literal["pandas", "polars"], suffix: str
) -> None:
    pytest.importorskip(library)
    path = tmp_path / f"file.{suffix}"
    episodes = await played(path)
    steps = to_dataframe(path, library=library)
    assert len(steps) == sum(each.steps for each in episodes)
    assert set(steps["reward"]) == {0.5}
    assert float(steps["reward"].sum()) == 0.5 * len(steps)
    assert set(steps["action"]) == {3}
    assert sorted(steps["observation"][0]) == ["frame", "height", "name", "place", "x"]
    whole = to_dataframe(episodes, rows="episode", library=library)
    assert list(whole["index"]) == list(range(6))
    assert list(whole["steps"]) == [each.steps for each in episodes]
    returns = [each.episode_return for each in episodes]
    assert list(whole["episode_return"]) == returns


def test_a_data_frame_of_what_is_none() -> None:
    with pytest.raises(ValueError, match="rows must be"):
        to_dataframe([], rows="steps")  # type: ignore[arg-type]  # the point
    with pytest.raises(ValueError, match="library must be 'pandas' or 'polars'"):
        to_dataframe([], library="excel")  # type: ignore[arg-type]  # the point


def test_a_data_frame_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ModuleNotFoundError, match="pip install polars"):
        to_dataframe([], library="polars")


def _of_pandas(path: Path) -> list[list[dict[str, Any]]]:
    pandas = pytest.importorskip("pandas")
    if path.suffix == ".parquet":
        frame = pandas.read_parquet(path)
    else:
        frame = pandas.read_json(path, lines=True)
    assert frame["index"].dtype.kind == "i"
    assert frame["episode_return"].dtype.kind == "f"
    return [list(steps) for steps in frame.sort_values("index")["transitions"]]


def _of_polars(path: Path) -> list[list[dict[str, Any]]]:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(path) if path.suffix == ".parquet" else polars.read_ndjson(path)
    assert frame["index"].dtype.is_integer()
    assert frame["episode_return"].dtype.is_float()
    steps = frame.sort("index")["transitions"].to_list()
    return [list(each) for each in steps]


def _of_duckdb(path: Path) -> list[list[dict[str, Any]]]:
    duckdb = pytest.importorskip("duckdb")
    read = "read_parquet" if path.suffix == ".parquet" else "read_json"
    with duckdb.connect() as database:
        [(total, kind)] = database.sql(
            f"select sum(episode_return), typeof(any_value(index)) from {read}('{path}')"
        ).fetchall()
        assert total > 0
        assert kind == "BIGINT"
        rows = database.sql(f"select transitions from {read}('{path}') order by index").fetchall()
    return [row[0] for row in rows]


def _of_datasets(path: Path) -> list[list[dict[str, Any]]]:
    datasets = pytest.importorskip("datasets")
    kind = "parquet" if path.suffix == ".parquet" else "json"
    made = datasets.load_dataset(
        kind, data_files=str(path), split="train", cache_dir=str(path.parent / "cache")
    )
    assert made.features["index"].dtype == "int64"
    assert made.features["episode_return"].dtype == "float64"
    return [row["transitions"] for row in sorted(made, key=lambda row: int(row["index"]))]


@pytest.mark.parametrize("read", [_of_pandas, _of_polars, _of_duckdb, _of_datasets])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_other_programs_read_numbers_as_numbers(
    tmp_path: Path, read: Callable[[Path], list[list[dict[str, Any]]]], suffix: str
) -> None:
    path = tmp_path / f"file.{suffix}"
    lacks_arrays = suffix == "jsonl" and read is _of_polars
    episodes = await played(path, Plain if lacks_arrays else Place)
    read_steps = read(path)
    assert [len(steps) for steps in read_steps] == [each.steps for each in episodes]
    for steps, episode in zip(read_steps, episodes, strict=True):
        for step, recorded in zip(steps, episode.transitions, strict=True):
            seen, observation = step["observation"], recorded.observation
            assert (step["t"], step["reward"], step["action"]) == (recorded.t, 0.5, 3)
            assert type(step["reward"]) is float
            assert (seen["x"], seen["height"]) == (observation["x"], observation["x"] / 2)
            assert (type(seen["x"]), type(seen["height"])) == (int, float)
            assert seen["name"] == observation["name"]
            if suffix == "parquet":
                assert list(seen["place"]) == observation["place"].tolist()
                assert seen["frame"].startswith(b"\x89PNG")
