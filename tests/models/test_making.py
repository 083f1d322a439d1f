"""Models made of the values of their fields: what decoding gives, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from openenv_async.models import PayloadCodec
from openenv_async.models.making import maker_of


@dataclass
class One:
    value: Any


@dataclass(frozen=True)
class Frozen:
    value: int
    weight: float = 1.0


@dataclass(slots=True, kw_only=True)
class Slotted:
    value: int
    weight: float | None


@dataclass
class Built:
    """One whose ``__init__`` decoding does not call."""

    value: int
    late: int = field(init=False)

    def __init__(self) -> None:
        raise AssertionError


class Subclass(One):
    """A dataclass only by its base."""

    def __init__(self) -> None:
        raise AssertionError


@dataclass
class Word:
    value: Literal[1, 2]


@dataclass
class Framed:
    value: NDArray[np.float32]


class Plain(msgspec.Struct):
    value: int
    weight: float


class Renamed(msgspec.Struct, rename="upper", frozen=True):
    value: int


MODELS = [One, Frozen, Slotted, Built, Subclass, Word, Framed, Plain, Renamed]
VALUES = [1, 3, 2**62, True, 1.0, 2.5, np.ones(2, np.float32), np.ones(2), np.ones((1, 2))]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_made_is_what_decoding_gives(model: Any) -> None:
    maker = maker_of(model)
    assert maker is not None
    codec: PayloadCodec[Any] = PayloadCodec(model, "msgpack")
    encode = PayloadCodec[Any](Any, "msgpack").encode
    surely = 0
    for first in VALUES:
        for second in VALUES if len(maker.names) > 1 else VALUES[:1]:
            values = (first, second)[: len(maker.names)]
            fields = dict(zip(maker.names, values, strict=True))
            made = maker.make(*values)
            if any(type(fields[name]) is int for name in maker.floats):
                continue
            if maker.fits is not None and not maker.fits(made):
                continue
            surely += 1
            decoded = codec.decode(encode(fields))
            assert type(decoded) is type(made) is model
            assert told(decoded) == told(made)
    assert surely >= 1


def told(model: Any) -> list[tuple[str, type, str]]:
    names = list(model.__annotations__ or One.__annotations__)
    each = [getattr(model, name, None) for name in names]
    return [(name, type(value), repr(value)) for name, value in zip(names, each, strict=True)]


@dataclass
class Checked:
    value: int

    def __post_init__(self) -> None:
        raise AssertionError


@dataclass
class Watched:
    value: int

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError


@dataclass
class Counted:
    value: int

    def __new__(cls, *arguments: Any) -> Counted:
        raise AssertionError


@dataclass
class Empty:
    pass


class Listed(msgspec.Struct, array_like=True):
    value: int


class Tagged(msgspec.Struct, tag="x"):
    value: int


class Keyed(msgspec.Struct, kw_only=True):
    value: int


@pytest.mark.parametrize(
    "model",
    [Checked, Watched, Counted, Empty, Listed, Tagged, Keyed, int, Any, dict[str, int], object],
)
def test_what_does_more_than_hold_its_fields_is_decoded(model: Any) -> None:
    assert maker_of(model) is None
