"""The interface of responders, and stop sequences."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.responders import Reply, Responder, Usage
from openenv_async.responders.base import cut


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (None, "one two one"),
        ([], "one two one"),
        (["three"], "one two one"),
        ([""], "one two one"),
        (["", "two"], "one "),
        (["two", "one"], ""),
        (["ne", "two"], "o"),
        ([" one", "two"], "one "),
    ],
)
def test_a_text_ends_at_the_first_stop_sequence(stop: list[str] | None, left: str) -> None:
    assert cut("one two one", stop) == left


def test_a_reply_is_its_text_unless_more_is_known() -> None:
    reply = Reply("hello")
    assert (reply.text, reply.finish_reason, reply.usage, reply.model) == (
        "hello",
        "stop",
        None,
        None,
    )
    assert Usage(3, 4) == Usage(prompt_tokens=3, completion_tokens=4)
    with pytest.raises(AttributeError):
        reply.text = "other"  # type: ignore[misc]  # frozen


def test_whatever_responds_and_closes_is_a_responder() -> None:
    class Complete:
        async def respond(self, messages: Any, **options: Any) -> Reply:
            return Reply("")

        async def aclose(self) -> None:
            """Nothing is held."""

    class WithoutClose:
        async def respond(self, messages: Any, **options: Any) -> Reply:
            return Reply("")

    assert isinstance(Complete(), Responder)
    assert not isinstance(WithoutClose(), Responder)
