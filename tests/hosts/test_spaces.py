"""Every kind of Gymnasium space over the wire: what arrives is what left, or it is refused."""

from __future__ import annotations

import enum
import json
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async.errors import InvalidAction, InvalidObservation, InvalidOption
from openenv_async.hosts.spaces import described, opener, reader, rebuilt, sender, writer
from openenv_async.integrations.gymnasium import codec_of
from openenv_async.models import Format, PayloadCodec
from openenv_async.schemas.sample import sample

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
FORMATS: tuple[Format, ...] = ("msgpack", "json")
FLOATS = ["f2", "f4", "f8", ">f4"]


# -- spaces, generated --------------------------------------------------------------------------


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(0, 3), max_size=3)))


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Space[Any]:
    dtype: Any = np.dtype(draw(st.sampled_from([*INTEGERS, *FLOATS, "?"])))
    shape = draw(shapes())
    if dtype.kind == "f":
        bounds = st.sampled_from([-math.inf, -2.5, -1.0, 0.0, 0.1, 1.0, 7.0, math.inf])
        drawn = [[draw(bounds), draw(bounds)] for _ in range(math.prod(shape))]
        pairs = [sorted(pair) for pair in drawn]
        pairs = [[a if a < math.inf else 0.0, b if b > -math.inf else 0.0] for a, b in pairs]
    else:
        limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        most = 2**40  # Gymnasium draws with floats, and fails with larger bounds
        bounds = st.integers(max(int(limits[0]), -most), min(int(limits[1]), most))
        pairs = [sorted([draw(bounds), draw(bounds)]) for _ in range(math.prod(shape))]
    low = np.array([pair[0] for pair in pairs], dtype).reshape(shape)
    high = np.array([pair[1] for pair in pairs], dtype).reshape(shape)
    return spaces.Box(low, high, shape, dtype)


@st.composite
def unbounded(draw: st.DrawFn) -> spaces.Space[Any]:
    dtype: Any = np.dtype(draw(st.sampled_from(["i1", "i4", "i8", "f4", "f8"])))
    low, high = draw(st.sampled_from([(-math.inf, math.inf), (0, math.inf), (-math.inf, 3)]))
    return spaces.Box(low, high, draw(shapes()), dtype)


@st.composite
def discretes(draw: st.DrawFn) -> spaces.Space[Any]:
    dtype = draw(st.sampled_from(["i1", "i4", "i8", "u1"]))
    start = draw(st.integers(0 if dtype == "u1" else -5, 5))
    made: Any = spaces.Discrete(draw(st.integers(1, 9)), start=start, dtype=np.dtype(dtype))
    return made  # type: ignore[no-any-return]  # a space


@st.composite
def multi_discretes(draw: st.DrawFn) -> spaces.Space[Any]:
    dtype: Any = np.dtype(draw(st.sampled_from(["i1", "i4", "i8"])))
    shape = draw(st.sampled_from([(1,), (3,), (2, 2), (1, 2, 1)]))
    size = math.prod(shape)
    nvec = draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))
    start = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    return spaces.MultiDiscrete(
        np.array(nvec, dtype).reshape(shape),
        dtype=dtype,
        start=np.array(start, dtype).reshape(shape),
    )


def texts() -> st.SearchStrategy[spaces.Space[Any]]:
    return st.builds(
        lambda least, more, charset: spaces.Text(
            least + more, min_length=least, charset="".join(charset)
        ),
        st.integers(0, 3),
        st.integers(1, 4),
        st.sets(st.sampled_from("zaäй☃ \n"), min_size=1),
    )


def numbers() -> st.SearchStrategy[spaces.Space[Any]]:
    binary = st.builds(spaces.MultiBinary, st.sampled_from([1, 3, (2, 2), (1,)]))
    return st.one_of(boxes(), unbounded(), discretes(), multi_discretes(), binary)


