"""A number belongs to its request, over every transport and between them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async import EngineOptions, create_app, serve
from openenv_async.checks.conformance import NativeTransport
from openenv_async.engine.resends import LARGE, Digest, is_same_request, remembered
from openenv_async.models import Format, PayloadCodec
from openenv_async.protocol.frames import (
    Close,
    Failed,
    Observation,
    Open,
    Opened,
    Reset,
    State,
    Step,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ConformanceEnvironment
from tests.helpers import Counter, Peer, gated, make_engine, pack, token, unpack
from tests.helpers import Format as Native

SPEC = EnvironmentSpec(Counter)
FORMATS: list[Format] = ["msgpack", "json"]
SESSION, SECRET = "a" * 32, "b" * 32

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.floats(allow_nan=False)
    | st.binary(max_size=8)
    | st.builds(lambda n: np.arange(n, dtype="float32"), st.integers(0, 5)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def encoded(value: Any, format: Format) -> bytes:
    return PayloadCodec(Any, format).encode(value)


@settings(max_examples=200)
@given(data=st.data(), first=st.sampled_from(FORMATS), again=st.sampled_from(FORMATS))
def test_the_same_content_is_the_same_request_in_any_format(
    data: st.DataObject, first: Format, again: Format
) -> None:
    value = data.draw(st.dictionaries(st.text(max_size=4), values, max_size=3))
    if data.draw(st.booleans()):
        value["blob"] = "x" * (LARGE + 1)
    kept = remembered(Step(1, 2, 1, encoded(value, first), timeout=1.0))
    resent = Step(3, 2, 0, encoded(value, again), timeout=2.0, credit=5)
    assert is_same_request(SPEC, kept, first, resent, again)
    value["another"] = 1
    other = Step(1, 2, 1, encoded(value, again), timeout=1.0)
    assert not is_same_request(SPEC, kept, first, other, again)


def test_what_a_number_belongs_to() -> None:
    reset = Reset(1, 2, 1, encoded({"level": 1}, "msgpack"), 7, "episode", 1.0)
    change = msgspec.structs.replace
    same = [change(reset, ack=0), change(reset, timeout=None), change(reset, channel=9)]
    others: list[Any] = [
        change(reset, seed=8),
        change(reset, seed=None),
        change(reset, episode_id="other"),
        change(reset, payload=None),
        change(reset, payload=encoded({"level": 2}, "msgpack")),
        Step(1, 2, 1, reset.payload or b""),
        State(1, 2),
        Close(1, 2),
    ]
    for again in same:
        assert is_same_request(SPEC, reset, "msgpack", again, "msgpack")
    for again in others:
        assert not is_same_request(SPEC, reset, "msgpack", again, "msgpack")
    plain = Reset(1, 2)
    assert is_same_request(SPEC, plain, "msgpack", change(plain, payload=b"{}"), "json")
    assert is_same_request(SPEC, change(plain, payload=b"\x80"), "msgpack", plain, "json")


@pytest.mark.parametrize("format", FORMATS)
async def test_another_request_under_a_number_is_refused_and_the_reply_stays(
    format: Native,
) -> None:
    engine = make_engine(Counter)
    peer = Peer(engine, format)
    await peer.begin()
    first = await peer.stepped(2, {"nonce": "a"})
    payload = pack({"nonce": "a"}, format)
    for other in (
        Step(1, 2, 1, pack({"nonce": "b"}, format)),
        Reset(1, 2, 1),
        State(1, 2, 1),
        Close(1, 2, 1),
    ):
        peer.send(other)
        [failed] = peer.take()
        assert (failed.seq, failed.code) == (2, "protocol_error")
        assert "another" in failed.message
    peer.send(Step(1, 2, 0, payload, 3.0, 4))
    assert peer.take() == [first]
    assert isinstance(await peer.stepped(3, {"nonce": "c"}), Observation)
    assert engine.stats.steps == 2
    await engine.aclose()


async def test_another_request_under_the_number_of_one_that_runs() -> None:
    kind, gate = gated()
    engine = make_engine(kind)
    peer = Peer(engine)
    await peer.begin()
    peer.send(Step(1, 2, 1, pack({"nonce": 1})))
    peer.send(Step(1, 2, 1, pack({"nonce": 2})), Step(1, 2, 1, pack({"nonce": 1})))
    [failed] = peer.take()
    assert (failed.seq, failed.code) == (2, "protocol_error")
    gate.opened.set()
    assert isinstance(await peer.next(), Observation)
    assert not peer.take()
    await engine.aclose()


async def test_a_large_action_is_told_apart_too() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    action = {"nonce": "x" * (2 * LARGE)}
    first = await peer.stepped(2, action)
    kept = engine.sessions[token(1)].log.get(2)
    assert kept is not None
    assert kept.request.request.payload == b""  # of what is large a digest
    peer.send(Step(1, 2, 0, pack(action)), Step(1, 2, 0, pack({"nonce": "y" * (2 * LARGE)})))
    again, failed = peer.take()
    assert again == first
    assert failed.code == "protocol_error"
    await engine.aclose()


@pytest.mark.parametrize("workers", [None, 1])
async def test_a_request_sent_again_over_every_other_transport(workers: int | None) -> None:
    """Native msgpack, native JSON, and HTTP in its three formats: one step, one reply."""
    options = EngineOptions(workers=workers)
    action = {"command": "draw"}
    async with (
        serve(ConformanceEnvironment, options=options) as url,
        NativeTransport(url).raw_connection() as wire,
        NativeTransport(url, "json").raw_connection() as text,
    ):
        wire.send(Open(1, SESSION, SECRET))
        assert isinstance(await wire.receive_ok(), Opened)
        wire.send(Reset(1, 1, 0, None, 11))
        await wire.receive_ok()
        wire.send(Step(1, 2, 1, wire.payload(action)))
        first = wire.value((await wire.receive_ok()).payload)
        text.send(Open(1, SESSION, SECRET, True), Step(1, 2, 0, text.payload(action)))
        assert isinstance(await text.receive_ok(), Opened)
        assert text.value((await text.receive_ok()).payload) == first
        text.send(Step(1, 2, 0, text.payload({"command": "echo"})))
        refused = await text.receive()
        assert isinstance(refused, Failed)
        assert refused.code == "protocol_error"
        await over_http(url, action, first)


async def over_http(url: str, action: Any, first: Any) -> None:
    headers = {"X-OpenEnv-Session": f"{SESSION}.{SECRET}", "X-OpenEnv-Seq": "2"}
    async with httpx.AsyncClient(base_url=url) as http:
        for media in ("application/json", "application/openenv+json"):
            typed = {**headers, "Content-Type": media}
            reply = await http.post("/step", json={"action": action}, headers=typed)
            assert reply.status_code == 200, reply.text
            assert reply.json()["observation"]["numbers"] == first["numbers"]
        packed = {**headers, "Content-Type": "application/msgpack"}
        body = msgspec.msgpack.encode({"action": action})
        reply = await http.post("/step", content=body, headers=packed)
        assert msgspec.msgpack.decode(reply.content)["observation"] == first
        other = {"action": {"command": "echo"}}
        assert (await http.post("/step", json=other, headers=headers)).status_code == 400
        assert (await http.get("/state", headers=headers)).status_code == 400


async def test_a_caller_who_waits_is_not_given_the_refusal_of_another() -> None:
    """Over HTTP both wait under one number: the answer to a mistake is the mistake's alone."""
    kind, gate = gated()
    transport = httpx.ASGITransport(create_app(kind))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        opened = await http.post("/reset", headers={"X-OpenEnv-Seq": "1"})
        headers = {
            "X-OpenEnv-Session": opened.headers["X-OpenEnv-Session"],
            "X-OpenEnv-Seq": "2",
        }
        step = {"action": {"nonce": 1}}
        first = asyncio.ensure_future(http.post("/step", json=step, headers=headers))
        await gate.entered.wait()
        second = asyncio.ensure_future(http.post("/step", json=step, headers=headers))
        assert (await http.get("/state", headers=headers)).status_code == 400
        other = {"action": {"nonce": 2}}
        assert (await http.post("/step", json=other, headers=headers)).status_code == 400
        gate.opened.set()
        replies = [(await first).json(), (await second).json()]
        assert replies[0] == replies[1]
        assert "observation" in replies[0]


