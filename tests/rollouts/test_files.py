"""Trajectories in files: what is written is read back, also after a crash."""

from __future__ import annotations

import errno
import inspect
import io
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it has none
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async import EpisodeInfo, Outcome, OutcomeStatus, serve
from openenv_async.errors import EnvironmentRaised, InvalidModel
from openenv_async.rollouts import (
    JsonlWriter,
    ParquetWriter,
    StreamedEpisode,
    Trajectory,
    Transition,
    collect,
    open_writer,
    parquet,
    read_header,
    read_trajectories,
)
from openenv_async.rollouts.files import _write_line, mend_last_line
from tests.rollouts.environments import Counting, RaisesInStep, Seen

SUFFIXES = ("jsonl", "parquet")


def outcome(index: int, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "status": OutcomeStatus.COMPLETED,
        "episode": EpisodeInfo(f"episode-{index}", index),
        "episode_return": 1.5,
        "steps": 2,
        "duration": 0.25,
        **changes,
    }
    made = Outcome(index, **values)
    trajectory = Trajectory(index)
    trajectory.begin(made.episode)
    trajectory.transitions = [
        Transition(0, {"pixels": np.arange(6, dtype=np.uint8).reshape(2, 3)}, 1, None),
        Transition(1, [math.nan, None, "×"], {"raw": b"\x00"}, 1.5, True, False, {"k": np.int8(3)}),
    ]
    trajectory.final_observation = Seen(4, 2)
    trajectory.reset_info = {"lives": 3}
    trajectory.finish(made)
    made.trajectory = trajectory
    return made