def keys() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from(["a", "b", "value", "reward", "done", "__ndarray__", ""]),
        st.integers(-2, 12),
    )


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[spaces.Space[Any]]:
    entries = st.lists(
        st.tuples(keys(), inner), min_size=1, max_size=3, unique_by=lambda entry: str(entry[0])
    )
    features = st.one_of(
        numbers(),
        st.builds(spaces.Tuple, st.lists(numbers(), min_size=1, max_size=2)),
        st.builds(lambda part: spaces.Dict([("x", part), ("b", part)]), numbers()),
    )
    return st.one_of(
        st.builds(spaces.Dict, entries),
        st.builds(spaces.Tuple, st.lists(inner, max_size=3)),
        st.builds(spaces.Sequence, inner),
        st.builds(lambda feature: spaces.Sequence(feature, stack=True), features),
        st.builds(spaces.OneOf, st.lists(inner, min_size=1, max_size=3)),
    )


def graphs() -> st.SearchStrategy[spaces.Space[Any]]:
    box = spaces.Box(-1.0, 1.0, (2,))
    return st.sampled_from(
        [
            spaces.Graph(box, None),
            spaces.Graph(box, spaces.Discrete(3, start=1)),
            spaces.Graph(spaces.Discrete(4), box),
        ]
    )


def any_space() -> st.SearchStrategy[spaces.Space[Any]]:
    leaves = st.one_of(numbers(), texts(), graphs())
    return st.recursive(leaves, containers, max_leaves=6)


# -- the same, exactly --------------------------------------------------------------------------


def same_space(left: Any, right: Any) -> bool:
    """Equal by Gymnasium's rule, and in all that it does not compare."""
    if type(left) is not type(right) or left != right:
        return False
    match left:
        case spaces.Dict():
            return list(left.spaces) == list(right.spaces) and all(
                same_space(left[key], right[key]) for key in left.spaces
            )
        case spaces.Tuple() | spaces.OneOf():
            return all(map(same_space, left.spaces, right.spaces))
        case spaces.Sequence():
            return same_space(left.feature_space, right.feature_space)
        case spaces.Box():
            return all(
                np.array_equal(getattr(left, name), getattr(right, name))
                for name in ("low", "high", "bounded_below", "bounded_above")
            )
        case _:
            return bool(left.dtype == right.dtype)


def same(left: Any, right: Any) -> bool:
    """The same element: type, dtype, shape and order.

    Of a Box without axes Gymnasium draws arrays or scalars, as the dtype has it.
    """
    if isinstance(left, np.ndarray) and not left.ndim and isinstance(right, np.generic):
        right = np.asarray(right)
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and np.array_equal(left, right)
        )
    if isinstance(left, np.generic):
        return left.dtype == right.dtype and bool(left == right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple):
        return (
            isinstance(right, tuple)
            and len(left) == len(right)
            and all(map(same, left, right))
            and hasattr(left, "nodes") is hasattr(right, "nodes")
        )
    return type(left) is type(right) and bool(left == right)


def sampled(space: spaces.Space[Any], seed: int) -> Any:
    space.seed(seed)
    return space.sample()


@settings(max_examples=300, deadline=None)
@given(any_space(), st.integers(0, 99))
def test_a_space_and_its_elements_arrive_as_they_left(space: spaces.Space[Any], seed: int) -> None:
    about = json.loads(json.dumps(described(space)))
    there = codec_of(about)
    assert same_space(there.space, space)
    element = sampled(space, seed)
    for format in FORMATS:
        codec: PayloadCodec[Any] = PayloadCodec(Any, format)
        seen = codec.decode(codec.encode(writer(space)(element)))
        assert same(there.from_wire(seen), element)
        acted = codec.decode(codec.encode(there.to_wire(element)))
        assert same(reader(space)(acted), element)


@settings(max_examples=60, deadline=None)
@given(any_space())
def test_a_space_inside_of_an_action_of_one_field_is_that_space(space: spaces.Space[Any]) -> None:
    whole = {"type": "object", "properties": {"value": described(space)}, "required": ["value"]}
    there = codec_of(json.loads(json.dumps(whole)))
    assert same_space(there.space, space)
    element = sampled(space, 1)
    assert same(there.from_wire({"value": writer(space)(element)}), element)


@settings(max_examples=200, deadline=None)
@given(any_space(), st.integers(0, 99))
def test_what_is_drawn_from_a_schema_is_an_action(space: spaces.Space[Any], seed: int) -> None:
    about = json.loads(json.dumps(described(space)))
    action = sample(about, random.Random(seed))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Casting input x")  # a stack of boxes without axes
        assert space.contains(reader(space)(action))


