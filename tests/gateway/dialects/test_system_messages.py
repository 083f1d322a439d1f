"""System messages for models that take one, at the beginning."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.gateway.calls import Call
from openenv_async.gateway.dialects.system_messages import put_system_first

TEXT: dict[str, Any] = {"type": "text", "text": "b"}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "made", "notes"),
    [
        ([], [], 0),
        ([user("hi")], [user("hi")], 0),
        ([system("a"), user("hi")], [system("a"), user("hi")], 0),
        ([system("a"), system("b"), user("hi")], [system("a\n\nb"), user("hi")], 1),
        (
            [system("a"), system([TEXT]), user("hi")],
            [system([{"type": "text", "text": "a"}, TEXT]), user("hi")],
            1,
        ),
        ([user("hi"), system([TEXT]), system("c")], [user("hi"), user([TEXT]), user("c")], 1),
        ([system("a"), system("b"), user("c"), system("d")], None, 2),
    ],
)
def test_one_comes_first(
    messages: list[dict[str, Any]], made: list[dict[str, Any]] | None, notes: int
) -> None:
    call = Call(dialect="chat", messages=messages)
    put_system_first(call)
    if made is not None:
        assert call.messages == made
    assert len(call.left_out) == notes
    assert [message["role"] for message in call.messages].count("system") <= 1
