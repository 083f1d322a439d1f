"""Parquet: files of earlier releases are read, and gone on with."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openenv_async import Outcome, OutcomeStatus
from openenv_async.rollouts import Trajectory, open_writer, read_header, read_trajectories

DATA = Path(__file__).parent / "data"
"""Files as release 0.1.0 wrote them, before it had headers."""


def check_first_release(read: list[Trajectory], versions: list[int]) -> None:
    first, second, failed = read
    for index, each in enumerate((first, second)):
        assert (each.index, each.episode_id, each.seed) == (index, f"episode-{index}", 7 + index)
        assert (each.status, each.episode_return) == (OutcomeStatus.COMPLETED, 1.5)
        one, two = each.transitions
        assert one.observation["pixels"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert one.observation["pixels"].dtype == np.uint8
        assert type(one.observation["x"]) is np.float32
        assert (one.action, one.reward, one.info, one.extra) == (1, None, {}, {"value": 0.5})
        assert math.isnan(two.observation[0])
        assert two.action == {"raw": b"\x00", 3: "three"}
        assert (two.reward, two.terminated, two.info) == (1.5, True, {"k": 3})
        assert each.final_observation == [1, 2.5, {"a": math.inf}]
        assert (each.reset_reward, each.reset_info) == (0.25, {"lives": 3})
    assert first.extra == {"task": "maze", "weights": [1, 2]}
    assert second.extra == {"task": "maze", "weights": [1, 2], "versions": versions, "stale": True}
    assert (second.group, second.member) == (2, 1)
    assert (failed.seed, failed.status, failed.error_message) == (2**63, "env_error", "it broke")
    assert failed.transitions == []


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_of_the_first_release_is_read_copied_and_gone_on_with(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"trajectories-1.{suffix}"
    shutil.copy(DATA / path.name, path)
    read = list(read_trajectories(path))
    check_first_release(read, [3, 4])
    assert read_header(path) is None
    with open_writer(path, append=True) as writer:
        writer.write(Outcome(3, OutcomeStatus.CANCELLED))
    *again, last = read_trajectories(path)
    check_first_release(again, [3, 4])
    assert (last.index, last.status) == (3, "cancelled")
    assert read_header(path) is not None
    for other in ("jsonl", "parquet"):
        copy = tmp_path / f"copy.{other}"
        with open_writer(copy) as writer:
            for trajectory in read:
                writer.write(trajectory)
        check_first_release(list(read_trajectories(copy)), [3, 4])


def test_what_a_crash_of_the_first_release_left_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    parts = tmp_path / "file.parquet.parts"
    parts.mkdir()
    shutil.copy(DATA / "trajectories-1.parquet", parts / "000000.parquet")
    shutil.copy(DATA / "trajectories-1.jsonl", parts / "000001.jsonl")
    with (parts / "000001.jsonl").open("ab") as journal:
        journal.write(b'{"index":3,"episode_id"')

    def check(read: list[Any]) -> None:
        check_first_release(read[:3], [3, 4])
        check_first_release(read[3:6], [3, 4])

    check(list(read_trajectories(path)))
    with open_writer(path, append=True) as writer:
        writer.write(Outcome(3, OutcomeStatus.CANCELLED))
    read = list(read_trajectories(path))
    check(read)
    assert [each.index for each in read] == [0, 1, 2, 0, 1, 2, 3]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
