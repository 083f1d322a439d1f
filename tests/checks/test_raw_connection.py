"""The raw connection: frames leave as they are given, and come as they were sent."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import serve
from openenv_async.checks.raw_connection import RawConnection
from openenv_async.errors import SessionNotFound, Unauthorized
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Hello,
    Open,
    Opened,
    State,
    StateIs,
    Step,
    Welcome,
)
from openenv_async.testing import ConformanceEnvironment

FORMATS = pytest.mark.parametrize("format", ["msgpack", "json"])


@FORMATS
async def test_it_greets_and_begins_an_episode(format: str) -> None:
    async with (
        serve(ConformanceEnvironment) as url,
        RawConnection.connect(url, f"openenv.v1.{format}") as connection,
    ):
        assert connection.format == format
        assert connection.epoch
        assert connection.server["environment"] == "ConformanceEnvironment"
        session, secret = await connection.begin(3)
        assert len(session) == len(secret) == 32
        connection.send(Step(3, 2, 1, connection.payload({"command": "echo", "text": "back"})))
        reply = await connection.receive_ok()
        assert connection.value(reply.payload)["text"] == "back"
        assert connection.value(None) is None


async def test_without_a_greeting_nothing_was_said() -> None:
    async with (
        serve(ConformanceEnvironment) as url,
        RawConnection.connect(url, "openenv.v1.json", hello=False) as connection,
    ):
        assert (connection.epoch, connection.server) == ("", {})
        connection.send(Hello(PROTOCOL_VERSION))
        assert isinstance(await connection.receive(), Welcome)


async def test_messages_wait_for_the_next_receive_and_keep_their_order() -> None:
    async with (
        serve(ConformanceEnvironment) as url,
        RawConnection.connect(url, "openenv.v1.msgpack") as connection,
    ):
        connection.send(Open(1, "1" * 32, "2" * 32))
        connection.send_bytes(b"garbage")
        connection.send_items([[4, 9, 1], "no frame"])
        frames: list[Any] = [await connection.receive() for _ in range(4)]
        [opened] = [frame for frame in frames if isinstance(frame, Opened)]
        assert opened.channel == 1
        failed = [(frame.code, frame.channel) for frame in frames if frame is not opened]
        assert failed == [("protocol_error", 0), ("session_not_found", 9), ("protocol_error", 0)]


async def test_a_failure_is_raised_as_the_error_that_it_carries() -> None:
    async with (
        serve(ConformanceEnvironment) as url,
        RawConnection.connect(url, "openenv.v1.msgpack") as connection,
    ):
        connection.send(State(9, 1))
        with pytest.raises(SessionNotFound):
            await connection.receive_ok()
        await connection.begin()
        connection.send(State(1, 2, 1))
        assert isinstance(await connection.receive_ok(), StateIs)


async def test_the_token_is_shown() -> None:
    from websockets.exceptions import InvalidStatus

    async with serve(ConformanceEnvironment, token="secret") as url:
        async with RawConnection.connect(url, "openenv.v1.json", "secret") as connection:
            assert connection.epoch
        with pytest.raises((InvalidStatus, Unauthorized)):
            async with RawConnection.connect(url, "openenv.v1.json"):
                pass
