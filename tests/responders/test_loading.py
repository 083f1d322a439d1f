"""Responders made of one line of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from openenv_async.errors import InvalidOption
from openenv_async.responders import OpenAIResponder, Reply, ScriptedResponder, load_responder


def said(*texts: str) -> list[dict[str, str]]:
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def count_letters(messages: Sequence[Mapping[str, str]]) -> str:
    return str(len(messages[-1]["content"]))


async def shout(messages: Sequence[Mapping[str, str]]) -> Reply:
    return Reply(messages[-1]["content"].upper(), "shouted")


def make_polite() -> ScriptedResponder:
    return ScriptedResponder(["please"])


class Silent:
    """A class whose instances respond."""

    async def respond(self, messages: object, **options: object) -> Reply:
        return Reply("")

    async def aclose(self) -> None:
        """Nothing is held."""


silent = Silent()


def with_default(messages: Sequence[Mapping[str, str]] = ()) -> str:
    return f"{len(messages)} messages"


def make_nothing() -> int:
    return 3


async def test_text_describes_responders(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"rules": {"^(.)": r"\1!"}, "default": "-"}))
    for text, answer in {
        'scripted:["x"]': "x",
        'scripted:{"rules": {"hey": ["y"]}}': "y",
        f"scripted:{script}": "h!",
        f"{__name__}:count_letters": "3",
        f"{__name__}:shout": "HEY",
        f"{__name__}:make_polite": "please",
    }.items():
        responder = load_responder(text)
        assert (await responder.respond(said("hey"))).text == answer, text


def test_text_describes_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    made = load_responder("openai:some/model")
    assert isinstance(made, OpenAIResponder)
    assert (made.model, made.base_url) == ("some/model", "https://api.openai.com/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert load_responder("openai:m").base_url == "http://127.0.0.1:1/v1"  # type: ignore[attr-defined]  # one of ours
    made = load_responder("openai:m@http://localhost:8/v1#timeout=3&api_key_variable=MY_KEY")
    assert isinstance(made, OpenAIResponder)
    assert made.base_url == "http://localhost:8/v1"
    assert (made._timeout, made._api_key_variable) == (3.0, "MY_KEY")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "write scripted:"),
        ("scripted:", "write scripted:"),
        ("scripted:[]", "at least one"),
        ("scripted:{}", "a script is"),
        ('scripted:{"rules": {}, "speed": 1}', "no 'speed'"),
        ("scripted:no/such/file.json", "No such file"),
        ("openai:m@ftp://x", "not a base URL"),
        ("openai:m@http://x#color=red", "no setting 'color'"),
        ("openai:m@http://x#timeout=soon", "could not convert"),
        ("openai:@http://x", "name of a model"),
        ("no_such_module_here:x", "no module"),
        ("json:nothing_of_the_kind", "has no"),
        ("json:__name__", "cannot be called"),
        ("collections:OrderedDict", "no respond"),
    ],
)
def test_text_that_describes_none(text: str, why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        load_responder(text)


async def test_objects_and_classes_that_respond_are_taken_as_they_are() -> None:
    assert load_responder(f"{__name__}:silent") is silent
    assert isinstance(load_responder(f"{__name__}:Silent"), Silent)
    with pytest.raises(InvalidOption, match="it makes a int"):
        load_responder(f"{__name__}:make_nothing")


async def test_a_function_is_called_with_the_messages_if_it_needs_an_argument() -> None:
    with pytest.raises(InvalidOption, match="it makes a str"):
        load_responder(f"{__name__}:with_default")  # it needs none: it would make a responder


def test_a_script_may_be_a_list_or_rules_and_spaces_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "lines.json"
    file.write_text('["a", "b"]')
    assert isinstance(load_responder(f"  scripted:{file}  "), ScriptedResponder)
    with pytest.raises(InvalidOption, match="a script is a list of lines"):
        load_responder('scripted:{"default": "x"}')
    with pytest.raises(InvalidOption, match="a script is a list of lines"):
        load_responder('scripted:{"rules": ["a"]}')


def test_settings_of_an_endpoint_may_be_empty_and_are_numbers() -> None:
    made = load_responder("openai:m#max_attempts=2")
    assert isinstance(made, OpenAIResponder)
    assert made._max_attempts == 2
    with pytest.raises(InvalidOption, match="known: timeout, max_attempts, api_key_variable"):
        load_responder("openai:m#a=1")
    with pytest.raises(InvalidOption, match="bad query field"):
        load_responder("openai:m#timeout")