# -- numbers that were refused unread ----------------------------------------------------------


@pytest.mark.parametrize("goes_on_with", [2, 3])
async def test_a_number_whose_request_could_not_be_read_may_be_used_again_or_not(
    goes_on_with: int,
) -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    peer.send_raw(msgspec.msgpack.encode([[3, 1, 2, 1, "no bytes"]]))
    assert [(frame.seq, frame.code) for frame in peer.take()] == [(2, "protocol_error")]
    peer.send(Step(1, goes_on_with, 1, pack({"nonce": 5})))
    [reply] = peer.take()
    assert isinstance(reply, Observation)
    assert unpack(reply.payload)["count"] == 1
    await engine.aclose()


async def test_numbers_far_ahead_are_a_gap_all_the_same() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    peer.send_raw(msgspec.msgpack.encode([[3, 1, 9, 1, "no bytes"]]))
    peer.take()
    for seq in (3, 9, 10):
        peer.send(Step(1, seq, 1, pack({"nonce": 5})))
        [failed] = peer.take()
        assert "gap" in failed.message
    await engine.aclose()


# -- what a small change would break --------------------------------------------------------


def test_a_payload_of_4096_bytes_is_remembered_whole() -> None:
    for kind in (Step, Reset):
        kept = kind(1, 2, 1, b"x" * 4096)
        assert remembered(kept) is kept
        large = remembered(kind(1, 2, 1, b"x" * 4097))
        assert isinstance(large, Digest)
        assert large.payload == hash(b"x" * 4097)
        assert large.request == kind(1, 2, 1, b"")
    for told in (Reset(1, 2, seed=0), Reset(1, 2, episode_id="a"), Reset(1, 2, payload=b"\x80")):
        assert remembered(told) is told
    for bare in (Reset, State, Close):  # nothing but their kind tells them apart: one for all
        assert remembered(bare(1, 2)) is remembered(bare(3, 4))