def values() -> st.SearchStrategy[Any]:
    """Whatever an environment may show where numbers are wanted."""
    plain = st.one_of(
        st.none(), st.booleans(), st.integers(-400, 400), st.integers(), st.floats(width=32),
        st.text(max_size=2), st.binary(max_size=2), st.complex_numbers(max_magnitude=4),
    )  # fmt: skip
    dtypes = st.sampled_from(["?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", ">i2", "c8"])
    arrays = st.builds(
        lambda numbers, dtype, shape: np.array(numbers).astype(dtype).reshape(shape),
        st.lists(st.integers(0, 99), min_size=2, max_size=2),
        dtypes,
        st.sampled_from([(2,), (2, 1), (1, 2)]),
    )
    wild = st.builds(np.array, st.lists(st.floats(width=32) | st.integers(-999, 999), max_size=3))
    lists = st.lists(plain, max_size=3)
    return st.one_of(
        plain, arrays, wild, lists, lists.map(tuple), st.builds(np.float64, st.floats())
    )


LEAVES: list[spaces.Space[Any]] = [
    spaces.Box(0, 255, (2,), np.uint8),
    spaces.Box(-5, 300, (2,), np.int16),
    spaces.Box(-math.inf, math.inf, (2,), np.float32),
    spaces.Box(-math.inf, math.inf, (2,), np.float64),
    spaces.Box(0, 1, (), np.float32),
    spaces.Box(0, 1, (2,), np.dtype(np.bool_)),
    spaces.Discrete(100),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([100, 5]),
    spaces.MultiBinary(2),
]


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(LEAVES), values(), st.sampled_from([writer, sender, reader, opener]))
def test_a_value_is_the_same_number_afterwards_or_refused(
    space: spaces.Space[Any], value: Any, convert: Callable[[Any], Callable[[Any], Any]]
) -> None:
    """Whatever comes, nothing is cut, wrapped, parsed or reshaped in silence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = convert(space)(value)
    except (InvalidObservation, InvalidAction):
        return
    before, after = np.asarray(value), np.asarray(got)
    assert before.dtype.kind in "biuf" or not before.size
    assert after.shape == space.shape
    if convert in (writer, opener):
        assert before.shape == after.shape
    same_numbers = np.float32 if after.dtype == np.float32 else np.float64
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            before.reshape(after.shape).astype(same_numbers), after.astype(same_numbers)
        )
    if space.dtype is not None and space.dtype.kind in "iu" and convert in (writer, reader):
        assert space.contains(np.asarray(after, space.dtype)[()])


class Odd(spaces.Space[Any]):
    """A kind of space that only its author knows."""

    def __repr__(self) -> str:  # names tests: it has to be the same in every process
        return "Odd()"


class Halved(spaces.Box):
    """A Box that is not equal to any other."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Halved) and super().__eq__(other)


def keyed(*keys: Any) -> spaces.Space[Any]:
    return spaces.Dict([(key, spaces.Discrete(2)) for key in keys])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.OneOf((spaces.Discrete(2), Odd())), "type Odd cannot be served"),
        (Odd(), "type Odd cannot be served"),
        (spaces.Tuple((Odd(),)), "type Odd cannot be served"),
        (spaces.Sequence(Odd()), "type Odd cannot be served"),
        (spaces.Dict({"a": spaces.Dict({"b": Odd()})}), "type Odd cannot be served"),
        (keyed((1, 2)), "use text or integers"),
        (keyed(True), "use text or integers"),
        (keyed(1, "1"), "written alike"),
        (spaces.Box(0, 1, (1,), np.longdouble), "use float64"),
        (Halved(0, 1), "a client would make"),
    ],
    ids=str,
)
def test_what_cannot_arrive_is_refused_when_it_is_described(space: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        described(space)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_bounds_that_no_float_holds_arrive(dtype: Any) -> None:
    most = np.iinfo(dtype).max
    space = spaces.Box(np.array([most - 1]), np.array([most]), dtype=dtype)
    there = codec_of(json.loads(json.dumps(described(space)))).space
    assert isinstance(there, spaces.Box)
    assert (int(there.low[0]), int(there.high[0])) == (most - 1, most)


def test_an_unknown_description_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="no space of kind 'Sphere': update"):
        rebuilt({"kind": "Sphere"})


