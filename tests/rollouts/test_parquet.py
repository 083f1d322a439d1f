"""Parquet: typed columns that lose nothing, crashes, and files of earlier releases."""

from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it has none
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async import Outcome, OutcomeStatus
from openenv_async.errors import InvalidModel
from openenv_async.rollouts import (
    ParquetWriter,
    Trajectory,
    Transition,
    open_writer,
    read_header,
    read_trajectories,
)
from openenv_async.rollouts.parquet import _Journal, _read_records
from openenv_async.types import Mistake, ModelCall

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


# -- typed columns --------------------------------------------------------------------------------


def episode(index: int, observation: Any, action: Any = 0, **step: Any) -> Trajectory[Any, Any]:
    trajectory: Trajectory[Any, Any] = Trajectory(index)
    trajectory.transitions = [Transition(0, observation, action, 0.5, **step)]
    return trajectory


def written(path: Path, trajectories: list[Trajectory[Any, Any]], group: int = 2) -> Any:
    """Write a file, check that what is read is what was written; return the type of a step."""
    with ParquetWriter(path, max_group_episodes=group) as writer:
        for each in trajectories:
            writer.write(each)
    read = list(read_trajectories(path))
    for before, after in zip(trajectories, read, strict=True):
        assert [plain(step) for step in before.transitions] == [
            plain(step) for step in after.transitions
        ]
        assert before.extra == after.extra
    return pq.read_schema(path).field("transitions").type.value_type


def plain(value: Any) -> Any:
    """The value with its types, comparable."""
    if isinstance(value, Transition):
        return [plain(getattr(value, name)) for name in Transition.__dataclass_fields__]
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return type(value).__name__, value


def test_numbers_texts_arrays_and_pictures_have_columns_of_their_types(tmp_path: Path) -> None:
    pixels = np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)
    step = written(
        tmp_path / "file.parquet",
        [
            episode(
                n,
                {"x": n, "name": "a", "place": np.zeros(3, np.float32), "view": pixels + n},
                n,
                info={"lives": n},
                action_mask=np.ones(4, np.int8),
                timings={"policy": 0.5},
            )
            for n in range(5)
        ],
    )
    observation = step.field("observation").type
    assert observation.field("x").type == pa.int64()
    assert observation.field("name").type == pa.string()
    assert observation.field("place").type == pa.list_(pa.float32())
    assert observation.field("view").type == pa.binary()
    assert step.field("action").type == pa.int64()
    assert step.field("action_mask").type == pa.list_(pa.int8())
    assert step.field("timings").type.field("policy").type == pa.float64()
    assert step.field("info").type == pa.struct([("lives", pa.int64())])


