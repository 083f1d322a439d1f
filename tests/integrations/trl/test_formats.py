"""Observations as tokens and messages as actions, with tokenizers with and without a template."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from openenv_async.errors import InvalidOption
from openenv_async.integrations.trl.formats import (
    ChatFormat,
    TextFormat,
    field_of,
    observation_text,
)


class Letters:
    """A tokenizer of bytes; with ``template`` it writes ``<role>text|`` for each message."""

    def __init__(self, template: bool = False) -> None:
        self.chat_template = "yes" if template else None
        self.asked: list[dict[str, Any]] = []

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return ([1] if add_special_tokens else []) + list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i > 1).decode()

    def apply_chat_template(
        self, messages: list[dict[str, str]], tokenize: bool, **options: Any
    ) -> Any:
        self.asked.append(options)
        text = "".join(f"<{each['role']}>{each['content']}|" for each in messages) + "<assistant>"
        return list(text.encode()) if tokenize else text


@dataclass
class Seen:
    text: str
    number: int = 3


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ("as it is", "as it is"),
        (Seen("hello"), "hello"),
        ({"message": "m", "text": "t"}, "t"),
        ({"response": "r", "text": "t"}, "r"),
        ({"only": "one"}, "one"),
        ({"only": {"nested": 5}}, "5"),
        ({"text": 5, "b": "é"}, '{"text": 5, "b": "é"}'),
        ([1, 2], "[1, 2]"),
    ],
)
def test_an_observation_as_text(observation: Any, text: str) -> None:
    assert observation_text(observation) == text


def test_a_field_of_a_dict_or_an_object() -> None:
    assert field_of({"a": 1}, "a") == field_of(SimpleNamespace(a=1), "a") == 1
    assert field_of({"a": 1}, "b", 2) == field_of(SimpleNamespace(a=1), "b", 2) == 2
    assert field_of({}, "b") is None


def test_a_prompt_that_is_text_goes_before_the_observation() -> None:
    tokenizer = Letters()
    format = TextFormat(str.upper)
    assert tokenizer.decode(format.begin("Play: ", Seen("go"), tokenizer)) == "Play: go"
    assert format.action("abc", [5]) == "ABC"


@pytest.mark.parametrize(
    ("prompt", "system", "text"),
    [
        ([{"role": "user", "content": "Play"}], None, "<user>Play\ngo|<assistant>"),
        ([{"role": "user", "content": ""}], None, "<user>go|<assistant>"),
        ([], None, "<user>go|<assistant>"),
        ([], "Be brief", "<system>Be brief|<user>go|<assistant>"),
    ],
)
def test_messages_end_with_the_observation(prompt: Any, system: str | None, text: str) -> None:
    tokenizer = Letters(template=True)
    given = [dict(each) for each in prompt]
    format = TextFormat(str, system=system)
    assert tokenizer.decode(format.begin(prompt, Seen("go"), tokenizer)) == text
    assert prompt == given  # the row is the caller's
    assert tokenizer.asked == [{"add_generation_prompt": True, "return_dict": False}]


def test_an_observation_without_text_leaves_the_prompt_as_it_is() -> None:
    tokenizer = Letters(template=True)
    format = TextFormat(str, to_text=lambda observation: "")
    ids = format.begin([{"role": "user", "content": "Play"}], None, tokenizer)
    assert tokenizer.decode(ids) == "<user>Play|<assistant>"


def test_a_step_is_the_users_turn() -> None:
    tokenizer = Letters(template=True)
    format = TextFormat(str)
    follow = format.follow(Seen("next"), [], tokenizer)
    assert tokenizer.decode(follow) == "|<user>next|<assistant>"
    # The model has written the end of its message itself.
    assert format.follow(Seen("next"), [5, ord("|")], tokenizer) == follow[1:]
    assert format.follow(Seen("next"), [5], tokenizer) == follow


def test_a_step_without_a_template_is_a_line() -> None:
    tokenizer = Letters()
    assert TextFormat(str).follow(Seen("next"), [5], tokenizer) == list(b"\nnext\n")


def test_the_chat_environment_speaks_tokens() -> None:
    tokenizer = Letters()
    format = ChatFormat()
    opening = {"tokens": list(b"<user>hi"), "response": "hi"}
    assert format.begin("hidden", opening, tokenizer) == list(b"<user>hi")
    assert format.action("text", [4, 5]) == {"tokens": [4, 5]}
    assert format.follow({"response_tokens": (6, 7)}, [4, 5], tokenizer) == [6, 7]
    with pytest.raises(InvalidOption, match="tokenizer is not the model's"):
        format.begin("hidden", {"tokens": list(b"xyz"), "response": "hi"}, tokenizer)
