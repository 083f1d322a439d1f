"""Bounds on nesting."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.errors import InvalidModel, PayloadTooLarge, ProtocolError
from openenv_async.models import PayloadCodec
from openenv_async.models.depth import (
    _shallow_decoder,
    check_json_containers,
    check_json_depth,
    check_msgpack_containers,
    check_msgpack_depth,
    json_items,
)
from openenv_async.types import MAX_DEPTH

LIMIT = 64


def depth(tree: Any) -> int:
    if isinstance(tree, dict):
        return 1 + max(map(depth, tree.values()), default=0)
    if isinstance(tree, list):
        return 1 + max(map(depth, tree), default=0)
    return 0


LEAVES = st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES | st.builds(lambda item, n: [item] * n, LEAVES, st.integers(16, 300)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(tree=TREES, limit=st.integers(0, 4))
def test_msgpack_is_exact(tree: Any, limit: int) -> None:
    data = msgspec.msgpack.encode(tree)
    for view in (data, memoryview(data)):
        if depth(tree) <= limit:
            check_msgpack_depth(view, limit)
        elif len(data) > limit:
            with pytest.raises(ProtocolError, match=f"limit of {limit}"):
                check_msgpack_depth(view, limit)


@given(tree=TREES, limit=st.integers(0, 4))
def test_json_is_exact(tree: Any, limit: int) -> None:
    data = msgspec.json.encode(tree)
    for view in (data, memoryview(data), json.dumps(msgspec.to_builtins(tree), indent=1).encode()):
        if depth(tree) <= limit:
            check_json_depth(view, limit)
        else:
            with pytest.raises(ProtocolError):
                check_json_depth(view, limit)


NEST: dict[str, Callable[[int], bytes]] = {
    "msgpack array": lambda n: b"\x91" * n + b"\xc0",
    "msgpack map": lambda n: b"\x81\xa1a" * n + b"\xc0",
    "msgpack key": lambda n: b"\x81" * n + b"\xc0" * (n + 1),
    "msgpack array16": lambda n: b"\xdc\x00\x01" * n + b"\xc0",
    "msgpack map32": lambda n: b"\xdf\x00\x00\x00\x01\x01" * n + b"\xc0",
    "msgpack unclosed": lambda n: b"\x91" * n,
    "json array": lambda n: b"[" * n + b"]" * n,
    "json object": lambda n: b'{"a":' * n + b"1" + b"}" * n,
    "json unclosed": lambda n: b"[" * n,
    "json unclosed objects": lambda n: b'{"a":' * n,
    "json mixed": lambda n: b'[{"":' * (n // 2) + b"1" + b"}]" * (n // 2),
}


@pytest.mark.parametrize("levels", [10, 64, 65, 66, 1000, 100_000, 1_000_000])
@pytest.mark.parametrize("kind", NEST)
def test_nesting_ends_in_our_errors(kind: str, levels: int) -> None:
    data = NEST[kind](levels)
    codec = PayloadCodec[Any](Any, "msgpack" if kind.startswith("msgpack") else "json")
    started = time.thread_time()
    if levels <= MAX_DEPTH and "unclosed" not in kind and "key" not in kind:
        codec.decode(data)
    elif levels > MAX_DEPTH + 1 or "mixed" not in kind:
        with pytest.raises((ProtocolError, InvalidModel)) as caught:
            codec.decode(data)
        if levels > MAX_DEPTH and "key" not in kind:
            assert isinstance(caught.value, ProtocolError)
            if "unclosed" not in kind:
                assert "64 containers" in str(caught.value)
                assert caught.value.detail["limit"] == MAX_DEPTH
    assert time.thread_time() - started < 10


@pytest.mark.parametrize(
    "tree",
    [
        {"image": b"\x91" * 28_000},
        {"image": b"\x91" * 1_000_000, "rest": [1] * 1000},
        ["\x91" * 100_000, {"a": "[" * 100_000}],
        list(range(100_000)),
        [[i, {"a": b"\x9f" * 20}] for i in range(3000)],
        {"x": msgspec.msgpack.Ext(1, b"\x91" * 5000), "y": [b"\x91"] * 500},
        ['"\\[[[{{{' * 100] * 10,
    ],
)
def test_content_that_looks_like_containers_is_not_counted(tree: Any) -> None:
    data = msgspec.msgpack.encode(tree)
    check_msgpack_depth(data, 3)
    check_msgpack_depth(memoryview(data), 3)
    if "x" not in tree:
        check_json_depth(msgspec.json.encode(tree), 3)


@pytest.mark.parametrize("ends", ['"', "\\", '\\"', '\\\\"', '"\\\\\\', "x"])
@pytest.mark.parametrize("places", range(8))
def test_strings_are_told_wherever_a_part_of_the_scan_ends(ends: str, places: int) -> None:
    """The scan goes through 64 KiB at a time; escapes may lie across its borders."""
    text = "[" * (2**16 - 8 - places) + ends * 8 + "]" * 100
    data = msgspec.json.encode([[text, [text]]])
    check_json_depth(data, 3)
    with pytest.raises(ProtocolError, match="nested deeper"):
        check_json_depth(data, 2)


def test_shallow_data_is_fast_and_has_no_more_than_the_limit() -> None:
    records = [{"id": i, "name": "abc", "tags": [{"a": [1.5]}]} for i in range(5000)]
    data = msgspec.msgpack.encode(records)
    started = time.thread_time()
    check_msgpack_depth(data, LIMIT)
    assert time.thread_time() - started < 1  # 2 ms
    check_msgpack_depth(data, 5)
    for limit in range(5):
        with pytest.raises(ProtocolError, match=f"limit of {limit}"):
            check_msgpack_depth(data, limit)


@given(tree=TREES)
def test_what_the_shallow_decoder_reads_is_shallow(tree: Any) -> None:
    data = msgspec.msgpack.encode(tree)
    for levels in range(4):
        with contextlib.suppress(msgspec.MsgspecError):
            _shallow_decoder(levels)(data)
            assert depth(tree) <= levels


def test_truncated_msgpack_is_refused() -> None:
    tree = [{"a": b"\x91" * 300, "b": "\x91" * 70_000, "c": [1.5] * 100, "d": [[]] * 100}] * 2
    data = msgspec.msgpack.encode(tree)
    check_msgpack_depth(data, LIMIT)
    codec = PayloadCodec[Any](Any, "msgpack")
    for end in [*range(1, 400), *range(len(data) - 400, len(data))]:
        with pytest.raises(ProtocolError):
            codec.decode(data[:end])


def test_a_huge_count_is_refused_at_once() -> None:
    for head in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(ProtocolError):
            check_msgpack_depth(head + b"\x91" * 100, LIMIT)


def test_the_never_used_byte_is_malformed() -> None:
    with pytest.raises(ProtocolError, match="0xc1"):
        check_msgpack_depth(b"\xdc\x01\x00" + b"\xc1" * 10 + b"\x91" * 300, LIMIT)


@pytest.mark.parametrize(
    "data",
    [b'"' + b'\\"[' * 200_000, b"[" * 100 + b'"' + b"]" * 100, b'"\\' * 200_000, b"[}" * 100],
)
def test_malformed_json_is_scanned_in_linear_time(data: bytes) -> None:
    started = time.thread_time()
    with pytest.raises((ProtocolError, InvalidModel)):
        PayloadCodec[Any](Any, "json").decode(data)
    assert time.thread_time() - started < 5


@given(data=st.binary(min_size=65, max_size=4000))
def test_garbage_passes_or_is_a_protocol_error(data: bytes) -> None:
    for check in (check_msgpack_depth, check_json_depth):
        with contextlib.suppress(ProtocolError):
            check(data, 1)


FLOODS: dict[str, Any] = {
    "texts": ["ab"] * 300_000,
    "empty texts": [""] * 900_000,
    "bytes": [b"x"] * 300_000,
    "numbers": [1, 2.5, None, 2**40] * 60_000,
    "keys": {f"k{i}": i for i in range(120_000)},
    "texts in lists": [["a", "b"] * 20] * 20_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_small_values_is_looked_through_fast(name: str) -> None:
    """Each short text was a turn of a Python loop: a second for a megabyte."""
    data = msgspec.msgpack.encode(FLOODS[name])
    best = 1.0
    for _ in range(3):
        began = time.thread_time()
        check_msgpack_depth(data * 1, 64)
        check_msgpack_containers(data, 65_536)
        best = min(best, time.thread_time() - began)
    assert best < 0.2 * max(1.0, len(data) / 1e6)


@given(tree=TREES, limit=st.integers(0, 40))
def test_containers_are_counted_exactly(tree: Any, limit: int) -> None:
    count = containers(tree)
    packed = msgspec.msgpack.encode(tree)
    spelled = msgspec.json.encode(tree)
    for check, data in (
        (check_msgpack_containers, packed),
        (check_msgpack_containers, memoryview(packed)),
        (check_json_containers, spelled),
    ):
        if count <= limit:
            check(data, limit)
        else:
            with pytest.raises(PayloadTooLarge, match="max_containers"):
                check(data, limit)


def containers(tree: Any) -> int:
    if isinstance(tree, dict):
        return 1 + sum(map(containers, tree.values()))
    if isinstance(tree, list):
        return 1 + sum(map(containers, tree))
    return 0


@given(frames=st.lists(TREES, max_size=8))
def test_the_items_of_a_list_are_counted_exactly(frames: list[Any]) -> None:
    assert json_items(msgspec.json.encode(frames)) == max(1, len(frames))
