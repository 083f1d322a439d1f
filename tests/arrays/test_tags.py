"""Tagged objects of native JSON."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import arrays
from openenv_async.errors import InvalidModel, ProtocolError
from tests.arrays.codecs import CODECS, FORMATS, trip


@pytest.mark.parametrize(
    "text",
    [
        *('{"__ndarray__":1}', '{"__ndarray__":[]}', '{"__ndarray__":["<f4",[1],"AA=="]}'),
        *('{"__ndarray__":["<f4",[-1],""]}', '{"__ndarray__":["<f4",[1.5],""]}'),
        *('{"__ndarray__":["<f4","x",""]}', '{"__ndarray__":[1,[0],""]}'),
        *('{"__ndarray__":["<f4",[true],"AAAAAA=="]}', '{"__npscalar__":["<f4","?"]}'),
        *('{"__npscalar__":["<f4",""]}', '{"__float__":"1"}', '{"__float__":[]}'),
        *('{"__bytes__":1}', '{"__bytes__":"é"}', '{"__escaped__":1}', '{"__escaped__":{"a":1}}'),
        '{"__ndarray__":["<f4",[99999999999999999999],""]}',
    ],
)
def test_malformed_tags_are_refused(text: str) -> None:
    with pytest.raises((InvalidModel, ProtocolError)):
        CODECS["json"].decode(text.encode())


TAGS = ["__ndarray__", "__npscalar__", "__float__", "__bytes__", "__escaped__"]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["msgpack", "json", "plain"])
def test_a_user_dict_that_looks_like_a_tag_survives(tag: str, name: str) -> None:
    for value in (
        {tag: 1},
        {tag: {tag: {"__escaped__": None}}},
        {"a": {tag: "nan"}},
        {tag: 1, 2: 3},
    ):
        assert trip({"v": value}, "msgpack") == {"v": value}
    for text in ({tag: 1}, {tag: {tag: {"__escaped__": None}}}, {"a": {tag: "nan"}}):
        assert trip(text, name) == text


TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(TAGS), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", FORMATS)
@given(tree=TREES)
def test_any_tree_round_trips(name: str, tree: Any) -> None:
    assert repr(trip(tree, name)) == repr(tree)


def test_an_escaped_underscore_is_still_a_tag() -> None:
    assert math.isnan(CODECS["json"].decode(rb'{"\u005f_float__":"nan"}'))
    assert CODECS["json"].decode(rb'{"_\u005Ffloat__":"inf"}') == math.inf


KEYS: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from([np.int64(3), np.float32(0.5), np.bool_(True)]),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)


def kinds(tree: Any) -> Any:
    """``tree`` with the types of its keys and leaves, which ``==`` does not tell apart."""
    if isinstance(tree, dict):
        return [(kinds(key), kinds(value)) for key, value in tree.items()]
    if isinstance(tree, list | tuple):
        return type(tree), [kinds(item) for item in tree]
    return type(tree), repr(tree)


@pytest.mark.parametrize("name", FORMATS)
@given(tree=st.dictionaries(KEYS, st.dictionaries(KEYS, st.integers(0, 9)) | st.text()))
def test_keys_of_any_kind_come_back_as_they_were(name: str, tree: Any) -> None:
    assert kinds(trip(tree, name)) == kinds(tree)
    assert kinds(trip({"a": [tree]}, name)) == kinds({"a": [tree]})


def test_keys_in_tagged_json() -> None:
    for tree in ({(0, 1): 1.0}, {None: 1, "None": 2}, {1: 1, "1": 2}, {("a", (1, None)): {2: 3}}):
        assert arrays.untag(arrays.tag(tree)) == tree
        text = msgspec.json.encode(arrays.tag(tree))
        assert arrays.untag(msgspec.json.decode(text)) == tree
    assert arrays.tag({"a": 1}) == {"a": 1}
    assert arrays.tag({1: 2}) == {"__items__": [[1, 2]]}
    assert arrays.untag(arrays.tag({"__items__": [1]})) == {"__items__": [1]}


@pytest.mark.parametrize(
    "text",
    [
        *('{"__items__":1}', '{"__items__":[1]}', '{"__items__":[[1]]}', '{"__items__":[[1,2,3]]}'),
        *('{"__items__":[[1,2],[1,3]]}', '{"__items__":[[{"a":1},2]]}'),
    ],
)
def test_malformed_items_are_refused(text: str) -> None:
    with pytest.raises(InvalidModel):
        CODECS["json"].decode(text.encode())


def test_plain_json_names_the_key_it_has_no_word_for() -> None:
    for key in ((0, 1), None, True):
        with pytest.raises(InvalidModel, match=r"plain JSON has no key"):
            CODECS["plain"].encode({"a": {key: 1}})
