"""Hostile messages: always a typed error, never an exception, and nobody else is hurt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async.errors import PayloadTooLarge, ProtocolError
from openenv_async.protocol.codec import BadFrame, frame_codec
from openenv_async.protocol.frames import Failed, Observation, Opened
from tests.helpers import Counter, Format, Peer, make_engine, token

FORMATS: list[Format] = ["msgpack", "json"]

VALID: dict[str, list[bytes]] = {
    "msgpack": [
        msgspec.msgpack.encode(frames)
        for frames in (
            [[0, 1, msgspec.msgpack.encode({"max_message_size": 1 << 20})]],
            [[1, 2, token(2), token(3), False, 0, None, 5.0]],
            [[2, 1, 2, 1, msgspec.msgpack.encode({}), 7, "episode", 1.5]],
            [[3, 1, 2, 1, msgspec.msgpack.encode({"nonce": [1, {"a": None}]}), None, 3]],
            [[16, 1, 2, b"\x81\xa5nonce"], [16, 1, 2, b"\xc0"], [3, 1, 2, 1, b""]],
            [[16, 1, 2, b""], [0, 1], [16, 1, 2, b"x"], [1, 1, token(2), token(3)]],
            [[4, 1, 2], [6, 1, 2], [7, 1, 2, 9], [8, 1, 1], [5, 1, 3]],
        )
    ],
    "json": [
        msgspec.json.encode(frames)
        for frames in (
            [[0, 1, {"max_message_size": 1 << 20}]],
            [[1, 2, token(2), token(3), False, 0, None, 5.0]],
            [[2, 1, 2, 1, {}, 7, "episode", 1.5]],
            [[3, 1, 2, 1, {"nonce": [1, {"a": None}]}, None, 3]],
            [[4, 1, 2], [6, 1, 2], [7, 1, 2, 9], [8, 1, 1], [5, 1, 3]],
        )
    ],
}


@st.composite
def mutated(draw: st.DrawFn, format: str) -> bytes:
    """A valid message with a few bytes changed, cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(VALID[format])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "double", "end"]))
        if kind == "flip" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "double":
            data += bytes(data)
        else:
            del data[at:]
    return bytes(data)


def hostile(format: str) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=600) | mutated(format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("role", ["server", "client"])
@settings(max_examples=300)
@given(data=st.data())
def test_a_codec_gives_frames_or_our_error(format: Format, role: Any, data: st.DataObject) -> None:
    message = data.draw(hostile(format))
    try:
        frames = frame_codec(f"openenv.v1.{format}", role, 4096).decode(message)
    except (ProtocolError, PayloadTooLarge):
        return
    for frame in frames:
        if isinstance(frame, BadFrame):
            assert isinstance(frame.error, ProtocolError)
            assert 0 <= frame.channel < 2**63
            assert 0 <= frame.seq < 2**63


class Bench:
    """A connection under attack and a witness on another one of the same engine."""

    def __init__(self, format: Format) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._start(format))

    async def _start(self, format: Format) -> None:
        self.engine = make_engine(Counter, max_sessions=100_000)
        self.format = format
        self.witness = Peer(self.engine, format)
        await self.witness.begin(500)  # attackers hold sessions 1 and 2
        self.seq = 1

    def attack(self, *messages: bytes | str, after_hello: bool) -> list[Any]:
        return self.runner.run(self._attack(messages, after_hello))

    async def _attack(self, messages: tuple[bytes | str, ...], after_hello: bool) -> list[Any]:
        peer = Peer(self.engine, self.format, hello=after_hello)
        if after_hello:
            assert isinstance(await peer.open(1), Opened)
        for message in messages:
            peer.send_raw(message)
        peer.close()
        self.seq += 1
        seen = await self.witness.stepped(self.seq, {"nonce": self.seq}, 500)
        assert isinstance(seen, Observation)
        return peer.take()

    def close(self) -> None:
        self.runner.run(self.engine.aclose())
        self.runner.close()


@pytest.fixture
def bench(format: Format) -> Iterator[Bench]:
    made = Bench(format)
    yield made
    made.close()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("after_hello", [True, False])
def test_a_connection_survives_everything(format: Format, bench: Bench, after_hello: bool) -> None:

    @settings(max_examples=300)
    @given(messages=st.lists(hostile(format), min_size=1, max_size=3))
    def attack(messages: list[bytes]) -> None:
        bench.attack(*messages, after_hello=after_hello)
        assert len(bench.engine.sessions) == 1

    attack()


