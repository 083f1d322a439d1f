"""The gateway's HTTP, apart from what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest

from openenv_async.errors import PayloadTooLarge, Unauthorized
from openenv_async.gateway.app import GatewayApp, headers_of, key_of, read_body
from openenv_async.gateway.retries import Sample


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

    is_lost = True
    was_reset = True
    received = 2
    on_lost: Callable[[], None] | None = None

    def cut(self) -> None: ...


@pytest.mark.parametrize(
    ("received", "deliveries", "is_missed"),
    [(2, 1, True), (1, 1, False), (2, 2, False)],
    ids=["at its end", "more was asked over it", "it went out again since"],
)
def test_the_end_of_a_connection_tells_of_its_last_answer(
    received: int, deliveries: int, is_missed: bool
) -> None:
    noted: list[Any] = []
    backend: Any = SimpleNamespace(unread=lambda *what: noted.append(what))
    verb: Any = None
    app = GatewayApp(backend, {}, verb, 100)
    sample = Sample(number=0, digest=b"", thread={}, deliveries=["whole"] * deliveries)
    app._lost(Connection(), "s1", sample, received, 0)
    assert noted == ([("s1", 0)] if is_missed else [])
    assert sample.is_disconnected == is_missed
    assert sample.deliveries[-1] == ("broken" if is_missed else "whole")
