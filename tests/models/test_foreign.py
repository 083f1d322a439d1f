"""Values that msgspec does not know, as values that it does."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import ipaddress
import re
from collections import UserString
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pydantic
import pytest

from openenv_async.models.foreign import from_text, is_text_type, plain_form

UTC = datetime.UTC


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Part(float):
    pass


class Octets(bytes):
    pass


class Moment(datetime.datetime):
    pass


class Day(datetime.date):
    pass


class Hour(datetime.time):
    pass


class Span(datetime.timedelta):
    pass


class Money(decimal.Decimal):
    pass


class Settings(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        return {"a": 1, "b": 2}[key]

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        return 2


SCALARS = [
    (Text("a"), "a"),
    (Whole(5), 5),
    (Part(0.5), 0.5),
    (Octets(b"x"), b"x"),
    (Money("1.50"), decimal.Decimal("1.50")),
    (
        Moment(2024, 1, 2, 3, 4, 5, 6, UTC, fold=1),
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6, UTC, fold=1),
    ),
    (Day(2024, 1, 2), datetime.date(2024, 1, 2)),
    (Hour(1, 2, 3, 4, UTC, fold=1), datetime.time(1, 2, 3, 4, UTC, fold=1)),
    (Span(1, 2, 3), datetime.timedelta(1, 2, 3)),
]


@pytest.mark.parametrize(("value", "plain"), SCALARS, ids=lambda value: type(value).__name__)
def test_a_subclass_of_a_scalar_is_that_scalar(value: Any, plain: Any) -> None:
    made = plain_form(value)
    assert type(made) is type(plain)
    assert made == plain
    assert getattr(made, "fold", 0) == getattr(plain, "fold", 0)


def test_nan_of_a_subclass_is_no_loss() -> None:
    made = plain_form(Part("nan"))
    assert type(made) is float
    assert made != made


def test_a_subclass_that_holds_more_is_refused() -> None:
    class Nanoseconds(datetime.datetime):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Nanoseconds)

        __hash__ = datetime.datetime.__hash__

    with pytest.raises(TypeError, match="would lose a part as datetime: send it as text"):
        plain_form(Nanoseconds(2024, 1, 2))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Settings(), {"a": 1, "b": 2}),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        (array.array("i", [1, 2]), [1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_containers_are_lists_and_dicts(value: Any, plain: Any) -> None:
    made = plain_form(value)
    assert (type(made), made) == (type(plain), plain)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (PurePosixPath("a/b"), "a/b"),
        (UserString("x"), "x"),
        (ipaddress.ip_address("::1"), "::1"),
        (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (re.compile("a+"), "a+"),
        (pydantic.HttpUrl("http://a.example/"), "http://a.example/"),
    ],
    ids=str,
)
def test_what_travels_as_text(value: Any, text: str) -> None:
    assert plain_form(value) == text
    if not isinstance(value, UserString):
        assert is_text_type(type(value))
        assert from_text(type(value), text) == value


def test_types_that_are_not_text() -> None:
    assert not any(map(is_text_type, (str, int, dict, UserString, object, decimal.Decimal)))


@pytest.mark.parametrize("pattern", [re.compile(b"a"), re.compile("a", re.IGNORECASE)])
def test_a_pattern_of_bytes_or_with_flags_is_refused(pattern: Any) -> None:
    with pytest.raises(TypeError, match="put them in its text"):
        plain_form(pattern)


def test_text_that_stands_for_nothing_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Expected `str`, got `int`"):
        from_text(PurePosixPath, 3)
    with pytest.raises(ValueError, match="unterminated"):
        from_text(re.Pattern, "(")
    with pytest.raises(ValueError, match="Expected 4 octets"):
        from_text(ipaddress.IPv4Address, "a host")


class Secret:
    def get_secret_value(self) -> str:
        return "x"


class Tensor:
    def numpy(self) -> list[float]:
        return []


async def call() -> None:
    pass


def test_the_remedy_fits_the_value() -> None:
    coroutine = call()
    remedies = [
        (coroutine, "await it"),
        (iter([1]), "give list"),
        (len, "call it and give what it returns"),
        (Secret(), "get_secret_value"),
        (Tensor(), r"give \.numpy\(\) of it"),
        (object(), "use plain types, arrays"),
        (dict, "use plain types, arrays"),
    ]
    for value, remedy in remedies:
        with pytest.raises(TypeError, match=f"cannot travel: .*{remedy}"):
            plain_form(value)
    coroutine.close()


def test_the_type_is_named_with_its_module() -> None:
    with pytest.raises(TypeError, match=rf"a value of type {__name__}\.Secret cannot travel"):
        plain_form(Secret())