NEST: dict[str, Callable[[Format, int], bytes]] = {
    "batch": lambda f, n: b"\x91" * n + b"\xc0" if f == "msgpack" else b"[" * n + b"]" * n,
    "unclosed": lambda f, n: b"\x91" * n if f == "msgpack" else b"[" * n,
    "maps": lambda f, n: (
        b"\x81\x01" * n + b"\xc0" if f == "msgpack" else b'{"a":' * n + b"1" + b"}" * n
    ),
    "in a header": lambda f, n: (
        b"\x91\x95\x03\x01\x02\x00" + b"\x91" * n + b"\xc0"
        if f == "msgpack"
        else b"[[3,1,2," + b"[" * n + b"]" * n + b"]]"
    ),
    "in a trailing field": lambda f, n: (
        b"\x91\x94\x08\x01\x00" + b"\x91" * n + b"\xc0"
        if f == "msgpack"
        else b"[[8,1,0," + b"[" * n + b"]" * n + b"]]"
    ),
    "in a payload": lambda f, n: (
        msgspec.msgpack.encode([[3, 1, 2, 0, b"\x91" * n + b"\xc0"]])
        if f == "msgpack"
        else b"[[3,1,2,0," + b"[" * n + b"]" * n + b"]]"
    ),
    "in the hello": lambda f, n: (
        msgspec.msgpack.encode([[0, 1, b"\x91" * n + b"\xc0"]])
        if f == "msgpack"
        else b"[[0,1," + b"[" * n + b"]" * n + b"]]"
    ),
    "in the options": lambda f, n: (
        msgspec.msgpack.encode([[2, 1, 1, 0, b"\x81\xa1a" * n + b"\xc0"]])
        if f == "msgpack"
        else b"[[2,1,1,0," + b'{"a":' * n + b"1" + b"}" * n + b"]]"
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", NEST)
def test_nesting(format: Format, bench: Bench, kind: str) -> None:
    for levels in (10, 63, 64, 65, 100, 1000, 10_000, 100_000, 1_000_000):
        began = time.perf_counter()
        replies = bench.attack(NEST[kind](format, levels), after_hello=True)
        assert time.perf_counter() - began < 10
        # A newer peer's trailing field may be a small tree, and a Renew has no answer.
        assert replies or (kind == "in a trailing field" and levels < 100)
        for reply in replies:
            assert isinstance(reply, Failed)
            # An action or option may be wrong for its environment; a message is wrong for us.
            assert reply.code in (
                "protocol_error",
                "invalid_action",
                "invalid_option",
                "episode_not_started",
            )


@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_of_a_valid_message(format: Format, bench: Bench) -> None:
    for message in VALID[format]:
        for end in range(len(message)):
            for reply in bench.attack(message[:end], after_hello=True):
                assert isinstance(reply, Failed)
                assert reply.code == "protocol_error"


@pytest.mark.parametrize("format", FORMATS)
def test_numbers_out_of_range(format: Format, bench: Bench) -> None:
    """Channels, numbers, seeds, timeouts and credits that no client would send."""
    pack: Any = msgspec.msgpack.encode if format == "msgpack" else msgspec.json.encode
    payload: Any = pack({}) if format == "msgpack" else {}
    huge = 2**64 - 1 if format == "msgpack" else 10**40
    number: Any
    for number in (0, -1, -(2**63), 2**63, huge, 1e308, -0.0, True, None, "1", [], {}):
        bench.attack(
            pack([[2, number, 1, 0, payload]]),
            pack([[2, 1, number, 0, payload]]),
            pack([[2, 1, 1, number, payload]]),
            pack([[2, 1, 1, 0, payload, number]]),
            pack([[2, 1, 1, 0, payload, None, number]]),
            pack([[2, 1, 1, 0, payload, None, None, number]]),
            pack([[3, 1, 2, 0, payload, number, number]]),
            pack([[1, number, token(7), token(8)]]),
            pack([[1, 9, number, token(8)]]),
            pack([[1, 9, token(7), token(8), number, number]]),
            pack([[0, number]]),
            pack([[number]]),
            pack([number]),
            pack([[6, number, number], [7, number, number, number], [8, number, number]]),
            pack([[5, number, number]]),
            after_hello=True,
        )
    assert len(bench.engine.sessions) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_tokens_that_are_none(format: Format, bench: Bench) -> None:
    pack: Any = msgspec.msgpack.encode if format == "msgpack" else msgspec.json.encode
    for text in ("", "x", "é" * 32, "０" * 32, "../../../../../../../../../etc/pa", "\x00" * 32):
        for session, secret in ((text, token(9)), (token(9), text), (token(500), text)):
            [reply] = bench.attack(pack([[1, 5, session, secret]]), after_hello=True)
            assert isinstance(reply, Failed)
            assert reply.code in ("protocol_error", "session_not_found")
    assert len(bench.engine.sessions) == 1


async def test_a_message_over_the_limit_is_not_decoded() -> None:
    engine = make_engine(Counter)
    size = engine.options.limits.max_message_size
    peer = Peer(engine)
    await peer.begin()
    peer.send_raw(bytes(size + 1))
    [reply] = peer.take()
    assert reply.code == "payload_too_large"
    assert peer.detail(reply)["limit"] == size
    assert isinstance(await peer.stepped(2, {}), Observation)
    await engine.aclose()
