"""The gateway's HTTP, apart from what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest

from openenv_async.errors import PayloadTooLarge, Unauthorized
from openenv_async.gateway.app import GatewayApp, headers_of, key_of, read_body
from openenv_async.gateway.calls import Answer
from openenv_async.gateway.retries import Sample
from openenv_async.gateway.sessions import Reader


def receiving(
    *parts: bytes, ends: bool = True
) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    """Return a ``receive`` that gives a body in parts; the client leaves at its end, or before."""
    messages: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    if ends:
        messages[-1]["more_body"] = False
    messages.append({"type": "http.disconnect"})
    left = iter(messages)

    async def receive() -> MutableMapping[str, Any]:
        return next(left)

    return receive


def test_a_key_is_shown_in_either_header() -> None:
    assert key_of({"authorization": "Bearer abc"}) == "abc"
    assert key_of({"authorization": "bearer  abc"}) == "abc"
    assert key_of({"x-api-key": "abc"}) == "abc"
    for headers in ({}, {"authorization": "Basic abc"}, {"x-api-key": ""}):
        with pytest.raises(Unauthorized, match="x-api-key"):
            key_of(headers)


def test_headers_are_text() -> None:
    assert headers_of({"headers": [(b"thread-id", b"t\xe9")]}) == {"thread-id": "té"}


@pytest.mark.parametrize("parts", [[b"abcd"], [b"ab", b"", b"cd"]])
async def test_a_body_is_read_whole(parts: list[bytes]) -> None:
    assert await read_body(receiving(*parts), {}, 4) == b"abcd"


@pytest.mark.parametrize("parts", [[b"abcde"], [b"abc", b"de"]])
@pytest.mark.parametrize("headers", [{}, {"content-length": "5"}])
async def test_a_body_has_a_limit(parts: list[bytes], headers: dict[str, str]) -> None:
    with pytest.raises(PayloadTooLarge, match=r"5 bytes.*GatewayLimits\.max_body_size"):
        await read_body(receiving(*parts), headers, 4)


@pytest.mark.parametrize("parts", [[], [b"ab"]])
async def test_a_client_may_leave_before_its_request_is_whole(parts: list[bytes]) -> None:
    assert await read_body(receiving(*parts, ends=False), {}, 4) is None


class Connection:
    """A connection that ended."""

    is_lost = is_closing = has_whole_request = True
    was_reset = True
    received = 2
    on_lost: Callable[[], None] | None = None

    is_cut = False

    def cut(self) -> None:
        self.is_cut = True

    def abort(self) -> None: ...

    def hold(self) -> None: ...

    def flush(self) -> None: ...


@pytest.mark.parametrize(
    ("received", "was_reset", "is_unread"),
    [(2, True, True), (2, False, False), (1, True, False)],
    ids=["reset at its end", "closed", "more was asked over it"],
)
def test_the_end_of_a_connection_tells_of_its_last_answer(
    received: int, was_reset: bool, is_unread: bool
) -> None:
    noted: list[Any] = []
    backend: Any = SimpleNamespace(unread=lambda *what: noted.append(what))
    verb: Any = None
    app = GatewayApp(backend, {}, verb, 100)
    sample = Sample(number=0, digest=b"", thread={}, deliveries=["error", "whole"])
    connection = Connection()
    connection.was_reset = was_reset
    app._lost(connection, "s1", sample, received, 1)
    assert noted == ([("s1", sample, 1)] if is_unread else [])


def test_no_answer_leaves_over_a_connection_that_is_closing() -> None:
    """A connection seems to take what is written until it is lost."""
    backend: Any = SimpleNamespace(leaving=lambda generation: 0)
    verb: Any = None
    app = GatewayApp(backend, {}, verb, 100)
    answer = Answer(text="hello")
    generation: Any = SimpleNamespace(answer=answer, error=None, readers=[])
    reader = Reader(generation, wants_pieces=False)
    connection = Connection()
    assert app._leaving(generation, reader, connection) is None
    assert connection.is_cut
    assert reader.place is None
    connection.is_closing = False
    assert app._leaving(generation, reader, connection) is answer
    assert reader.place == 0
