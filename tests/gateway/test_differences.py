"""Messages that agents keep in another form, and the names of the differences."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.gateway.calls import Message
from openenv_async.gateway.differences import MessageNumbers, of_answer, same_spelling, texts_of
from tests.gateway.recorded import answer_of, says, system, tool, user

MARK = {"cache_control": {"type": "ephemeral"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


def calling(arguments: str, id: str = "c", name: str = "bash") -> Message:
    return says("", calls=[(id, name, arguments)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("hi"), {"role": "user", "content": [{"type": "text", "text": "hi", **MARK}]}),
        (user(""), {"role": "user", "content": []}),
        (user(""), {"role": "user"}),
        (system("hi"), {"role": "developer", "content": "hi"}),
        (
            {"role": "user", "content": [PICTURE, {"type": "text", "text": "what?"}]},
            {"role": "user", "content": [PICTURE, {"text": "what?", "type": "text", **MARK}]},
        ),
        (calling('{"a": 1, "b": [2]}'), calling('{"b":[2],"a":1}')),
        (says("x"), says("x") | {"tool_calls": [], "reasoning_content": None}),
        (user("\ud800"), user("\ud800")),
    ],
)
def test_the_same_message(one: Message, other: Message) -> None:
    numbers = MessageNumbers()
    assert numbers.of(one) == numbers.of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("hi"), user("hi ")),
        (user("hi"), system("hi")),
        (tool("hi", "a"), tool("hi", "b")),
        (calling('{"a": 1}'), calling('{"a": 2}')),
        (calling('{"a": 1'), calling('{"a": 1}')),
        (calling("{}", id="a"), calling("{}", id="b")),
        (says("x", reasoning="y"), says("x")),
        (user("hi"), {"role": "user", "content": [{"type": "text", "text": "hi"}, PICTURE]}),
        (says("x"), {"role": "assistant", "content": "x", "tool_calls": ["strange"]}),
    ],
)
def test_another_message(one: Message, other: Message) -> None:
    numbers = MessageNumbers()
    assert numbers.of(one) != numbers.of(other)


def test_numbers_of_a_history_are_those_of_its_messages_whatever_is_known() -> None:
    numbers = MessageNumbers()
    first = [system("s"), user("a"), says("b")]
    known = numbers.of_all(first, ([], []))
    later = [system("s"), user("a"), says("c"), user("a")]
    assert numbers.of_all(later, (first, known)) == [numbers.of(message) for message in later]
    assert numbers.of_all(first[:1], (first, known)) == known[:1]
    assert numbers.of_all([], (first, known)) == []


@pytest.mark.parametrize(
    ("sampled", "found", "kind"),
    [
        (says("one"), says("one two"), "text_joined"),
        (says("one two"), says("one"), "text_cut"),
        (says("one"), says(""), "text_cut"),
        (says(""), says("one"), "text_changed"),
        (says("one"), says("two"), "text_changed"),
        (says("one"), calling("{}"), "tool_calls_changed"),
        (calling("{}"), calling("{}", name="invalid"), "tool_calls_changed"),
        (calling('{"a": 1}'), calling('{"a": 2}'), "arguments_changed"),
        (calling('{"a": 1}'), calling('{"a":1}'), "arguments_respelled"),
        (calling("{}", id="a"), calling("{}", id="b"), "ids_changed"),
        (says("x", reasoning="y"), says("x"), "reasoning_left_out"),
        (says("x", reasoning="y"), says("x", reasoning="z"), "reasoning_changed"),
        (says("x"), {"role": "assistant", "content": [{"type": "text", "text": "x"}, PICTURE]},
         "text_changed"),
    ],
)  # fmt: skip
def test_the_kind_of_a_difference(sampled: Message, found: Message, kind: str) -> None:
    assert of_answer(sampled, found)[0] == kind


def test_details_are_short_and_name_the_tool() -> None:
    many: Any = [(f"c{n}", "a_tool_with_a_long_name", "{}") for n in range(9)]
    assert len(of_answer(says("x"), answer_of(calls=many).message)[1]) <= 80
    assert of_answer(calling("{}"), calling('{"a":1}')) == (
        "arguments_changed",
        "arguments of bash",
    )


def test_spelling_and_texts() -> None:
    assert same_spelling(calling('{"a": 1}'), calling('{"a": 1}', id="other"))
    assert not same_spelling(calling('{"a": 1}'), calling('{"a":1}'))
    assert texts_of({"role": "user", "content": [PICTURE, {"type": "text", "text": "b"}]}) == ["b"]
    assert texts_of({"role": "assistant", "content": None}) == []
