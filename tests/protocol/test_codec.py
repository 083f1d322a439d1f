"""Messages of frames, in both formats."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.errors import PayloadTooLarge, ProtocolError
from openenv_async.protocol.codec import (
    SUBPROTOCOLS,
    BadFrame,
    JsonCodec,
    MsgpackCodec,
    batch_end,
    decode_map,
    encode_map,
    frame_codec,
    frame_size,
    json_reward,
    read_json_reward,
    split_batch,
)
from openenv_async.protocol.frames import (
    CLIENT_FRAMES,
    MSGPACK_FRAMES,
    PAYLOAD_FIELDS,
    SERVER_FRAMES,
    Begun,
    Cancel,
    Frame,
    Hello,
    Observation,
    Partial,
    Renew,
    StateIs,
    Step,
)
from openenv_async.types import MAX_DEPTH, MAX_SECONDS
from tests.helpers import Format, pack, plain

FORMATS: list[Format] = ["msgpack", "json"]
FROM_CLIENTS = tuple(cls for cls in CLIENT_FRAMES if cls not in MSGPACK_FRAMES)
FROM_SERVERS = tuple(cls for cls in SERVER_FRAMES if cls not in MSGPACK_FRAMES)
"""Frames of both formats; those of columns have tests of their own."""
BIG = 1 << 30

numbers = st.integers(0, 2**53)
seconds = st.floats(-MAX_SECONDS, MAX_SECONDS)
payload_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "int": numbers,
    "Int": numbers | st.integers(-(2**63), 2**63 - 1),
    "Count": st.integers(0, 2**31 - 1),
    "str": st.text(),
    "bool": st.booleans(),
    "Seconds": seconds,
    "int | None": st.none() | numbers,
    "str | None": st.none() | st.text(),
    "float | None": st.none() | st.floats(allow_nan=False),
    "Seconds | None": st.none() | seconds,
    "Payload": payload_values,
    "Payload | None": payload_values,
}


@st.composite
def frames(draw: st.DrawFn, classes: tuple[type[Frame], ...]) -> dict[str, Any]:
    """A frame as its class and its fields, payloads as plain values."""
    cls = draw(st.sampled_from(classes))
    hints = {field.name: cls.__annotations__[field.name] for field in msgspec.structs.fields(cls)}
    return {"cls": cls, "fields": {name: draw(FIELDS[hint]) for name, hint in hints.items()}}


def built(made: dict[str, Any], format: str) -> Frame:
    fields = {
        name: pack(value, format) if name in PAYLOAD_FIELDS else value
        for name, value in made["fields"].items()
    }
    frame: Frame = made["cls"](**fields)
    return frame


def expected(made: dict[str, Any]) -> dict[str, Any]:
    return {"kind": made["cls"].__name__, **made["fields"]}


def codecs(format: Format, sender: str, size: int = BIG) -> tuple[Any, Any]:
    """Who encodes and who decodes."""
    subprotocol = f"openenv.v1.{format}"
    other: Any = "server" if sender == "client" else "client"
    return frame_codec(subprotocol, other, BIG), frame_codec(subprotocol, other, size)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sender", ["client", "server"])
@given(data=st.data())
def test_every_frame_comes_back(format: Format, sender: str, data: st.DataObject) -> None:
    classes = FROM_CLIENTS if sender == "client" else FROM_SERVERS
    made = data.draw(st.lists(frames(classes), max_size=5))
    encoder, decoder = codecs(format, sender)
    message = encoder.encode([built(each, format) for each in made])
    back = decoder.decode(message)
    assert [plain(frame, format) for frame in back] == [expected(each) for each in made]
    assert encoder.encode(back) == message


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cls", [Step, Begun, Observation, Partial, StateIs])
def test_a_payload_of_none_is_a_value_where_one_is_required(
    format: Format, cls: type[Frame]
) -> None:
    fields = {
        Step: (1, 2, 0, pack(None, format)),
        Begun: (1, 2, pack(None, format), "e", 7),
        Observation: (1, 2, pack(None, format)),
        Partial: (1, 2, 0, pack(None, format)),
        StateIs: (1, 2, pack(None, format)),
    }[cls]
    frame: Any = cls(*fields)
    encoder, decoder = codecs(format, "client" if cls is Step else "server")
    [back] = decoder.decode(encoder.encode([frame]))
    assert bytes(back.payload) == pack(None, format)
    assert type(back) is cls


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_who_keeps_a_payload_does_not_keep_the_message(format: Format) -> None:
    encoder, decoder = codecs(format, "client")
    [step] = decoder.decode(encoder.encode([Step(1, 2, 0, pack("x" * 100, format))]))
    assert type(step.payload) is bytes
    assert step.payload == pack("x" * 100, format)


def raw(frames: list[Any], format: str) -> bytes:
    return msgspec.msgpack.encode(frames) if format == "msgpack" else msgspec.json.encode(frames)


def step_items(format: str, *more: Any) -> list[Any]:
    payload: Any = pack({"a": 1}) if format == "msgpack" else {"a": 1}
    return [3, 1, 2, 0, payload, None, 0, *more]


@pytest.mark.parametrize("format", FORMATS)
def test_trailing_fields_of_a_newer_peer_are_ignored(format: Format) -> None:
    _, decoder = codecs(format, "client")
    message = raw([step_items(format, "new", {"deep": [1, [2]]}), [8, 5, 6, 7]], format)
    step, renew = decoder.decode(message)
    assert plain(step, format)["payload"] == {"a": 1}
    assert renew == Renew(5, 6)


@pytest.mark.parametrize("format", FORMATS)
def test_missing_fields_of_an_older_peer_take_their_defaults(format: Format) -> None:
    _, decoder = codecs(format, "client")
    step, renew = decoder.decode(raw([step_items(format)[:5], [8, 5]], format))
    assert (step.timeout, step.credit) == (None, 0)
    assert renew == Renew(5, 0)


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)

BAD: list[tuple[Any, tuple[int, int], str]] = [
    ([], (0, 0), "non-empty"),
    (5, (0, 0), "array"),
    (None, (0, 0), "array"),
    ({"kind": 3}, (0, 0), "array"),
    ([99, 4, 5], (4, 5), "unknown frame kind 99"),
    (["Step", 4, 5], (4, 5), "unknown frame kind 'Step'"),
    ([True, 4, 5], (4, 5), "unknown frame kind True"),
    ([3.0, 4, 5], (4, 5), "unknown frame kind"),
    ([[3], 4, 5], (4, 5), "unknown frame kind list"),
    ([32, 1, "epoch"], (1, 0), "unknown frame kind 32"),  # the server's own kind
    ([6, 4], (4, 0), "malformed Cancel"),
    ([6, 4, "5"], (4, 0), "malformed Cancel"),
    ([6, -4, 5.5], (0, 0), "malformed Cancel"),
    ([6, 4, None], (4, 0), "malformed Cancel"),
    ([3, 4, 5, 0], (4, 5), "malformed Step"),
    ([2, 4, 5, 0, None, "seed"], (4, 5), "malformed Reset"),
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("items", "address", "text"), BAD)
def test_one_bad_frame_does_not_cost_its_neighbours(
    format: Format, items: Any, address: tuple[int, int], text: str
) -> None:
    _, decoder = codecs(format, "client")
    before, bad, after = decoder.decode(raw([[8, 1], items, [6, 2, 3]], format))
    assert before == Renew(1)
    assert after == Cancel(2, 3)
    assert isinstance(bad, BadFrame)
    assert (bad.channel, bad.seq) == address
    assert text in bad.error.message


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("message", [5, None, "text", {"a": 1}, True, 1.5])
def test_a_message_that_is_no_batch(format: Format, message: Any) -> None:
    _, decoder = codecs(format, "client")
    with pytest.raises(ProtocolError, match="array of frames"):
        decoder.decode(raw(message, format))


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_batch_is_fine(format: Format) -> None:
    _, decoder = codecs(format, "client")
    assert list(decoder.decode(raw([], format))) == []


@pytest.mark.parametrize("format", FORMATS)
def test_size_is_bounded_before_anything_else(format: Format) -> None:
    _, decoder = codecs(format, "client", size=50)
    message = raw([[8, n] for n in range(50)], format)
    with pytest.raises(PayloadTooLarge) as caught:
        decoder.decode(message)
    assert caught.value.detail == {"size": len(message), "limit": 50}
    exact = raw([[8, 1]], format)
    assert codecs(format, "client", size=len(exact))[1].decode(exact) == [Renew(1)]


def test_a_limit_counts_bytes_of_text_not_characters() -> None:
    decoder = JsonCodec("server", 20)
    with pytest.raises(PayloadTooLarge):
        decoder.decode('["' + "é" * 15 + '"]')


def test_text_on_a_msgpack_connection() -> None:
    with pytest.raises(ProtocolError, match="binary"):
        MsgpackCodec("server", BIG).decode("[]")


def test_json_takes_binary_messages_too() -> None:
    assert JsonCodec("server", BIG).decode(b"[[8,1,2]]") == [Renew(1, 2)]


def test_json_text_that_is_not_utf8() -> None:
    for message in ('[[0,"\ud800"]]', b'[[3,1,2,0,"\xff\xfe"]]', b"[[\xff]]"):
        try:
            frames = JsonCodec("server", BIG).decode(message)
        except ProtocolError:
            continue
        # A payload is not looked at here; the header is.
        assert all(isinstance(frame, BadFrame | Step) for frame in frames)


def test_malformed_json_inside_one_frame() -> None:
    decoder = JsonCodec("server", BIG)
    assert decoder.decode('[[3,1,2,0,{"a":1}],[8,1]]')[1] == Renew(1)
    with pytest.raises(ProtocolError):
        decoder.decode('[[3,1,2,0,{"a":}],[8,1]]')


@pytest.mark.parametrize("format", FORMATS)
def test_slices_of_a_batch(format: Format) -> None:
    encoder, _ = codecs(format, "client")
    batch = [Step(1, n, 0, pack("x" * size, format)) for n, size in enumerate([10, 500, 10, 10])]
    slices = split_batch(batch, 300)
    assert [frame for part in slices for frame in part] == batch
    assert all(part for part in slices)
    for part in slices:
        size = len(encoder.encode(part))
        assert size <= 300 or len(part) == 1
    assert split_batch([], 300) == []


@given(
    sizes=st.lists(st.integers(0, 2000), max_size=30),
    limit=st.integers(1, 4000),
)
def test_slices_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    batch: list[Frame] = [Step(1, n, 0, b"x" * size) for n, size in enumerate(sizes)]
    slices = split_batch(batch, limit)
    assert [frame for part in slices for frame in part] == batch
    encode = MsgpackCodec("server", BIG).encode
    for part in slices:
        assert part
        assert len(part) == 1 or len(encode(list(part))) <= limit


@given(made=frames(FROM_CLIENTS) | frames(FROM_SERVERS))
def test_the_measure_of_a_frame_is_an_upper_bound(made: dict[str, Any]) -> None:
    frame = built(made, "msgpack")
    # Text is measured in characters, so the bound holds for ASCII; that is what headers carry.
    texts = [v for v in made["fields"].values() if isinstance(v, str)]
    if all(text.isascii() for text in texts):
        assert len(MsgpackCodec("server", BIG).encode([frame])) <= frame_size(frame) + 1


@pytest.mark.parametrize("format", FORMATS)
def test_maps(format: Format) -> None:
    values = {"a": 1, "b": [1, {"c": None}], "d": "é"}
    assert decode_map(encode_map(values, format), format) == values
    assert encode_map({}, format) is None
    assert encode_map(None, format) is None
    assert decode_map(None, format) == {}
    assert decode_map(encode_map({"x": object}, format), format) == {"x": str(object)}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", ["\udcff", 2**100, ENDLESS])
def test_a_map_is_sent_whatever_it_holds(format: Format, value: Any) -> None:
    """The facts of an environment's own error may be anything; the error must arrive."""
    back = decode_map(encode_map({"fact": value, "other": "é"}, format), format)
    assert back["other"] == "é"
    assert str(back["fact"]).strip("'") in (str(value), "\\udcff")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [[1], 5, None, "x", {"a": [[[[[[[[[[1]]]]]]]]]]}])
