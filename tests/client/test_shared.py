"""The client's end of shared memory: views, the end of their use, and references that are wrong."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import openenv_async.client.shared as shared
from openenv_async.client.shared import SharedCodec
from openenv_async.endpoints.segments import Segment, map_segment
from openenv_async.errors import ProtocolError
from openenv_async.models import PayloadCodec
from openenv_async.protocol.blocks import Lender, unpack_loans
from openenv_async.protocol.codec import MsgpackCodec
from openenv_async.protocol.columns import pack_channels, pack_numbers
from openenv_async.protocol.frames import Failed, Frame, Observation, ObservationColumns, Release

SIZE = 1 << 20
ANY: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
SERVER = MsgpackCodec("server", 1 << 30)


def joined() -> tuple[Lender, SharedCodec]:
    segment = Segment.create(SIZE)
    assert segment is not None
    memory = map_segment([segment.take_fd()], SIZE)
    assert memory is not None
    return Lender(segment.memory), SharedCodec(1 << 30, memory)


def sent(lender: Lender, value: Any) -> bytes:
    """A message with one reply whose payload is in shared memory."""
    reference = lender.refer(ANY.encode(value))
    assert reference is not None
    return SERVER.encode([Observation(1, 1, reference)])


def forged(loan: int, offset: int, length: int) -> bytes:
    return b"\xc1" + b"".join(n.to_bytes(8, "little") for n in (loan, offset, length))


def given_back(codec: SharedCodec) -> list[int]:
    return list(unpack_loans(bytes(codec.take_release().loans)))


def test_a_loan_goes_back_with_the_last_view() -> None:
    lender, codec = joined()
    [frame] = codec.decode(sent(lender, {"a": np.arange(5000), "b": np.ones(3000, np.uint8)}))
    value = ANY.decode(frame.payload)
    views: list[Any] = [value["a"], value["b"][10:20].reshape(2, 5), frame]
    del frame, value
    views.append(memoryview(views[1]))
    while len(views) > 1:
        del views[0]
        assert not codec.has_returns
    assert views.pop()[0, 0] == 1
    assert given_back(codec) == [1]
    assert not codec.has_returns
    assert codec.loans == 0


def test_a_reference_is_found_among_what_looks_like_one() -> None:
    lender, codec = joined()
    reference = lender.refer(ANY.encode("a"))
    assert reference is not None
    plain = ANY.encode(b"\xc1" * 30 + b"\x19\x18" + b"\xc1")
    for payloads in ([plain, reference], [reference, plain], [reference], [plain, plain]):
        replies = [Observation(n, 1, payload) for n, payload in enumerate(payloads)]
        frames = codec.decode(SERVER.encode(replies))
        expected = ["a" if payload is reference else ANY.decode(plain) for payload in payloads]
        assert [ANY.decode(frame.payload) for frame in frames] == expected
        del frames
        assert not codec.loans or given_back(codec) == [1]


def test_views_are_given_back_from_any_thread() -> None:
    lender, codec = joined()
    views = [ANY.decode(codec.decode(sent(lender, np.full(2000, i)))[0].payload) for i in range(40)]
    assert codec.loans == 40

    def drop() -> None:
        while True:
            try:
                view = views.pop()
            except IndexError:
                return
            assert view.max() == view.min()

    threads = [threading.Thread(target=drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given_back(codec)) == list(range(1, 41))
    lender.give_back(range(1, 41))
    assert lender.table.free == SIZE


def test_a_release_has_so_many_loans_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_MOST", 3)
    lender, codec = joined()
    for _ in range(4):
        codec.decode(sent(lender, b"x" * 9000))
    assert given_back(codec) == [1, 2, 3]
    assert given_back(codec) == [4]


def test_without_numpy_payloads_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_numpy", lambda: None)
    lender, codec = joined()
    [frame] = codec.decode(sent(lender, "x" * 9000))
    assert ANY.decode(frame.payload) == "x" * 9000
    assert type(frame.payload) is bytes
    assert given_back(codec) == [1]


@pytest.mark.parametrize(
    ("offset", "length"), [(SIZE, 1), (0, SIZE + 1), (2**64 - 1, 2**64 - 1), (SIZE - 1, 2)]
)
def test_a_reference_outside_the_segment_fails_its_request(offset: int, length: int) -> None:
    _, codec = joined()
    good = Observation(2, 5, ANY.encode({"x": 1}))
    message = SERVER.encode([Observation(1, 7, forged(1, offset, length)), good])
    failed, other = codec.decode(message)
    assert isinstance(failed, Failed)
    assert (failed.channel, failed.seq, failed.code) == (1, 7, "protocol_error")
    assert "not inside the shared memory" in failed.message
    assert ANY.decode(other.payload) == {"x": 1}
    assert not codec.has_returns


def test_a_loan_that_comes_twice_fails_the_second_request() -> None:
    _, codec = joined()
    frames = [Observation(1, 7, forged(3, 0, 100)), Observation(2, 9, forged(3, 0, 100))]
    first, second = codec.decode(SERVER.encode(frames))
    assert isinstance(first, Observation)
    assert isinstance(second, Failed)
    assert (second.channel, second.seq) == (2, 9)
    del first
    assert given_back(codec) == [3]


def test_a_wrong_reference_of_a_reply_to_many_fails_the_message() -> None:
    _, codec = joined()
    frame: Frame = ObservationColumns(
        pack_channels([1, 2]), pack_numbers([1]), forged(1, SIZE, 9), b"\0" * 16, b"\0\0"
    )
    with pytest.raises(ProtocolError, match="not inside"):
        codec.decode(SERVER.encode([frame]))


def test_nothing_but_a_reference_is_taken_for_one() -> None:
    _, codec = joined()
    for payload in (b"\xc1", b"", b"\xc1" * 26, ANY.encode("x" * 23)):
        [frame] = codec.decode(SERVER.encode([Observation(1, 1, payload)]))
        assert frame.payload == payload


def test_a_release_is_a_frame_of_the_client() -> None:
    _, codec = joined()
    codec.decode(SERVER.encode([Observation(1, 7, forged(3, 0, 100))]))
    [read] = SERVER.decode(codec.encode([codec.take_release()]))
    assert read == Release(b"\3" + b"\0" * 7)
