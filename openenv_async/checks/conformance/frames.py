"""The connection itself: order, duplicates, strangers and newer peers, with frames sent by hand."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.raw_connection import RawConnection
from openenv_async.checks.registry import Skipped, check, require
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Cancel,
    Close,
    Closed,
    Credit,
    Failed,
    Frame,
    Hello,
    Observation,
    Open,
    Opened,
    Partial,
    Renew,
    Reset,
    State,
    StateIs,
    Step,
    Welcome,
)

_ORDER = "docs/protocol.md, section 5: sequence numbers and replies"
_FRAMES = "docs/protocol.md, section 2: messages and frames"


def _step(connection: RawConnection, seq: int, ack: int, **fields: Any) -> Step:
    credit = fields.pop("credit", 0)
    return Step(1, seq, ack, connection.payload({"command": "echo", **fields}), None, credit)


async def _failed(connection: RawConnection, code: str, channel: int, seq: int) -> Failed:
    frame = await connection.receive()
    require(isinstance(frame, Failed), f"expected Failed {code}, got {frame!r:.200}")
    assert isinstance(frame, Failed)
    found = (frame.code, frame.channel, frame.seq)
    require(found == (code, channel, seq), f"expected {(code, channel, seq)}, got {found}")
    return frame


async def _answered(connection: RawConnection, seq: int, text: str) -> Observation:
    frame = await connection.receive()
    require(isinstance(frame, Observation), f"expected an Observation, got {frame!r:.200}")
    assert isinstance(frame, Observation)
    require(frame.seq == seq, f"expected the reply to {seq}, got that to {frame.seq}")
    value = connection.value(frame.payload)["text"]
    require(value == text, f"expected {text!r}, got {value!r}")
    return frame


@check("conformance", "frames", remedy="docs/protocol.md, section 4: Hello and Welcome")
async def the_server_greets(subject: Subject) -> None:
    """Welcome names version, epoch, limits and capabilities."""
    async with subject.transport.raw_connection() as connection:
        require(connection.epoch, "there is no epoch")
        for key in ("server", "environment", "schema_hash", "capabilities", "max_message_size"):
            require(
                key in connection.server, f"the welcome has no {key!r}: {sorted(connection.server)}"
            )


@check("conformance", "frames", remedy="docs/protocol.md, section 4: Hello and Welcome")
async def an_older_version_is_refused(subject: Subject) -> None:
    """A client of version 0 is told so; it may try again."""
    async with subject.transport.raw_connection() as connection:
        connection.send(Hello(0))
        await _failed(connection, "version_mismatch", 0, 0)
        connection.send(Hello(PROTOCOL_VERSION))
        require(isinstance(await connection.receive(), Welcome), "no welcome for the right version")


@check("conformance", "frames", own=True, remedy=_ORDER)
async def a_duplicate_gets_the_same_reply(subject: Subject) -> None:
    """A request sent twice is run once, and answered twice with the same reply."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        step = _step(connection, 2, 0, text="once")
        connection.send(step)
        first = await _answered(connection, 2, "once")
        connection.send(step, step)
        for _ in range(2):
            again = await _answered(connection, 2, "once")
            require(bytes(again.payload) == bytes(first.payload), "the reply changed")
        connection.send(_step(connection, 3, 2, text="next"))
        reply = await _answered(connection, 3, "next")
        steps = connection.value(reply.payload)["steps"]
        require(steps == 2, f"the environment took {steps} steps instead of 2")


@check("conformance", "frames", own=True, remedy=_ORDER)
async def another_request_under_a_number_is_refused(subject: Subject) -> None:
    """A number belongs to its request: another one is refused, and the reply stays kept."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        step = _step(connection, 2, 0, text="once")
        connection.send(step)
        await _answered(connection, 2, "once")
        others: tuple[Frame, ...] = (
            _step(connection, 2, 0, text="other"),
            State(1, 2),
            Reset(1, 2),
            Close(1, 2),
        )
        for other in others:
            connection.send(other)
            await _failed(connection, "protocol_error", 1, 2)
        connection.send(Step(1, 2, 1, step.payload, 30.0, 5))  # these are of the sending
        await _answered(connection, 2, "once")
        connection.send(_step(connection, 3, 2, text="next"))
        reply = await _answered(connection, 3, "next")
        steps = connection.value(reply.payload)["steps"]
        require(steps == 2, f"the environment took {steps} steps instead of 2")


@check("conformance", "frames", remedy=_FRAMES)
async def a_number_out_of_bounds_costs_its_frame(subject: Subject) -> None:
    """Numbers past 64 bits are refused with their frames; the others of the message count."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        connection.send_items([[4, 1, 2**63, 1], [4, 1, 2, 1], [7, 1, 2, 2**63], [6, 2**63, 1]])
        replies = [await connection.receive() for _ in range(4)]  # the state comes when it is there
        refused = [
            (reply.code, reply.channel, reply.seq) for reply in replies if isinstance(reply, Failed)
        ]
        expected = [("protocol_error", *where) for where in ((1, 0), (1, 2), (0, 1))]
        require(refused == expected, f"expected {expected}, got {refused}")
        answered = any(isinstance(reply, StateIs) for reply in replies)
        require(answered, f"the request beside them was not answered: {replies!r:.300}")