def test_a_large_reset_is_not_one_without_options() -> None:
    options = encoded({"text": "x" * 5000}, "msgpack")
    kept = remembered(Reset(1, 2, 0, options))
    assert is_same_request(SPEC, kept, "msgpack", Reset(1, 2, 0, options), "msgpack")
    assert not is_same_request(SPEC, kept, "msgpack", Reset(1, 2), "msgpack")
    assert not is_same_request(SPEC, kept, "msgpack", Reset(1, 2, 0, b"\x80"), "msgpack")


def test_options_that_are_none_are_the_same_in_their_own_format_only() -> None:
    plain = Reset(1, 2)
    assert not is_same_request(SPEC, plain, "msgpack", Reset(1, 2, 0, b"\x80"), "json")
    assert not is_same_request(SPEC, plain, "msgpack", Reset(1, 2, 0, b"{}"), "msgpack")
    assert is_same_request(SPEC, plain, "json", Reset(1, 2), "msgpack")


def test_what_cannot_be_read_is_the_same_in_its_own_format_alone() -> None:
    kept = Step(1, 2, 0, b"\xc1")
    assert is_same_request(SPEC, kept, "msgpack", Step(1, 2, 0, b"\xc1"), "msgpack")
    assert not is_same_request(SPEC, kept, "msgpack", Step(1, 2, 0, b"\xc1"), "json")
    assert not is_same_request(SPEC, kept, "msgpack", Step(1, 2, 0, b"\xc2"), "msgpack")
