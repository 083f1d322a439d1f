"""Scripts, and responders made of one line of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from openenv_async.errors import InvalidOption
from openenv_async.responders import (
    OpenAIResponder,
    Reply,
    Responder,
    ScriptedResponder,
    load_responder,
)


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


async def test_lines_follow_the_conversation_not_the_calls() -> None:
    responder = ScriptedResponder(["one", "two"])
    assert isinstance(responder, Responder)
    for _ in range(2):
        assert (await responder.respond(said("a"))).text == "one"
        assert (await responder.respond(said("a", "one", "b"))).text == "two"
        assert (await responder.respond(said("a", "one", "b", "two", "c"))).text == "two"


async def test_rules_take_the_first_that_fits_and_its_groups() -> None:
    responder = ScriptedResponder(
        rules=[(r"my name is (\w+)", r"hello \1"), ("hello", "hi")], default="what?"
    )
    assert (await responder.respond(said("hello, my name is Ada"))).text == "hello Ada"
    assert (await responder.respond(said("hello"))).text == "hi"
    assert (await responder.respond(said("hello", "hi", "bye"))).text == "what?"


async def test_a_seed_draws_among_replies() -> None:
    responder = ScriptedResponder(rules=[("", ["a", "b", "c"])])
    drawn = [(await responder.respond(said("x"), seed=seed)).text for seed in range(20)]
    assert drawn == [(await responder.respond(said("x"), seed=seed)).text for seed in range(20)]
    assert set(drawn) == {"a", "b", "c"}
    assert (await responder.respond(said("x"))).text == "a"


async def test_functions_may_be_sync_or_async() -> None:
    assert (await ScriptedResponder(function=count_letters).respond(said("four"))).text == "4"
    reply = await ScriptedResponder(function=shout).respond(said("hey"))
    assert (reply.text, reply.finish_reason) == ("HEY", "shouted")


async def test_stop_and_max_tokens_cut() -> None:
    responder = ScriptedResponder(["one two  three END four"])
    reply = await responder.respond(said("x"), stop=["END", "never"])
    assert (reply.text, reply.finish_reason) == ("one two  three ", "stop")
    reply = await responder.respond(said("x"), stop=["END"], max_tokens=2)
    assert (reply.text, reply.finish_reason) == ("one two", "length")


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"lines": []},
        {"lines": "text"},
        {"lines": ["a"], "function": count_letters},
        {"rules": [("(", "a")]},
        {"rules": [("a", [])]},
    ],
)
def test_scripts_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"one of|at least one|not a regular|no reply"):
        ScriptedResponder(**bad)  # type: ignore[arg-type]  # wrong on purpose


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