@check("conformance", "frames", own=True, remedy=_ORDER)
async def a_duplicate_joins_the_running_one(subject: Subject) -> None:
    """A request repeated while it runs is answered once."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        payload = connection.payload({"command": "sleep", "value": 0.1})
        connection.send(Step(1, 2, 1, payload), Step(1, 2, 1, payload))
        connection.send(Step(1, 2, 1, payload))
        await _answered(connection, 2, "slept")
        connection.send(_step(connection, 3, 2, text="next"))
        await _answered(connection, 3, "next")


@check("conformance", "frames", own=True, remedy=_ORDER)
async def a_gap_is_refused(subject: Subject) -> None:
    """A request that leaves one out is refused and not run; the missing one is still taken."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        connection.send(_step(connection, 4, 1, text="too far"))
        await _failed(connection, "protocol_error", 1, 4)
        connection.send(_step(connection, 2, 1, text="right"))
        reply = await _answered(connection, 2, "right")
        require(connection.value(reply.payload)["steps"] == 1, "the refused step was run")


@check("conformance", "frames", own=True, remedy=_ORDER)
async def a_stale_request_is_refused(subject: Subject) -> None:
    """A request whose reply was acknowledged is refused, not run again."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        old = _step(connection, 2, 1, text="old")
        connection.send(old)
        await _answered(connection, 2, "old")
        connection.send(_step(connection, 3, 2, text="new"))
        await _answered(connection, 3, "new")
        connection.send(old)
        await _failed(connection, "protocol_error", 1, 2)
        connection.send(_step(connection, 4, 3, text="newer"))
        reply = await _answered(connection, 4, "newer")
        require(connection.value(reply.payload)["steps"] == 3, "the stale step was run")


@check("conformance", "frames", own=True, remedy=_ORDER)
async def a_busy_session_refuses_on_the_wire(subject: Subject) -> None:
    """A second request while one runs fails as busy; the first is answered."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        sleeping = connection.payload({"command": "sleep", "value": 0.1})
        connection.send(Step(1, 2, 1, sleeping), _step(connection, 3, 1, text="second"))
        await _failed(connection, "session_busy", 1, 3)
        await _answered(connection, 2, "slept")


@check("conformance", "frames", own=True, remedy="docs/protocol.md, section 5: Cancel")
async def a_cancelled_request_is_answered(subject: Subject) -> None:
    """Cancel answers the running request as cancelled; the next one waits and is run."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        connection.send(
            Step(1, 2, 1, connection.payload({"command": "sleep", "value": 60.0})),
            Cancel(1, 2),
            _step(connection, 3, 1, text="next"),
        )
        await _failed(connection, "cancelled", 1, 2)
        await _answered(connection, 3, "next")


@check("conformance", "frames", remedy="a Cancel of anything must hurt nobody")
async def a_cancel_of_nothing_is_ignored(subject: Subject) -> None:
    """Cancel, Credit and Renew for channels and requests that are not there do nothing."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        connection.send(
            Cancel(1, 99), Cancel(7, 1), Credit(1, 99, 5), Credit(7, 1, 5), Renew(7), Renew(0)
        )
        connection.send(State(1, 2, 1))
        reply = await connection.receive()
        require(isinstance(reply, StateIs), f"got {reply!r:.200}")


@check("conformance", "frames", own=True, remedy="docs/protocol.md, section 5: Streaming")
async def partials_keep_to_the_credit(subject: Subject) -> None:
    """No more partials come than there is credit for, until more is given."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        action = connection.payload({"command": "stream", "count": 5})
        connection.send(Step(1, 2, 1, action, None, 2))
        seen = [await connection.receive() for _ in range(2)]
        connection.send(
            Hello(PROTOCOL_VERSION)
        )  # answered at once, so what came before came before
        between = await connection.receive()
        require(isinstance(between, Welcome), f"over its credit the server sent {between!r:.200}")
        connection.send(Credit(1, 2, 10))
        seen += [await connection.receive() for _ in range(3)]
        require(all(isinstance(frame, Partial) for frame in seen), f"got {seen!r:.300}")
        require([frame.index for frame in seen] == [0, 1, 2, 3, 4], "their indices are wrong")
        await _answered(connection, 2, "5")


@check("conformance", "frames", remedy=_FRAMES)
async def a_newer_peers_fields_are_ignored(subject: Subject) -> None:
    """Trailing fields that nobody knows yet change nothing."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        tomorrow = ["a field of tomorrow", {"and": ["another"]}]
        connection.send_items([[4, 1, 2, 1, None, False, *tomorrow]])
        reply = await connection.receive()
        require(isinstance(reply, StateIs), f"got {reply!r:.200}")


