"""Paths to sources: runs, files, a gateway's journal and rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openenv_async.errors import InvalidOption
from openenv_async.gateway.calls import Answer, CallRecord, SampledTokens
from openenv_async.gateway.exports import raw_calls
from openenv_async.gateway.rows import TrainingRow
from openenv_async.rollouts import open_writer
from openenv_async.viewer import open_source
from tests.viewer.samples import quick_episode


@pytest.mark.parametrize("name", ["nothing", "nothing.jsonl", "nothing.parquet"])
def test_what_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOption, match=r"there is no .*nothing"):
        open_source(tmp_path / name)


def test_what_is_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="neither a run nor a gateway's journal"):
        open_source(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InvalidOption, match=r"neither in \.jsonl nor \.parquet"):
        open_source(tmp_path / "a.txt")


def test_an_unfinished_parquet_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    writer = open_writer(path)
    for number in range(3):
        writer.write(quick_episode(number))
    source = open_source(tmp_path / "a.parquet.parts")
    source.refresh()
    assert source.kind == "unfinished Parquet"
    assert [source.columns.row(row)["index"] for row in range(3)] == [0, 1, 2]
    source.close()
    writer.close()


def record(session: str, number: int) -> CallRecord:
    answer = Answer(
        text="yes",
        tokens=SampledTokens(prompt_ids=[1, 2], completion_ids=[3, 4], logprobs=[-0.1, 0.0]),
    )
    messages = [{"role": "user", "content": f"question {number}"}]
    return CallRecord(
        session=session,
        number=number,
        dialect="chat",
        messages=messages,
        answer=answer,
        seconds=0.5,
    )


def test_calls_of_a_gateway_are_episodes_by_session(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    records = [record("one", 0), record("one", 1), record("two", 0)]
    path.write_bytes(b"".join(raw_calls(records, environ={})) + b'{"session": "two", broken\n')
    source = open_source(path)
    source.refresh()
    assert [source.columns.row(row)["task"] for row in range(2)] == ["one", "two"]
    assert [source.columns.row(row)["calls"] for row in range(2)] == [2, 1]
    shown = json.loads(source.record(0))["transitions"][0]["model_calls"]
    assert [call["messages"][0]["content"] for call in shown] == ["question 0", "question 1"]
    source.close()


def test_training_rows_of_a_gateway_have_their_tokens(tmp_path: Path) -> None:
    import msgspec

    row = TrainingRow(
        session="one",
        number=0,
        relation="main",
        prompt_ids=[1],
        completion_ids=[2, 3, 4],
        logprobs=[-0.5, 0.0, -0.25],
        mask=[1, 0, 1],
        reward=0.75,
        group="pears",
        member=2,
    )
    path = tmp_path / "rows.jsonl"
    path.write_bytes(msgspec.json.encode(row) + b"\n")
    source = open_source(path)
    source.refresh()
    facts = source.columns.row(0)
    assert (facts["return"], facts["task"], facts["member"], facts["tokens"]) == (
        0.75,
        "pears",
        2,
        3,
    )
    [call] = json.loads(source.record(0))["transitions"][0]["model_calls"]
    assert (call["mask"], call["extra"]["relation"]) == ([1, 0, 1], "main")
    source.close()
