"""Tasks as data: of files, folders, modules and rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_env.models import Message, ToolCall
from chat_env.scorers import score_text
from chat_env.tasks import Tool, load_tasks, task_from

from openenv_async.errors import InvalidOption


def test_tasks_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    rows = [
        {"prompt": "Say hi.", "scorer": {"regex": "^hi"}, "id": "hi", "replies": ["No.", "Hm."]},
        {"prompt": "Say ho.", "scorer": {"exact": "ho"}, "split": "test", "max_turns": 2},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = load_tasks(str(file))
    assert (first.id, first.split, score_text(first.scorer, "hi there")) == ("hi", "train", 1.0)
    assert first.partner is not None
    assert [first.partner("x", turn) for turn in (1, 2, 3)] == ["No.", "Hm.", "Hm."]
    assert (second.id, second.split, second.max_turns) == ("tasks-2", "test", 2)
    file.write_text('{"prompt": "x"}\n')
    with pytest.raises(InvalidOption, match=r"line 1 of .*not a valid scorer"):
        load_tasks(str(file))
    file.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[0]))
    with pytest.raises(InvalidOption, match="'hi' is there twice"):
        load_tasks(str(file))
    file.write_text("")
    with pytest.raises(InvalidOption, match="no task"):
        load_tasks(str(file))
    with pytest.raises(InvalidOption, match="cannot read"):
        load_tasks(str(tmp_path / "gone.jsonl"))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": ""},
        {"prompt": 3},
        {"split": "dev"},
        {"max_turns": 0},
        {"system": 1},
        {"replies": []},
        {"color": "red"},
        {"id": 3},
        {"answer": 3},
        {"prompt": []},
        {"prompt": [{"text": "x"}]},
        {"prompt": [{"type": "text"}]},
        {"prompt": [{"type": "image", "data": "x" * (4 << 20)}]},
        {"messages": [{"role": "user", "content": "x"}]},
        {"prompt": None, "tools": [{"name": "a b"}]},
        {"tools": [{"name": "f", "parameters": {"properties": {}}, "results": {"a": 1}}]},
        {"tools": [{"name": "f", "parameters": {}, "results": {}}]},
        {"tools": [{"name": "f", "parameters": {"properties": {}}, "results": {}}] * 2},
        {"tools": ["f"]},
        {"tools": 5},
        {"tools": [{"name": "f", "parameters": {"properties": {}, "required": 5}, "results": {}}]},
    ],
)
def test_what_is_no_task(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        task_from({"prompt": "x", "scorer": {"exact": "a"}, **change})


def test_a_row_is_a_dict() -> None:
    with pytest.raises(InvalidOption, match="dict of columns"):
        task_from("x")  # type: ignore[arg-type]  # data of others


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        row = {"prompt": split, "scorer": {"exact": "x"}}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row))
    tasks = load_tasks(str(tmp_path))
    assert [(task.id, task.split) for task in tasks] == [("train-1", "train"), ("test-1", "test")]


def test_a_module_makes_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks.py").write_text(
        "def made():\n    yield {'prompt': 'Say x.', 'scorer': lambda text: text == 'x'}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (task,) = load_tasks("own_tasks:made")
    assert score_text(task.scorer, "x") == 1.0


ROWS: list[tuple[dict[str, Any], str, str, str]] = [
    (
        {"question": "2 dozen?", "answer": "12 * 2 = <<12*2=24>>24\n#### 24"},
        "2 dozen?\nEnd your answer with the number.",
        "So it is 24.",
        "24 or 25",
    ),
    (
        {"question": "Red?", "choices": ["a fish", "a colour"], "answer": 1, "subject": "art"},
        "Red?\nA. a fish\nB. a colour\nAnswer with the letter.",
        "B",
        "A",
    ),
    (
        {"question": "Red?", "choices": ["a fish", "a colour"], "answer": "B"},
        "Red?\nA. a fish\nB. a colour\nAnswer with the letter.",
        "(b) a colour",
        "B. a fish",
    ),
    (
        {
            "id": "q7",
            "question": "Red?",
            "choices": {"text": ["a fish", "a colour"], "label": ["1", "2"]},
            "answerKey": "2",
        },
        "Red?\nA. a fish\nB. a colour\nAnswer with the letter.",
        "a colour",
        "2",
    ),
    (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        "Hi",
        "ho!",
        "Hi",
    ),
]


@pytest.mark.parametrize(("row", "prompt", "right", "wrong"), ROWS)
def test_rows_of_known_data_sets(row: dict[str, Any], prompt: str, right: str, wrong: str) -> None:
    task = task_from(row)
    assert (task.prompt, task.id) == (prompt, row.get("id", "custom"))
    assert score_text(task.scorer, right) == 1.0
    assert score_text(task.scorer, wrong) == 0.0
    assert task.answer is not None
    assert score_text(task.scorer, task.answer) == 1.0


def test_a_row_whose_answer_is_none_of_its_labels() -> None:
    choices = {"text": ["a", "b"], "label": ["A", "B"]}
    with pytest.raises(InvalidOption, match="answerKey"):
        task_from({"question": "?", "choices": choices, "answerKey": "C"})


def test_a_conversation_may_have_begun() -> None:
    messages = [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]
    task = task_from({"messages": messages, "scorer": {"exact": "x"}})
    assert task.before == (
        Message("system", "Short."),
        Message("user", "Hi"),
        Message("assistant", "Ho"),
    )
    assert task.question.text == "And?"
    for bad in ([], messages[:3], [{"role": "poet", "content": "x"}], [{"role": "user"}]):
        with pytest.raises(InvalidOption):
            task_from({"messages": bad, "scorer": {"exact": "x"}})


TABLE = {
    "name": "price",
    "description": "The price.",
    "parameters": {
        "type": "object",
        "properties": {"ware": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["ware"],
    },
    "results": {"Plum": "3", '{"count": 2, "ware": "pear"}': "8"},
    "otherwise": "No.",
}


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ({"ware": "plum "}, "3"),
        ({"ware": "pear", "count": 2}, "8"),
        ({"ware": "pear"}, "No."),
        ({"ware": 3}, "No."),
        ({}, "Error: price needs the argument 'ware'."),
        ({"ware": "plum", "size": 1}, "Error: price has no argument 'size'."),
    ],
)
async def test_a_tool_that_is_a_table(arguments: dict[str, Any], result: str) -> None:
    (tool,) = task_from({"prompt": "?", "scorer": {"exact": "3"}, "tools": [TABLE]}).tools
    assert await tool.result(ToolCall("price", arguments)) == result
    assert tool.schema["function"]["parameters"] == TABLE["parameters"]


async def test_a_tool_may_be_a_function() -> None:
    async def double(n: int) -> Any:
        return {"n": 2 * n}

    tool = Tool("double", "", {"properties": {"n": {}}}, double)
    assert await tool.result(ToolCall("double", {"n": 4})) == '{"n": 8}'
