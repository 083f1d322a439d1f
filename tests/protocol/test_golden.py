"""Golden samples: the bytes that every implementation must write and read."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest

from openenv_async import errors
from openenv_async.models import PayloadCodec
from openenv_async.protocol.codec import SUBPROTOCOLS, BadFrame, frame_codec
from openenv_async.protocol.frames import CLIENT_FRAMES, PAYLOAD_FIELDS, SERVER_FRAMES, Frame
from tests.protocol.samples import (
    DOC,
    GOLDEN,
    SAMPLES,
    SECTIONS,
    error_classes,
    is_columnar,
    sample,
    section,
)

BOTH = [name for name, (_, _, frames) in SAMPLES.items() if not is_columnar(frames)]
"""Samples that JSON has, too."""
FILES = sorted(GOLDEN.glob("*.json"))
ANY: dict[str, PayloadCodec[Any]] = {
    "msgpack": PayloadCodec(Any, "msgpack"),
    "json": PayloadCodec(Any, "json"),
}


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return loaded


def decoded(golden: dict[str, Any], format: str) -> tuple[Any, list[Frame], bytes]:
    message = bytes.fromhex(golden["msgpack"]) if format == "msgpack" else golden["json"].encode()
    role: Any = "server" if golden["sender"] == "client" else "client"
    codec = frame_codec(f"openenv.v1.{format}", role, 1 << 30)
    return codec, list(codec.decode(message)), message


def valued(frame: Frame, format: str) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": type(frame).__name__}
    for name in frame.__struct_fields__:
        value = getattr(frame, name)
        if name in PAYLOAD_FIELDS and value is not None:
            value = ANY[format].decode(value)
        values[name] = value
    return values


def test_a_file_for_every_sample_and_a_sample_for_every_frame() -> None:
    assert {path.stem for path in FILES} == set(SAMPLES)
    shown = {name for path in FILES for name in load(path.stem)["frames"]}
    assert shown == {cls.__name__ for cls in (*CLIENT_FRAMES, *SERVER_FRAMES)}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_file_is_what_the_code_writes(name: str) -> None:
    assert load(name) == sample(name)


@pytest.mark.parametrize(
    ("name", "format"), [(name, "msgpack") for name in SAMPLES] + [(name, "json") for name in BOTH]
)
def test_the_bytes_are_read_and_written_again(name: str, format: str) -> None:
    codec, frames, message = decoded(load(name), format)
    assert not any(isinstance(frame, BadFrame) for frame in frames)
    assert [type(frame).__name__ for frame in frames] == load(name)["frames"]
    assert codec.encode(frames) == message


@pytest.mark.parametrize("name", BOTH)
def test_both_formats_say_the_same(name: str) -> None:
    golden = load(name)
    _, packed, _ = decoded(golden, "msgpack")
    _, spelt, _ = decoded(golden, "json")
    for one, other in zip(packed, spelt, strict=True):
        left, right = valued(one, "msgpack"), valued(other, "json")
        np.testing.assert_equal(left, right)


@pytest.mark.parametrize("name", BOTH)
def test_an_implementation_without_this_package_reads_them(name: str) -> None:
    """Plain MessagePack and JSON libraries see the same arrays; payloads are bin there."""
    golden = load(name)
    packed = msgspec.msgpack.decode(bytes.fromhex(golden["msgpack"]))
    spelt = json.loads(golden["json"])
    assert len(packed) == len(spelt) == len(golden["frames"])
    tags = {cls.__name__: cls for cls in (*CLIENT_FRAMES, *SERVER_FRAMES)}
    for one, other, kind in zip(packed, spelt, golden["frames"], strict=True):
        cls = tags[kind]
        assert one[0] == other[0] == cls.__struct_config__.tag
        assert len(one) == len(other) == 1 + len(cls.__struct_fields__)
        for field, left, right in zip(cls.__struct_fields__, one[1:], other[1:], strict=True):
            if field in PAYLOAD_FIELDS and left is not None:
                assert type(left) is bytes
                left = msgspec.msgpack.decode(left)
            if field == "reward" and right in ("NaN", "Infinity", "-Infinity"):
                right = float(right)
            if name != "array" or field not in PAYLOAD_FIELDS:
                np.testing.assert_equal(left, right)


# -- the document -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SECTIONS)
def test_generated_sections_of_the_document_are_current(name: str) -> None:
    """Run ``python -m tests.protocol.samples`` when this fails, and read the diff."""
    assert section(DOC.read_text(), name) == SECTIONS[name]()


def test_every_sample_is_quoted() -> None:
    text = re.sub(r"\s+", "", DOC.read_text())
    for path in FILES:
        golden = load(path.stem)
        assert re.sub(r"\s+", "", golden["json"]) in text
        assert golden["msgpack"] in text


def test_the_document_names_the_subprotocols_and_every_map_key() -> None:
    text = DOC.read_text()
    for name in SUBPROTOCOLS:
        assert f"`{name}`" in text


def test_every_error_is_in_the_table() -> None:
    table = section(DOC.read_text(), "errors")
    for name in errors.__all__:
        cls = getattr(errors, name)
        if isinstance(cls, type):
            assert f"| {cls.__name__} |" in table
    codes = [cls.code for cls in error_classes()]
    assert len(set(codes)) == len(codes)


async def test_every_key_of_the_maps_is_documented() -> None:
    from tests.helpers import Counter, Peer, make_engine, unpack

    engine = make_engine(Counter)
    peer = Peer(engine)
    text = DOC.read_text()
    welcome = unpack(peer.welcome.payload)
    for key in (*welcome, *welcome["timeouts"]):
        assert f"`{key}`" in text, f"the welcome's {key} is not documented"
    await engine.aclose()
