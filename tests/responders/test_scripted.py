"""Replies by a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from openenv_async.responders import Reply, Responder, ScriptedResponder


def said(*texts: str) -> list[dict[str, str]]:
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def count_letters(messages: Sequence[Mapping[str, str]]) -> str:
    return str(len(messages[-1]["content"]))


async def shout(messages: Sequence[Mapping[str, str]]) -> Reply:
    return Reply(messages[-1]["content"].upper(), "shouted")


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