# -- values that are not the space's ------------------------------------------------------------

OUT: list[tuple[spaces.Space[Any], Any, Any]] = [
    # What a space of numbers shows is cast where nothing is lost.
    (spaces.Box(0, 255, (2,), np.uint8), [0, 255], np.array([0, 255], "u1")),
    (spaces.Box(0, 255, (2,), np.uint8), np.array([3, 4]), np.array([3, 4], "u1")),
    (spaces.Box(0, 1, (2,), np.uint8), np.array([True, False]), np.array([1, 0], "u1")),
    (spaces.Box(-1, 1, (2,)), np.array([0.1, 0.2]), np.array([0.1, 0.2], "f4")),
    (spaces.Box(-1, 1, (2,)), [1, 0], np.array([1, 0], "f4")),
    (spaces.Box(-1, 1, (2,)), np.array([math.nan, math.inf]), np.array([math.nan, math.inf], "f4")),
    (spaces.Box(-1, 1, ()), 0.5, np.array(0.5, "f4")),
    (spaces.Box(-1, 1, (2,)), np.array([1.5, -9.0], "f4"), np.array([1.5, -9.0], "f4")),
    (spaces.Discrete(3), np.int8(2), 2),
    (spaces.Discrete(3), np.array(2), 2),
    (spaces.Discrete(2), True, 1),
    (spaces.Discrete(2), np.bool_(False), 0),
    (spaces.Tuple((spaces.Discrete(2),)), [1], [1]),
    (spaces.Text(3), np.str_("ab"), "ab"),
    (spaces.Text(3), "longer than it says", "longer than it says"),
]


@pytest.mark.parametrize(("space", "value", "wanted"), OUT, ids=str)
def test_an_observation_of_the_same_kind_is_cast(space: Any, value: Any, wanted: Any) -> None:
    got = writer(space)(value)
    if isinstance(wanted, np.ndarray):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    else:
        assert got == wanted
        assert type(got) is type(wanted)