def test_a_payload_that_is_no_small_map(format: Format, value: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_map(pack(value, format), format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_map_that_is_garbage(format: Format) -> None:
    with pytest.raises(ProtocolError):
        decode_map(b"\xc1" if format == "msgpack" else b"{", format)


def test_the_subprotocols() -> None:
    assert list(SUBPROTOCOLS) == ["openenv.v1.msgpack", "openenv.v1.json"]
    for name, format in SUBPROTOCOLS.items():
        codec = frame_codec(name, "server", BIG)
        assert codec.format == format
        assert codec.text == (format == "json")


def test_kinds_are_unique_and_fields_have_known_types() -> None:
    classes = {*FROM_CLIENTS, *FROM_SERVERS}  # Chunk goes both ways
    tags = [cls.__struct_config__.tag for cls in classes]
    assert len(set(tags)) == len(tags)
    assert Hello.__struct_config__.tag == 0
    for cls in classes:
        assert set(cls.__annotations__.values()) <= set(FIELDS)


# -- rewards, bounds and counts -------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "written"),
    [
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        (1.5, 1.5),
        (0.0, 0.0),
        (None, None),
    ],
)
def test_a_reward_that_json_has_no_number_for_is_spelled(reward: Any, written: Any) -> None:
    assert json_reward(reward) == written
    back = read_json_reward(written)
    assert back == reward or (math.isnan(reward) and math.isnan(back))
    for format in FORMATS:
        encoder, decoder = codecs(format, "server")
        for frame in (
            Observation(1, 2, pack({}, format), reward),
            Begun(1, 2, pack({}, format), "e", 7, reward=reward),
        ):
            [again] = decoder.decode(encoder.encode([frame]))
            assert again.reward == reward or (math.isnan(reward) and math.isnan(again.reward))


def test_another_text_is_no_reward() -> None:
    for value in ("nan", "Inf", "", 3, None, ["NaN"]):
        assert read_json_reward(value) is value
    decoder = JsonCodec("client", BIG)
    [bad] = decoder.decode('[[35,1,2,{},"much"]]')
    assert isinstance(bad, BadFrame)


def test_whole_numbers_of_a_json_header_have_64_bits() -> None:
    decoder = JsonCodec("server", BIG)
    for number in (2**64 - 1, 2**63 - 1, -(2**63)):
        [frame] = decoder.decode(f"[[2,1,2,0,null,{number}]]")
        assert frame.seed == number
    for number in (2**64, -(2**63) - 1, 10**30):
        [bad] = decoder.decode(f"[[2,1,2,0,null,{number}]]")
        assert isinstance(bad, BadFrame)
        assert "64 bits" in bad.error.message


def test_a_container_in_a_json_header_is_never_decoded() -> None:
    decoder = JsonCodec("server", BIG)
    for value in ("[1,[2]]", '{"a":1}'):
        [bad] = decoder.decode(f"[[6,1,{value}]]")
        assert isinstance(bad, BadFrame)
        assert bad.channel == 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("limit", [1, 3, 15, 16, 40, 70_000])
def test_frames_are_counted_before_they_are_read(format: Format, limit: int) -> None:
    """Msgpack has three ways to say how many there are, at 15 and at 65,535."""
    subprotocol = f"openenv.v1.{format}"
    encoder = frame_codec(subprotocol, "client", BIG)
    decoder = frame_codec(subprotocol, "server", BIG, limit)
    exact = encoder.encode([Renew(1)] * limit)
    assert len(decoder.decode(exact)) == limit
    with pytest.raises(ProtocolError, match=r"over the limit of .* \(Limits.max_frames") as raised:
        decoder.decode(encoder.encode([Renew(1)] * (limit + 1)))
    assert raised.value.detail["limit"] == limit
    assert raised.value.detail["field"] == "max_frames"
    assert f"a message of {limit + 1:,} frames" in raised.value.message


def test_commas_inside_frames_are_no_frames() -> None:
    decoder = JsonCodec("server", BIG, 2)
    message = '[[3,1,1,0,{"a":[1,2,3,4,5]},null,0],[8,1,0]]'
    assert len(decoder.decode(message)) == 2
    assert len(decoder.decode(memoryview(message.encode()))) == 2


def test_a_message_that_is_no_array_is_not_counted() -> None:
    decoder = MsgpackCodec("server", BIG, 1)
    for value in ({"a": 1}, "text" * 20, 2**40):
        with pytest.raises(ProtocolError, match="array of frames"):
            decoder.decode(msgspec.msgpack.encode(value))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_message_is_read_up_to_the_bad_frame_that_is_one_too_many(
    format: Format, limit: int
) -> None:
    decoder = frame_codec(f"openenv.v1.{format}", "server", BIG, 1000, limit)
    items: list[Any] = [[8, 1], *[[99, 4, 5], [8, 2]] * 5]
    frames = decoder.decode(raw(items, format))
    assert sum(isinstance(frame, BadFrame) for frame in frames) == limit + 1
    assert len(frames) == 1 + 2 * limit + 1
    assert isinstance(frames[-1], BadFrame)


@pytest.mark.parametrize("format", FORMATS)
def test_a_bad_frame_says_whether_it_is_a_request(format: Format) -> None:
    _, decoder = codecs(format, "client")
    for items, is_request in (
        ([3, 4, 5, 0], True),
        ([2, 4, 5, 0, None, "seed"], True),
        ([6, 4, "5"], False),
        ([99, 4, 5], False),
    ):
        [bad] = decoder.decode(raw([items], format))
        assert bad.is_request == is_request


@pytest.mark.parametrize("format", FORMATS)
def test_the_address_of_a_bad_frame_is_of_63_bits(format: Format) -> None:
    _, decoder = codecs(format, "client")
    for number, shown in ((2**63 - 1, 2**63 - 1), (2**63, 0), (0, 0)):
        [bad] = decoder.decode(raw([[99, number, 7]], format))
        assert (bad.channel, bad.seq) == (shown, 7)
    [bad] = decoder.decode(raw([[99, -1, True]], format))
    assert (bad.channel, bad.seq) == (0, 0)


def test_a_header_of_many_values_is_refused_unread() -> None:
    decoder = MsgpackCodec("server", BIG)
    few, many = ([99, 4, 5, *range(count)] for count in (200, 300))
    [frame] = decoder.decode(msgspec.msgpack.encode([few]))
    assert "unknown frame kind" in frame.error.message
    [frame] = decoder.decode(msgspec.msgpack.encode([many]))
    assert "more than 256 values in its header" in frame.error.message
    assert (frame.channel, frame.seq) == (0, 0)


def test_slices_end_where_the_frames_or_the_bytes_do() -> None:
    batch: list[Frame] = [Step(1, n, 0, b"x" * 100) for n in range(6)]
    cost = frame_size(batch[0])
    assert cost == 96 + 100
    assert batch_end(batch, 0, 2 * cost) == 2
    assert batch_end(batch, 0, 2 * cost - 1) == 1
    assert batch_end(batch, 0, 1) == 1
    assert batch_end(batch, 4, 100 * cost) == 6
    assert batch_end(batch, 0, 100 * cost, 4) == 4
    assert [len(part) for part in split_batch(batch, 100 * cost, 4)] == [4, 2]
    assert [len(part) for part in split_batch(batch, 3 * cost)] == [3, 3]


def test_the_measure_of_a_frame_counts_payload_info_and_text() -> None:
    assert frame_size(Observation(1, 2, b"x" * 10)) == 96 + 10
    assert frame_size(Observation(1, 2, b"x" * 10, info=b"y" * 5)) == 96 + 15
    assert frame_size(Begun(1, 2, memoryview(b"x" * 10), "episode", 7)) == 96 + 10 + 7
    assert frame_size(Renew(1)) == 96


def test_the_depth_of_a_message_is_bounded_before_it_is_read() -> None:
    """Eight containers are for the header, as many as a payload may have for a payload."""
    deepest = MAX_DEPTH + 8 - 2  # in the batch and the frame
    decoder = JsonCodec("server", BIG)
    [step] = decoder.decode("[[3,1,2,0," + "[" * deepest + "]" * deepest + "]]")
    assert isinstance(step, Step)
    with pytest.raises(ProtocolError):
        decoder.decode("[[3,1,2,0," + "[" * (deepest + 1) + "]" * (deepest + 1) + "]]")


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_a_message_of_nothing_but_depth_is_refused(depth: int) -> None:
    for decoder, message in (
        (MsgpackCodec("server", BIG), b"\x91" * depth + b"\xc0"),
        (JsonCodec("server", BIG), b"[" * depth + b"]" * depth),
    ):
        try:
            frames = decoder.decode(message)
        except ProtocolError:
            continue
        assert [type(frame) for frame in frames] == [BadFrame]
        assert (frames[0].channel, frames[0].seq) == (0, 0)


def test_a_message_whose_commas_are_just_the_limit_is_counted() -> None:
    decoder = JsonCodec("server", BIG, 1)
    with pytest.raises(ProtocolError, match="a message of 2 frames is over the limit of 1"):
        decoder.decode("[[8],[8]]")
    assert len(decoder.decode("[[8]]")) == 1


def test_a_frame_that_is_malformed_in_itself_has_no_address() -> None:
    [bad] = MsgpackCodec("server", BIG).decode(b"\x91\x93\xa1\xff\x01\x02")
    assert isinstance(bad, BadFrame)
    assert (bad.channel, bad.seq, bad.is_request) == (0, 0, False)