@check("conformance", "frames", remedy=_FRAMES)
async def a_bad_frame_costs_only_itself(subject: Subject) -> None:
    """Unknown kinds and malformed frames are answered as such; their neighbours count."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        connection.send_items([[99, 1, 7], [4, 1, "seq"], [], "frame", [4, 1, 2, 1]])
        for channel, seq in ((1, 7), (1, 0), (0, 0), (0, 0)):
            await _failed(connection, "protocol_error", channel, seq)
        reply = await connection.receive()
        require(isinstance(reply, StateIs), f"got {reply!r:.200}")


@check("conformance", "frames", remedy=_FRAMES)
async def a_bad_message_costs_only_itself(subject: Subject) -> None:
    """Garbage, and arrays nested 100,000 deep, are answered; the connection goes on."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        nested = b"[" if connection.format == "json" else b"\x91"
        garbage = b"garbage" if connection.format == "json" else b"\xc1\xff\x00garbage"
        for message in (garbage, nested * 100_000, connection.payload({"no": "batch"})):
            connection.send_bytes(message)
            await _failed(connection, "protocol_error", 0, 0)
        connection.send(State(1, 2, 1))
        reply = await connection.receive()
        require(isinstance(reply, StateIs), f"got {reply!r:.200}")


@check("conformance", "frames", remedy="docs/protocol.md, section 5: Opening")
async def a_channel_without_a_session_fails_alone(subject: Subject) -> None:
    """Requests on channels that have no session, and opens on taken ones, are refused."""
    async with subject.transport.raw_connection() as connection:
        await connection.begin()
        connection.send(State(9, 1))
        await _failed(connection, "session_not_found", 9, 1)
        for channel in (0, 1, -5):
            connection.send(Open(channel, secrets.token_hex(16), secrets.token_hex(16)))
            await _failed(connection, "protocol_error", channel, 0)
        connection.send(State(1, 2, 1))
        require(isinstance(await connection.receive(), StateIs), "the session was hurt")


@check("conformance", "frames", remedy="docs/protocol.md, section 6: the secret must match")
async def a_session_needs_its_secret(subject: Subject) -> None:
    """A session can only be attached to with its secret."""
    async with subject.transport.raw_connection() as connection:
        session, secret = await connection.begin()
        async with subject.transport.raw_connection() as thief:
            thief.send(Open(1, session, secrets.token_hex(16), True))
            await _failed(thief, "session_not_found", 1, 0)
        connection.send(State(1, 2, 1))
        require(isinstance(await connection.receive(), StateIs), "the session was taken away")
        require(secret, "there was no secret")


@check("conformance", "frames", own=True, remedy="docs/protocol.md, section 6: Leases and resume")
async def a_session_can_be_resumed(subject: Subject) -> None:
    """The session goes on over a new connection, and repeated requests are not run twice."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(subject.transport.raw_connection())
        session, secret = await first.begin()
        if not (first.server.get("timeouts") or {}).get("resume"):
            raise Skipped("the server keeps no session beyond its connection")
        step = _step(first, 2, 0, text="once")
        first.send(step)
        await _answered(first, 2, "once")
        second = await stack.enter_async_context(subject.transport.raw_connection())
        second.send(Open(4, session, secret, True, 1), Step(4, 2, 1, step.payload))
        opened = await second.receive()
        require(opened == Opened(4, True, 2), f"got {opened!r:.200}")
        again = await _answered(second, 2, "once")
        require(again.channel == 4, f"it came on channel {again.channel}")
        require(second.value(again.payload)["steps"] == 1, "the step was run twice")
        second.send(Close(4, 3, 2))
        closed = await second.receive()
        require(closed == Closed(4, 3), f"got {closed!r:.200}")


@check("conformance", "frames", remedy="docs/protocol.md, section 6: Leases and resume")
async def closing_frees_the_channel(subject: Subject) -> None:
    """The channel may hold another session after Closed."""
    async with subject.transport.raw_connection() as connection:
        for _ in range(3):
            await connection.begin()
            connection.send(Close(1, 2, 1))
            closed = await connection.receive()
            require(closed == Closed(1, 2), f"got {closed!r:.200}")