def check(read: Trajectory, index: int) -> None:
    assert (read.index, read.episode_id, read.seed) == (index, f"episode-{index}", index)
    assert (read.status, read.episode_return, read.steps) == (OutcomeStatus.COMPLETED, 1.5, 2)
    first, second = read.transitions
    assert first.observation["pixels"].dtype == np.uint8
    assert first.observation["pixels"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (first.t, first.action, first.reward, first.terminated) == (0, 1, None, False)
    assert math.isnan(second.observation[0])
    assert second.observation[1:] == [None, "×"]
    assert second.action == {"raw": b"\x00"}
    assert (second.reward, second.terminated, second.truncated) == (1.5, True, False)
    assert second.info == {"k": 3}
    assert read.final_observation == {"total": 4, "seed": 2}
    assert read.reset_info == {"lives": 3}
    assert read.reset_reward is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"file.{suffix}"
    with open_writer(path) as writer:
        for index in range(3):
            writer.write(outcome(index))
        writer.close()  # closing twice does nothing
    read = list(read_trajectories(path))
    assert len(read) == 3
    for index, trajectory in enumerate(read):
        check(trajectory, index)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failures_and_unrecorded_episodes_are_rows_without_rewards(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"file.{suffix}"
    error = EnvironmentRaised("it broke", phase="step", log_tail="the last line")
    with open_writer(path) as writer:
        writer.write(
            Outcome(0, OutcomeStatus.ENV_ERROR, error=error, steps=3, episode=EpisodeInfo("a", 1))
        )
        writer.write(Outcome(1, OutcomeStatus.CANCELLED))
        writer.write(Outcome(2, OutcomeStatus.INFRA_ERROR, error=OSError("no net")))
    failed, cancelled, lost = read_trajectories(path)
    assert (failed.status, failed.error_code, failed.error_message) == (
        OutcomeStatus.ENV_ERROR,
        "environment_raised",
        "it broke",
    )
    assert failed.error_detail == {"phase": "step", "log_tail": "the last line"}
    assert cancelled.error_detail is None
    assert (failed.episode_return, failed.steps, failed.seed) == (None, 3, 1)
    assert (cancelled.status, cancelled.episode_id, cancelled.transitions) == (
        "cancelled",
        None,
        [],
    )
    assert lost.error_code == "OSError"


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_what_is_collected_is_what_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    outcomes = []
    async with serve(Counting) as url:
        with open_writer(path) as writer:
            async for each in collect(url, lambda o: {"amount": 1}, episodes=20, seeds=0):
                writer.write(each)
                outcomes.append(each)
    assert [t.index for t in read_trajectories(path)] == [o.index for o in outcomes]
    header = read_header(path)
    assert header is not None
    assert outcomes[0].trajectory is not None
    environment = outcomes[0].trajectory.environment
    assert (
        header["environment"]
        == environment
        == {
            "name": "Counting",
            "version": "1.0.0",
            "params": {},
        }
    )
    assert all(t.environment == environment for t in read_trajectories(path))
    recorded = [o.trajectory.transitions for o in outcomes if o.trajectory is not None]
    assert [t.transitions for t in read_trajectories(path)] == recorded


def test_json_lines_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(outcome(0))
        check(next(read_trajectories(path)), 0)
        with path.open("ab") as file:
            file.write(b'{"index":1,"episode')  # where a crash would have cut it
        assert len(list(read_trajectories(path))) == 1
    [line] = path.read_bytes().splitlines()[:1]
    row = json.loads(line)
    assert row["transitions"][0]["observation"]["pixels"]["__ndarray__"][0] == "|u1"


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_a_whole_last_line_without_its_newline_is_kept(tmp_path: Path, start: bytes) -> None:
    """As editors and copies of a file leave it; it was dropped, and cut off by append=True."""
    path = tmp_path / "file.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(outcome(0))
        writer.write(outcome(1))
    for count in (2, 1):
        lines = path.read_bytes().removeprefix(start).splitlines()[:count]
        path.write_bytes(start + b"\n".join(lines))
        assert [t.index for t in read_trajectories(path)] == [0, 1][:count]
    with JsonlWriter(path, append=True) as writer:
        writer.write(outcome(2))
    assert [t.index for t in read_trajectories(path)] == [0, 2]


def test_finished_row_groups_survive_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    writer = ParquetWriter(path, max_group_episodes=2)
    for index in range(5):
        writer.write(outcome(index))
    # Crash: never closed. Two groups are finished, the fifth episode's is not.
    assert not path.exists()
    read = list(read_trajectories(path))
    assert [t.index for t in read] == [0, 1, 2, 3, 4]
    check(read[3], 3)
    check(read[4], 4)
    with ParquetWriter(path) as again:  # a new run begins anew
        again.write(outcome(7))
    assert [t.index for t in read_trajectories(path)] == [7]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_in_the_middle_it_loses_nothing(tmp_path: Path, suffix: str) -> None:
    """``kill -9`` of the writing process; then another goes on with the file."""
    path = tmp_path / f"file.{suffix}"
    code = (
        "import sys\n"
        "from tests.rollouts.test_files import outcome, open_writer\n"
        "writer = open_writer(sys.argv[1])\n"
        "if hasattr(writer, '_max_group_episodes'): writer._max_group_episodes = 7\n"
        "for index in range(10**6):\n"
        "    writer.write(outcome(index))\n"
        "    print(index, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        written = -1
        for line in process.stdout:
            written = int(line)
            if written == 40:
                process.kill()
        assert process.wait() == -signal.SIGKILL
    read = list(read_trajectories(path))
    assert len(read) >= written + 1 >= 41
    for index, trajectory in enumerate(read):
        check(trajectory, index)
    if suffix == "jsonl":
        with path.open("ab") as file:
            file.write(b'{"index": 7')  # where it could have been cut
    with open_writer(path, append=True) as writer:
        writer.write(outcome(len(read)))
    again = list(read_trajectories(path))
    assert [t.index for t in again] == list(range(len(read) + 1))
    with open_writer(path, append=True) as writer:
        writer.write(outcome(len(again)))
    assert len(list(read_trajectories(path))) == len(again) + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_parquet_has_typed_columns_and_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with ParquetWriter(path, max_group_size=1) as writer:
        for index in range(3):
            writer.write(outcome(index))
    table = pq.read_table(path, columns=["index", "status", "episode_return"])
    assert table.to_pydict() == {
        "index": [0, 1, 2],
        "status": ["completed"] * 3,
        "episode_return": [1.5] * 3,
    }
    with pq.ParquetFile(path) as file:
        assert file.num_row_groups == 3


def test_an_empty_file_has_no_trajectories(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"file.{suffix}"
        open_writer(path).close()
        assert list(read_trajectories(path)) == []


def test_what_is_no_trajectory_file(tmp_path: Path) -> None:
    for call in (open_writer, read_trajectories):
        with pytest.raises(ValueError, match=r"'\.csv' is not a trajectory format"):
            call(tmp_path / "file.csv")
        with pytest.raises(ValueError, match="'file' is not a trajectory format"):
            call(tmp_path / "file")
    path = tmp_path / "file.jsonl"
    path.write_text('{"nonsense": 1}\n')
    with pytest.raises(ValueError, match="line 1"):
        list(read_trajectories(path))
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError):
            list(read_trajectories(tmp_path / f"none.{suffix}"))


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match=r"openenv-async\[parquet\]"):
        open_writer(tmp_path / "file.parquet")


async def test_an_episode_that_failed_keeps_the_steps_it_had(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    async with serve(RaisesInStep) as url:
        with open_writer(path) as writer:
            async for each in collect(url, lambda o: {"amount": 1}, episodes=1):
                writer.write(each)
    [trajectory] = read_trajectories(path)
    assert trajectory.status is OutcomeStatus.ENV_ERROR
    assert trajectory.episode_return is None
    assert [t.reward for t in trajectory.transitions] == [1.0]


class Full:
    """A disk that takes a part of a line, then says that it is full."""

    def __init__(self, file: Any, takes: int) -> None:
        self.file = file
        self.takes = takes
        self.cut = True

    def write(self, data: memoryview) -> int:
        if not self.takes:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken, self.takes = min(self.takes, len(data)), 0
        return int(self.file.write(data[:taken]))

    def truncate(self, size: int) -> int:
        if not self.cut:
            raise OSError(errno.EIO, "Input/output error")
        return int(self.file.truncate(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("cut", [True, False])
def test_a_write_that_fails_spoils_no_other_line(tmp_path: Path, cut: bool) -> None:
    """Also when the part of the line cannot be removed at once: then the next write does."""
    path = tmp_path / "file.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(outcome(0))
        whole, full = writer._file, Full(writer._file, 100)
        full.cut = cut
        writer._file = full  # type: ignore[assignment]  # it has what is used
        with pytest.raises(OSError, match="No space"):
            writer.write(outcome(1))
        assert path.read_bytes().endswith(b"\n") is cut
        assert [t.index for t in read_trajectories(path)] == [0]
        writer._file = whole
        writer.write(outcome(2))
    assert [t.index for t in read_trajectories(path)] == [0, 2]


def test_a_broken_line_is_passed_over_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file.jsonl"
    with JsonlWriter(path) as writer:
        for index in range(3):
            writer.write(outcome(index))
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for broken in (second[:60] + second, b"\0" * 50 + b"\n", b"\xff\n", second[:-9] + b"\n"):
        path.write_bytes(first + broken + b"\n" + third)
        caplog.clear()
        assert [t.index for t in read_trajectories(path)] == [0, 2]
        assert "line 2 of" in caplog.text
    path.write_bytes(b"no trajectories\n" * 2)
    with pytest.raises(ValueError, match=r"no line of .* is a trajectory"):
        list(read_trajectories(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_episode_that_cannot_be_written_costs_no_other(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    spoilt = []
    for field, value in (
        ("observation", {"deep": [object()]}),
        ("action", np.array([object()])),
        ("reward", "much"),
        ("info", {"lone": "\ud800"}),
    ):
        episode = outcome(1)
        assert episode.trajectory is not None
        setattr(episode.trajectory.transitions[1], field, value)
        spoilt.append((field, episode))
    with open_writer(path) as writer:
        writer.write(outcome(0))
        for field, episode in spoilt:
            with pytest.raises(InvalidModel, match=rf"episode 1 .*transitions\[1\]\.{field}"):
                writer.write(episode)
        writer.write(outcome(2))
    assert [t.index for t in read_trajectories(path)] == [0, 2]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_further_keys_are_kept(tmp_path: Path, suffix: str) -> None:
    path, copy = tmp_path / "file.jsonl", tmp_path / f"copy.{suffix}"
    with open_writer(path) as writer:
        writer.write(outcome(0))
    row = json.loads(path.read_text())
    row |= {"task": "maze", "extra": {"run": 1}, "spread": {"__float__": "inf"}}
    row["transitions"][1]["value"] = 0.5
    path.write_text(json.dumps(row) + "\n")
    with open_writer(copy) as writer:
        for trajectory in read_trajectories(path):
            writer.write(trajectory)
    for file in (path, copy):
        [read] = read_trajectories(file)
        check(read, 0)
        assert read.extra == {"task": "maze", "extra": {"run": 1}, "spread": math.inf}
        assert [step.extra for step in read.transitions] == [{}, {"value": 0.5}]
    assert json.loads(path.read_text()) == row
    with open_writer(copy, append=True) as writer:
        writer.write(outcome(1))
    assert [t.extra.get("task") for t in read_trajectories(copy)] == ["maze", None]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_streamed_episodes_are_written_with_their_group(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    with open_writer(path) as writer:
        writer.write(StreamedEpisode(outcome(5), 2, 1, (3, 4), stale=True))
        with pytest.raises(TypeError, match="write\\(\\) takes an Outcome"):
            writer.write({"index": 1})  # type: ignore[arg-type]  # what is refused
    [read] = read_trajectories(path)
    check(read, 5)
    assert (read.group, read.member, read.policy_versions) == (2, 1, (3, 4))
    assert read.extra == {"stale": True}


def test_parquet_of_an_earlier_release_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with open_writer(path) as writer:
        writer.write(outcome(0))
    table = pq.read_table(path)
    rows = table.to_pylist()
    for each in (*rows, *rows[0]["transitions"]):
        del each["extra"]
    old = pa.Table.from_pylist(rows)
    pq.write_table(old.append_column("note", [["mine"]]), path)
    [read] = read_trajectories(path)
    check(read, 0)
    assert read.extra == {"note": "mine"}
    with open_writer(path, append=True) as writer:
        writer.write(outcome(1))
    assert [t.extra for t in read_trajectories(path)] == [{"note": "mine"}, {}]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_message_that_cannot_be_read_is_no_reason_to_lose_the_episode(
    tmp_path: Path, suffix: str
) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    path = tmp_path / f"file.{suffix}"
    errors = [Unprintable(), OSError("a file name \udcff")]
    with open_writer(path) as writer:
        for index, error in enumerate(errors):
            writer.write(Outcome(index, OutcomeStatus.ENV_ERROR, error=error))
    first, second = read_trajectories(path)
    assert first.error_message is not None
    assert "cannot be read" in first.error_message
    assert second.error_message == "a file name \\udcff"


def test_a_full_disk_loses_no_episode_that_parquet_has_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file.parquet"
    writer = ParquetWriter(path, max_group_episodes=2)

    def full(*anything: Any, **named: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    for index in range(2):
        writer.write(outcome(index))
    with monkeypatch.context() as without_room:
        without_room.setattr(parquet, "_write_part", full)
        for index in range(2, 5):
            writer.write(outcome(index))
        assert "waits for the next write" in caplog.text
        assert [t.index for t in read_trajectories(path)] == [0, 1, 2, 3, 4]
        with pytest.raises(OSError, match="No space"):
            writer.close()
        without_room.undo()
        without_room.setattr(pq, "ParquetWriter", full)
        with pytest.raises(OSError, match="No space"):
            writer.close()
        assert [t.index for t in read_trajectories(path)] == [0, 1, 2, 3, 4]
        assert not list(tmp_path.glob("*.unfinished"))
    writer.close()
    assert [t.index for t in read_trajectories(path)] == [0, 1, 2, 3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


# -- the last line -----------------------------------------------------------------------------

CHUNK = 65_536


@pytest.mark.parametrize("size", [1, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
@pytest.mark.parametrize("before", [b"", b"\n", b"{}\n", b"{}\n[]\n"])
def test_a_last_line_of_any_length_that_was_cut_is_removed(
    tmp_path: Path, size: int, before: bytes
) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(before + b"x" * size)
    mend_last_line(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7])
@pytest.mark.parametrize("before", [b"", b"\n", b"{}\n"])
def test_a_whole_last_line_of_any_length_gets_its_newline(
    tmp_path: Path, size: int, before: bytes
) -> None:
    line = b"{" + b" " * (size - 2) + b"}"
    path = tmp_path / "file.jsonl"
    path.write_bytes(before + line)
    mend_last_line(path)
    assert path.read_bytes() == before + line + b"\n"
    mend_last_line(path)  # nothing is left to mend
    assert path.read_bytes() == before + line + b"\n"


@pytest.mark.parametrize("line", [b"[1]", b"3", b'"{}"', b"null"])
def test_a_last_line_that_is_no_row_is_removed(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(b"{}\n" + line)
    mend_last_line(path)
    assert path.read_bytes() == b"{}\n"


def test_a_file_without_a_byte_has_no_line_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.touch()
    mend_last_line(path)
    assert path.read_bytes() == b""
    with JsonlWriter(path, append=True) as writer:
        writer.write(outcome(0))
    assert [t.index for t in read_trajectories(path)] == [0]


def test_lines_without_a_letter_are_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(outcome(0))
        writer.write(outcome(1))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\n" + first + b" \t\n" + second + b"\n")
    assert [t.index for t in read_trajectories(path)] == [0, 1]
    assert not caplog.records
    path.write_bytes(b"\n \n")
    assert list(read_trajectories(path)) == []


def test_a_row_that_is_no_trajectory_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(outcome(0))
    for row in (b"[]", b"{}", b'{"transitions": 1, "status": null}', b"7"):
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + row + b"\n")
        found = read_trajectories(path)
        check(next(found), 0)
        with pytest.raises(ValueError, match=r"line 2 of .* is not a trajectory"):
            next(found)


def test_a_writer_of_a_pipe_cuts_nothing(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.taken = b""

        def writable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return False

        def write(self, data: Any) -> int:
            if len(self.taken) >= 30:
                raise BrokenPipeError
            self.taken += bytes(data[:10])
            return min(10, len(data))

        def truncate(self, size: int | None = None) -> int:
            raise AssertionError("a pipe was cut")

    pipe: Any = Pipe()
    _write_line(pipe, tmp_path / "none", b"0123456789" * 2 + b"\n")
    assert pipe.taken == b"0123456789" * 2 + b"\n"
    with pytest.raises(BrokenPipeError):
        _write_line(pipe, tmp_path / "none", b"x" * 40)


def test_what_is_appended_to_a_new_file_is_its_beginning(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / "deep" / "er" / f"file.{suffix}"
        with open_writer(path, append=True) as writer:
            writer.write(outcome(0))
        with open_writer(path, append=True) as writer:
            writer.write(outcome(1))
        assert [t.index for t in read_trajectories(path)] == [0, 1]
        with open_writer(path) as writer:
            writer.write(outcome(2))
        assert [t.index for t in read_trajectories(path)] == [2]


@pytest.mark.parametrize("seed", [0, -(1 << 63), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_seed_of_any_size_is_kept(tmp_path: Path, suffix: str, seed: int) -> None:
    path = tmp_path / f"file.{suffix}"
    made = outcome(0)
    assert isinstance(made.trajectory, Trajectory)
    made.trajectory.seed = seed
    made.trajectory.extra = {"task": "maze"}
    with open_writer(path) as writer:
        writer.write(made)
    [read] = read_trajectories(path)
    assert (read.seed, read.extra) == (seed, {"task": "maze"})
    if suffix == "parquet":
        stored = pq.read_table(path).to_pylist()[0]["seed"]
        assert stored == (seed if -(1 << 63) <= seed < 1 << 63 else None)


def test_a_row_group_is_written_when_it_has_so_many_episodes_or_bytes(tmp_path: Path) -> None:
    def gathered(**limits: Any) -> list[int]:
        """Episodes that are gathered after each of five writes."""
        writer = ParquetWriter(tmp_path / "file.parquet", **limits)
        found = []
        for index in range(5):
            writer.write(outcome(index))
            found.append(writer.gathered)
        writer.close()
        assert len(list(read_trajectories(writer.path))) == 5
        return found

    assert gathered() == [1, 2, 3, 4, 5]
    assert gathered(max_group_episodes=2) == [1, 0, 1, 0, 1]
    assert gathered(max_group_episodes=1) == [0, 0, 0, 0, 0]
    with ParquetWriter(tmp_path / "size.parquet") as one:
        one.write(outcome(0))
        size = one.gathered_size
    assert gathered(max_group_size=2 * size) == [1, 0, 1, 0, 1]
    assert gathered(max_group_size=2 * size + 1) == [1, 2, 0, 1, 2]


def test_a_row_group_has_1024_episodes_or_sixteen_mebibytes() -> None:
    parameters = inspect.signature(ParquetWriter).parameters
    assert parameters["max_group_episodes"].default == 1024
    assert parameters["max_group_size"].default == 16 * 1024 * 1024


def test_groups_of_any_number_stay_in_order(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with ParquetWriter(path, max_group_episodes=1) as writer:
        for index in range(12):
            writer.write(outcome(index))
    assert [t.index for t in read_trajectories(path)] == list(range(12))


def test_a_writer_that_crashed_is_gone_on_with_after_its_last_group(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    crashed = ParquetWriter(path, max_group_episodes=2)
    for index in range(3):
        crashed.write(outcome(index))
    parts = tmp_path / "file.parquet.parts"
    assert sorted(p.name for p in parts.iterdir()) == ["000000.arrow", "000001.journal"]
    again = ParquetWriter(path, append=True, max_group_episodes=2)
    again.write(outcome(3))
    assert sorted(p.name for p in parts.iterdir()) == [
        "000000.arrow",
        "000001.journal",
        "000002.journal",
    ]
    again.close()
    assert [t.index for t in read_trajectories(path)] == [0, 1, 2, 3]


def test_what_a_crash_left_while_it_joined_the_groups_is_not_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with ParquetWriter(path) as writer:
        writer.write(outcome(0))
    parts = tmp_path / "file.parquet.parts"
    parts.mkdir()
    (parts / "000000.parquet").write_bytes(path.read_bytes())
    (parts / "000001.jsonl").write_text("")
    assert [t.index for t in read_trajectories(path)] == [0]
    with ParquetWriter(path, append=True) as writer:
        writer.write(outcome(1))
    assert [t.index for t in read_trajectories(path)] == [0, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


# -- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_says_who_wrote_it_with_what(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["openenv-async", "rollout", "http://u:hunter2@h:1"])
    path = tmp_path / f"file.{suffix}"
    about = {"name": "maze", "params": {"size": 3}}
    first = outcome(0)
    assert first.trajectory is not None
    first.trajectory.environment = about
    with open_writer(path, header={"run": "r1", "note": "mine"}) as writer:
        writer.write(first)
        writer.write(outcome(1))
        writer.header["late"] = True  # it was written with the first episode
    header = read_header(path)
    assert header is not None
    assert header["schema"] == 2
    assert (header["run"], header["note"]) == ("r1", "mine")
    assert header["command"] == ["openenv-async", "rollout", "http://***@h:1"]
    assert header["versions"].keys() >= {"openenv_async", "python"}
    assert header["time"].endswith("+00:00")
    assert header["environment"] == about
    trajectories = list(read_trajectories(path))
    assert [t.run for t in trajectories] == ["r1", "r1"]
    assert [t.extra for t in trajectories] == [{}, {}]
    assert first.trajectory.run is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_gone_on_with_has_every_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    for run in ("r1", "r2", "r3"):
        with open_writer(path, append=True, header={"run": run}) as writer:
            writer.write(outcome(0))
    header = read_header(path)
    assert header is not None
    assert [header["run"], *(each["run"] for each in header["appended"])] == ["r1", "r2", "r3"]
    assert len(list(read_trajectories(path))) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_header_of_a_file_whose_writer_crashed_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    writer = open_writer(path, header={"run": "r1"})
    assert read_header(path) is None
    writer.write(outcome(0))
    header = read_header(path)
    assert header is not None
    assert header["run"] == "r1"
    if suffix == "jsonl":
        with path.open("ab") as file:
            file.write(b'{"openenv_trajectories":{"run"')
        assert read_header(path) == header
    writer.close()


def test_a_file_without_a_header_has_none(tmp_path: Path) -> None:
    (tmp_path / "file.jsonl").write_bytes(b"{}\n")
    assert read_header(tmp_path / "file.jsonl") is None
    pq.write_table(pa.table({"index": [1]}), tmp_path / "file.parquet")
    assert read_header(tmp_path / "file.parquet") is None
    with pytest.raises(ValueError, match="not a trajectory format"):
        read_header(tmp_path / "file.csv")
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError):
            read_header(tmp_path / f"none.{suffix}")


def test_the_folder_of_a_run_is_no_file_and_the_error_says_how_it_is_read(tmp_path: Path) -> None:
    (folder := tmp_path / "friday").mkdir()
    with pytest.raises(
        ValueError, match=r"RunFolder\.view.*openenv-async export .*friday\.parquet"
    ):
        read_trajectories(folder)