def test_a_later_value_that_does_not_fit_is_kept_beside_its_column(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    step = written(path, [episode(n, n) for n in range(4)] + [episode(4, "odd"), episode(5, [1])])
    assert step.field("observation").type == pa.int64()
    steps = pq.read_table(path)["transitions"].to_pylist()
    assert [each[0]["observation"] for each in steps] == [0, 1, 2, 3, None, None]
    assert [each[0]["extra"] for each in steps][3:] == [
        None,
        '{"observation":"odd"}',
        '{"observation":[1]}',
    ]


def test_a_later_value_widens_its_column(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    observations = [None, {"x": None}, {"x": 3}, {"x": 0.5}, {"x": 2}, None]
    step = written(path, [episode(n, seen) for n, seen in enumerate(observations)])
    assert step.field("observation").type == pa.struct([("x", pa.float64())])
    numbers = [
        each[0]["observation"] and each[0]["observation"]["x"]
        for each in pq.read_table(path)["transitions"].to_pylist()
    ]
    assert numbers == [None, None, 3.0, 0.5, 2.0, None]


def test_values_of_several_kinds_are_json(tmp_path: Path) -> None:
    step = written(tmp_path / "file.parquet", [episode(0, 1), episode(1, "a"), episode(2, 3)])
    assert step.field("observation").type == pa.string()


def test_further_keys_with_the_names_of_columns_stay_apart(tmp_path: Path) -> None:
    odd = episode(2, "odd")
    odd.transitions[0].extra = {"observation": "mine", "note": 1}
    odd.extra = {"transitions": "mine", "seed": 2, "openenv_trajectories": 3}
    written(tmp_path / "file.parquet", [episode(0, 1), episode(1, 2), odd])


CALL = ModelCall(
    messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    reply={"role": "assistant", "content": None, "tool_calls": []},
    prompt_ids=[1, 2, 3],
    completion_ids=[4],
    logprobs=[-0.1],
    mask=[1],
    weight_version="v3",
    extra={"usage": {"total": 4}},
)


def test_calls_of_models_are_typed(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    large = ModelCall(messages=[], prompt_ids=[2**40], weight_version=7)
    mistake = Mistake("unreadable_reply", "no action in it", "unreadable_reply")
    step = written(
        path,
        [
            episode(0, "a", model_calls=(CALL, ModelCall(messages=[], error="gone"))),
            episode(1, "a", mistake=mistake),
            episode(2, "a", model_calls=(large,), timings={"policy": 0.5, "mine": 1.0}),
            episode(3, "a", timings={}),
        ],
    )
    call = step.field("model_calls").type.value_type
    assert call.field("prompt_ids").type == pa.list_(pa.int32())
    assert call.field("logprobs").type == pa.list_(pa.float64())
    assert call.field("mask").type == pa.list_(pa.int8())
    assert step.field("mistake").type.field("message").type == pa.string()
    rows = [each[0] for each in pq.read_table(path)["transitions"].to_pylist()]
    assert rows[0]["model_calls"][0]["completion_ids"] == [4]
    assert rows[2]["model_calls"] is None  # its id has no place in 32 bits


def test_an_unreadable_reply_makes_no_texts_of_all_actions(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    mistake = Mistake("unreadable_reply", "no action in it", "unreadable_reply")
    said = [episode(0, "a", "I think that", mistake=mistake), episode(1, "a", {"number": 3})]
    others = [episode(2, "a", {"number": 4}), episode(3, "a", "Hm.", mistake=mistake)]
    step = written(path, said + others)
    assert step.field("action").type == pa.struct([("number", pa.int64())])
    rows = [each[0] for each in pq.read_table(path)["transitions"].to_pylist()]
    assert [row["action"] for row in rows] == [None, {"number": 3}, {"number": 4}, None]
    step = written(tmp_path / "alone.parquet", said[:1])
    assert step.field("action").type == pa.string()


def test_a_file_without_what_it_says_of_its_columns_is_read(tmp_path: Path) -> None:
    """A file that pandas wrote again lacks it."""
    path = tmp_path / "file.parquet"
    written(path, [episode(n, "a text", {"x": 1.5}) for n in range(3)])
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    read = list(read_trajectories(path))
    assert [each.transitions[0].observation for each in read] == ["a text"] * 3
    assert read[0].transitions[0].action == {"x": 1.5}
    assert read_header(path) is None


def test_going_on_with_a_file_widens_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    for observation in (3, 0.5, "odd"):
        with open_writer(path, append=True) as writer:
            writer.write(episode(0, observation))
    read = [each.transitions[0].observation for each in read_trajectories(path)]
    assert [(type(seen), seen) for seen in read] == [(int, 3), (float, 0.5), (str, "odd")]
    step = pq.read_schema(path).field("transitions").type.value_type
    assert step.field("observation").type == pa.float64()


def test_a_crash_before_the_first_group_leaves_kinds_to_be_found(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    ParquetWriter(path).write(episode(0, {"x": 1}))
    with ParquetWriter(path, append=True) as writer:
        writer.write(episode(1, {"x": 2}))
    assert [t.transitions[0].observation for t in read_trajectories(path)] == [{"x": 1}, {"x": 2}]
    step = pq.read_schema(path).field("transitions").type.value_type
    assert step.field("observation").type == pa.struct([("x", pa.int64())])


def test_keys_that_are_numpy_scalars_and_integers_of_any_size(tmp_path: Path) -> None:
    written(
        tmp_path / "file.parquet",
        [episode(0, {np.int64(3): np.zeros(2)}), episode(1, 2**100), episode(2, [-(2**70)])],
    )


# -- the journal ----------------------------------------------------------------------------------


def test_a_journal_cut_at_any_byte_has_every_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    writer = ParquetWriter(path)
    sizes = []
    journal = tmp_path / "file.parquet.parts" / "000000.journal"
    for index in range(3):
        writer.write(episode(index, "x" * index))
        sizes.append(journal.stat().st_size)
    whole = journal.read_bytes()
    for size in range(len(whole)):
        journal.write_bytes(whole[:size])
        found = [each.index for each in read_trajectories(path)]
        assert found == list(range(sum(size >= end for end in sizes)))
    for spoilt in (len(whole) - 1, sizes[1] + 20):
        journal.write_bytes(whole[:spoilt] + bytes([whole[spoilt] ^ 1]) + whole[spoilt + 1 :])
        assert [each.index for each in read_trajectories(path)] == [0, 1]


def test_a_record_that_could_not_be_written_whole_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.parquet"
    writer = ParquetWriter(path)
    writer.write(episode(0, 0))
    real = os.writev

    def full(fd: int, pieces: list[Any]) -> int:
        real(fd, [bytes(pieces[0])[:5]])
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for truncates in (True, False):
        with monkeypatch.context() as patched:
            patched.setattr(os, "writev", full)
            if not truncates:
                patched.setattr(os, "ftruncate", broken)
            with pytest.raises(OSError, match="No space"):
                writer.write(episode(1, 1))
        assert [each.index for each in read_trajectories(path)] == [0]
    writer.write(episode(2, 2))
    assert [each.index for each in read_trajectories(path)] == [0, 2]
    writer.close()
    assert [each.index for each in read_trajectories(path)] == [0, 2]


def test_a_disk_that_takes_little_at_once_gets_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def little(fd: int, pieces: list[Any]) -> int:
        return real(fd, [bytes(pieces[0])[:3]])

    monkeypatch.setattr(os, "writev", little)
    journal = _Journal(tmp_path / "a.journal", {})
    journal.append([b"0123456789", b"abcdef"])
    assert list(_read_records(journal.path))[1:] == [b"0123456789abcdef"]
    assert list(journal.records()) == [b"0123456789abcdef"]
    journal.remove()
    assert not journal.path.exists()


def test_an_episode_that_is_refused_leaves_the_journal_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with ParquetWriter(path) as writer:
        with pytest.raises(InvalidModel):
            writer.write(episode(0, object()))
        assert writer.gathered == 0
        writer.write(episode(1, 1))
    assert [each.index for each in read_trajectories(path)] == [1]


def test_killed_while_it_joins_its_groups_it_loses_nothing(tmp_path: Path) -> None:
    """``kill -9`` in the middle of ``close``, and then another goes on."""
    path = tmp_path / "file.parquet"
    code = (
        "import os, sys, signal\n"
        "from tests.rollouts.test_parquet import episode, ParquetWriter\n"
        "from openenv_async.rollouts import parquet\n"
        "writer = ParquetWriter(sys.argv[1], max_group_episodes=2)\n"
        "for index in range(7): writer.write(episode(index, index))\n"
        "tables, count = parquet._tables_of, [0]\n"
        "def killed(part):\n"
        "    count[0] += 1\n"
        "    if count[0] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return tables(part)\n"
        "parquet._tables_of = killed\n"
        "writer.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [each.index for each in read_trajectories(path)] == list(range(7))
    with open_writer(path, append=True) as writer:
        writer.write(episode(7, 7))
    assert [each.index for each in read_trajectories(path)] == list(range(8))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