PIXELS = spaces.Box(0, 255, (2,), np.uint8)
REFUSED: list[tuple[spaces.Space[Any], Any, str]] = [
    (PIXELS, np.array([0.25, 0.75], "f4"), "observation must be an array of uint8"),
    (PIXELS, np.array([1.0, 2.0]), "an array of float64"),
    (PIXELS, np.array([300, 0]), "300"),
    (PIXELS, np.array([-1, 0]), "-1"),
    (PIXELS, [256, 0], "256"),
    (PIXELS, np.zeros((2, 1), np.uint8), "shape \\(2, 1\\)"),
    (PIXELS, np.zeros(3, np.uint8), "shape \\(3,\\)"),
    (PIXELS, np.uint8(3), "uint8"),
    (PIXELS, [[1], [1, 2]], "uint8"),
    (PIXELS, None, "got None"),
    (PIXELS, "ab", "got 'ab'"),
    (PIXELS, ["1", "2"], "got"),
    (PIXELS, np.array([1, None]), "got"),
    (PIXELS, np.ma.masked_array([1, 2], [True, False], dtype=np.uint8), "got"),
    (PIXELS, np.array([1j, 2]), "complex"),
    (spaces.Box(0, 9, (1,), np.int64), np.array([10]), "got an array"),
    (spaces.Box(np.array([0, 5]), np.array([9, 6]), dtype=np.int16), np.array([9, 9]), "got"),
    (spaces.Box(-1, 1, (1,)), np.array([1e300]), "1e\\+300"),
    (spaces.Box(-1, 1, (1,)), np.array([1j]), "complex"),
    (spaces.Box(0, 1, (2,), np.bool_), np.array([0, 2]), "got"),
    (spaces.MultiBinary(2), np.array([0, 2], "i1"), "got"),
    (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "got"),
    (spaces.MultiDiscrete([2, 3], start=np.array([1, 1])), np.array([0, 1]), "got"),
    (spaces.Discrete(3), 1.7, "an integer from 0 to 2, got 1.7"),
    (spaces.Discrete(3), 1.0, "got 1.0"),
    (spaces.Discrete(3), np.float32(1), "got np.float32"),
    (spaces.Discrete(3), np.array([1]), "got an array"),
    (spaces.Discrete(3), 3, "got 3"),
    (spaces.Discrete(3, start=1), 0, "from 1 to 3, got 0"),
    (spaces.Discrete(3), "1", "got '1'"),
    (spaces.Discrete(3), None, "got None"),
    (spaces.Text(3), 5, "got 5"),
    (spaces.Text(3), None, "got None"),
    (spaces.Text(3), b"ab", "got b'ab'"),
    (spaces.Tuple((PIXELS, PIXELS)), (np.zeros(2, "u1"),), "a list of 2"),
    (spaces.Tuple((PIXELS, PIXELS)), None, "a list of 2"),
    (spaces.Tuple((PIXELS, spaces.Discrete(2))), (np.zeros(2, "u1"), 2), r"observation\[1\]"),
    (spaces.Dict({"a": PIXELS}), {"b": np.zeros(2, "u1")}, "a dict with the keys \\['a'\\]"),
    (spaces.Dict({"a": PIXELS}), {"a": [1, 2], "b": 3}, "a dict with the keys \\['a'\\]"),
    (spaces.Dict({"a": PIXELS}), np.zeros(2, "u1"), "a dict"),
    (spaces.Dict({"a": spaces.Dict({"b": PIXELS})}), {"a": {"b": [0.5, 1]}}, r"\['a'\]\['b'\]"),
    (spaces.Sequence(spaces.Discrete(2)), 1, "a list"),
    (spaces.Sequence(spaces.Discrete(2)), "01", "a list"),
    (spaces.Sequence(spaces.Discrete(2)), (0, 5), r"observation\[...\]"),
    (spaces.Sequence(PIXELS, stack=True), np.zeros((2, 3), "u1"), "shape \\(n, 2\\)"),
    (spaces.Sequence(PIXELS, stack=True), np.uint8(3), "shape \\(n, 2\\)"),
    (spaces.Sequence(spaces.Discrete(2), stack=True), np.array([0, 2]), "got"),
    (
        spaces.Sequence(spaces.Dict({"a": PIXELS, "b": spaces.Discrete(2)}), stack=True),
        {"a": np.zeros((3, 2), "u1"), "b": np.array([1, 0])},
        "parts of one length",
    ),
    (spaces.Graph(PIXELS, None), {"nodes": 1}, "a GraphInstance"),
    (
        spaces.Graph(PIXELS, None),
        spaces.GraphInstance(np.zeros((1, 2), "u1"), np.zeros(1), np.zeros((1, 2), int)),
        "edges must be None",
    ),
    (
        spaces.Graph(PIXELS, spaces.Discrete(2)),
        spaces.GraphInstance(np.zeros((1, 2), "u1"), np.array([1]), np.array([[0, 1]])),
        "indices from 0 to 0",
    ),
    (
        spaces.Graph(PIXELS, spaces.Discrete(2)),
        spaces.GraphInstance(np.zeros((1, 2), "u1"), np.array([1]), np.array([[0, 0], [0, 0]])),
        "1 pairs of nodes",
    ),
    (
        spaces.Graph(PIXELS, spaces.Discrete(2)),
        spaces.GraphInstance(np.zeros((1, 2), "u1"), np.array([1]), None),
        "given with edge_links",
    ),
]


@pytest.mark.parametrize(("space", "value", "message"), REFUSED, ids=str)
def test_an_observation_of_another_kind_is_refused_with_its_place(
    space: Any, value: Any, message: str
) -> None:
    with pytest.raises(InvalidObservation, match=message):
        writer(space)(value)


