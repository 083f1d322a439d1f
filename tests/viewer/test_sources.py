"""Sources: what the index has, files that grow, are cut, broken or replaced, and searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openenv_async import OutcomeStatus
from openenv_async.errors import InvalidOption
from openenv_async.rollouts import open_writer
from openenv_async.rollouts.run_folder import RunFolder
from openenv_async.viewer import EpisodeSource, open_source
from tests.rollouts.run_folders import outcome, recorded, write
from tests.viewer.samples import agent_episode, frames_episode, quick_episode, write_sample


def read(path: Path) -> EpisodeSource:
    source = open_source(path)
    source.refresh()
    assert source.is_current
    return source


def column(source: EpisodeSource, name: str) -> list[Any]:
    return [source.columns.row(row)[name] for row in range(len(source.columns))]


def test_a_run_has_its_outcomes_and_facts(tmp_path: Path) -> None:
    source = read(recorded(tmp_path / "run", 6))
    assert column(source, "return") == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert column(source, "task")[:3] == ["task-0", "task-0", "task-1"]
    assert column(source, "result") == ["good"] * 6
    assert (source.lost, source.under_way, source.notices) == (1, 0, [])
    assert source.facts()["wanted"] == 8
    assert source.facts()["tasks"] == {"file": "tasks.jsonl"}


def test_a_run_that_is_written_grows_and_a_later_line_replaces(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder.create(path) as folder:
        write(folder, outcome(0))
        source = read(path)
        assert not source.refresh()
        write(folder, outcome(1, status=OutcomeStatus.ENV_ERROR, episode_return=None))
        assert source.refresh()
        assert column(source, "status") == ["completed", "env_error"]
    epoch = source.columns.epoch
    with RunFolder.open(path, retry_failed=True) as folder:
        write(folder, outcome(1))
    assert source.refresh()
    assert column(source, "status") == ["completed", "completed"]
    assert source.columns.epoch > epoch
    assert json.loads(source.record(1))["episode"]["status"] == "completed"


def test_a_manifest_that_cannot_be_read_costs_no_episode(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run", 4)
    (path / "manifest.json").write_text("{")
    source = read(path)
    assert len(source.columns) == 4
    [notice] = source.notices
    assert "manifest.json cannot be read" in notice


def test_a_line_that_is_cut_is_said_and_read_when_it_is_whole(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.jsonl", 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    source = read(path)
    assert len(source.columns) == 2
    assert "is not whole" in source.notices[0]
    with path.open("ab") as file:
        file.write(whole[-100:])
    assert source.refresh()
    assert (len(source.columns), source.notices) == (3, [])


def test_a_last_line_without_its_end_is_read_once(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.jsonl", 2)
    path.write_bytes(path.read_bytes()[:-1])
    source = read(path)
    assert len(source.columns) == 2
    with path.open("ab") as file:
        file.write(b"\n")
    source.refresh()
    assert (len(source.columns), source.notices) == (2, [])


def test_broken_lines_are_said_and_passed_over(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.jsonl", 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"{broken\n" + b"[]\n" + b"\n" + second)
    source = read(path)
    assert column(source, "index") == [0, 1]
    assert source.notices == ["a line of a.jsonl is broken or no episode: it is missing (2 times)"]


def test_values_of_other_kinds_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = {"index": "seven", "steps": 2, "episode_return": [], "task_id": "t", "transitions": [1]}
    path.write_text(json.dumps(line) + "\n")
    source = read(path)
    row = source.columns.row(0)
    assert (row["task"], row["steps"], row["index"], row["return"]) == ("t", 2, None, None)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.jsonl", 5)
    source = read(path)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[4])
    assert source.refresh()
    assert column(source, "index") == [4]


def test_reading_stops_in_time_and_goes_on(tmp_path: Path) -> None:
    source = open_source(write_sample(tmp_path / "a.jsonl", 200))
    source.refresh(0.0)
    assert not source.is_current
    assert 0 < len(source.columns) < 200
    for _ in range(20):
        source.refresh(0.0)
    assert column(source, "index") == list(range(200))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_sums_of_the_steps(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    episode = quick_episode(7)
    with open_writer(path) as writer:
        writer.write(episode)
        writer.write(agent_episode(8))
        writer.write(frames_episode(9, 2))
    source = read(path)
    seconds = [step.timings["model"] for step in episode.transitions if step.timings]
    assert column(source, "model")[:2] == pytest.approx([sum(seconds), 4.0])
    assert column(source, "calls") == [episode.steps, 6, 0]
    sampled = [
        len(call.completion_ids or ()) for step in episode.transitions for call in step.model_calls
    ]
    assert column(source, "tokens") == [sum(sampled), 6 * 24, 0]
    assert column(source, "group")[0] == "1"
    record = json.loads(source.record(1))
    assert record["transitions"][0]["model_calls"][2]["extra"]["relation"] == "subagent"
    assert json.loads(source.record(2))["transitions"][0]["observation"]["__ndarray__"][1] == [
        48,
        64,
        3,
    ]


def test_a_long_record_comes_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_writer(path) as writer:
        writer.write(frames_episode(0, 5))
    source = read(path)
    part = json.loads(source.record(0, 0, max_size=30_000))
    assert (part["first"], len(part["transitions"]), part["total"]) == (0, 2, 5)
    part = json.loads(source.record(0, 4, max_size=1))
    assert [step["t"] for step in part["transitions"]] == [4]
    with pytest.raises(InvalidOption, match="no episode 1"):
        source.record(1)


def test_a_file_of_parquet_that_is_none_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    source = read(path)
    assert len(source.columns) == 0
    assert "cannot be read as Parquet" in source.notices[0]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_texts_of_records_are_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with open_writer(path) as writer:
        for number in range(3):
            episode = quick_episode(number)
            episode.final_observation = f'said "Grüße {number}"\n'
            writer.write(episode)
    source = read(path)
    assert source.search('"grüße 1"\n') == ([1], True)
    assert source.search("nobody said this") == ([], True)
    assert not source.search("Grüße", seconds=-1).whole