@pytest.mark.parametrize("convert", [sender, reader], ids=["client", "server"])
@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Discrete(3), 1.7),
        (spaces.Discrete(3), 1.0),
        (spaces.Discrete(3), "1"),
        (spaces.Discrete(3), True),
        (spaces.Discrete(3), np.bool_(True)),
        (spaces.Discrete(3), None),
        (spaces.Discrete(3), math.nan),
        (spaces.Discrete(3), np.array([1, 1])),
        (spaces.Discrete(3), np.array([1.0])),
        (spaces.Discrete(3), [1]),
        (spaces.Discrete(3), 3),
        (spaces.Box(-1, 1, (2,)), ["0.5", "0.5"]),
        (spaces.Box(-1, 1, (2,)), "ab"),
        (spaces.Box(-1, 1, (2,)), None),
        (spaces.Box(-1, 1, (2,)), [0.5]),
        (spaces.Box(-1, 1, (2,)), [[0.5, 0.5]]),
        (spaces.Box(-1, 1, (2, 3)), np.zeros((3, 2), "f4")),
        (spaces.Box(0, 9, (2,), np.int32), [0.5, 0.5]),
        (spaces.Box(0, 9, (2,), np.int8), [300, 1]),
        (spaces.MultiDiscrete([2, 3]), [0.0, 1.0]),
        (spaces.MultiDiscrete([2, 3]), [0]),
        (spaces.MultiBinary(2), [257, 0]),
        (spaces.Text(3), 5),
        (spaces.Tuple((spaces.Discrete(2),)), 1),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"a": 1, "b": 2}),
        (spaces.Dict({"a": spaces.Discrete(2)}), {}),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"a": "1"}),
        (spaces.Sequence(spaces.Discrete(2)), 1),
    ],
    ids=str,
)
def test_an_action_of_another_kind_is_refused(
    convert: Callable[[Any], Callable[[Any], Any]], space: Any, value: Any
) -> None:
    with pytest.raises(InvalidAction, match=r"invalid action: action.* must be"):
        convert(space)(value)


@pytest.mark.parametrize(
    ("space", "value", "wanted"),
    [
        (spaces.Discrete(3), np.array([2]), 2),
        (spaces.Discrete(3), np.array([[2]], np.uint8), 2),
        (spaces.Box(-1, 1, (1,)), 0.5, [0.5]),
        (spaces.Box(-1, 1, (1,)), np.array([[0.5]]), [0.5]),
        (spaces.Box(-1, 1, ()), np.array([0.5]), 0.5),
        (spaces.MultiBinary(2), [True, False], [1, 0]),
    ],
    ids=str,
)
def test_one_number_is_one_number_in_an_action(space: Any, value: Any, wanted: Any) -> None:
    for convert in (sender, reader):
        got = convert(space)(value)
        assert np.asarray(got).tolist() == wanted
        assert np.shape(got) == space.shape


def test_an_array_that_fits_is_not_copied() -> None:
    pixels = np.zeros((84, 84), np.uint8)
    space = spaces.Box(0, 255, (84, 84), np.uint8)
    assert writer(space)(pixels) is pixels
    assert opener(space)(pixels) is pixels


def test_the_schema_alone_still_tells_a_space() -> None:
    """Make it as from a server of others, which says no x-space."""
    for space in (spaces.Discrete(3, start=1), spaces.Box(0, 1, (2,)), spaces.Text(5)):
        about = {k: v for k, v in described(space).items() if k != "x-space"}
        assert codec_of(about).space == space


def test_gymnasium_knows_no_other_kind_of_space() -> None:
    """A kind that a later release adds must be described or refused by name."""
    known = {
        "Box", "Dict", "Discrete", "Graph", "MultiBinary", "MultiDiscrete", "OneOf", "Sequence",
        "Space", "Text", "Tuple",
    }  # fmt: skip
    found = {
        name
        for name, value in vars(gymnasium.spaces).items()
        if isinstance(value, type) and issubclass(value, gymnasium.Space)
    }
    assert found <= known


class Part(str, enum.Enum):  # noqa: UP042  # whose str() is another text
    EYE = "eye"


def test_a_key_that_is_an_enum_is_its_text() -> None:
    space = spaces.Dict({Part.EYE: spaces.Discrete(3)})
    again = rebuilt(json.loads(json.dumps(described(space)))["x-space"])
    assert again == space
    assert reader(space)(sender(again)({"eye": 2})) == {"eye": 2}
    assert opener(again)(writer(space)({Part.EYE: 1})) == {"eye": 1}


@pytest.mark.parametrize(
    "value", [(2, 0), (-1, 0), (0.0, 1), (True, 1), (0,), (0, 1, 1), 0, "01", (1, 2), None]
)
def test_what_is_no_element_of_one_of_them_is_refused(value: Any) -> None:
    space = spaces.OneOf([spaces.Discrete(4), spaces.Discrete(2)])
    for convert in (reader(space), sender(space)):
        with pytest.raises(InvalidAction, match="invalid action: action"):
            convert(value)
