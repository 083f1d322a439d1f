"""Values that msgspec does not know as values that it does; types that travel as text.

Taken are what pydantic takes where a list, a dict or a scalar is declared: other containers of
``collections.abc``, subclasses of the builtin scalars. Their own attributes stay behind, as they
do in pydantic. Data that would arrive as another value is refused instead.
"""

from __future__ import annotations

import datetime
import decimal
import inspect
import re
import sys
from collections import UserString
from collections.abc import Collection, Iterator, Mapping, Sequence, Set, ValuesView
from pathlib import PurePath
from typing import Any, Final

__all__ = ["CONTAINERS", "from_text", "is_text_type", "plain_form"]

CONTAINERS: Final = (Sequence, Set, ValuesView)
"""Types that are written as a list where they are not text."""
_NOT_PLAIN: Final = object()
_PYDANTIC_TEXT: Final = ("pydantic.networks", "pydantic_core._pydantic_core")


def plain_form(value: Any) -> Any:
    """A value of builtins for one that msgspec does not know.

    Raises:
        TypeError: there is none; the message has the remedy.
    """
    for form in (_text, _scalar, _container):
        found = form(value)
        if found is not _NOT_PLAIN:
            return found
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(f"a value of type {name} cannot travel: {_remedy(value)}")


def _remedy(value: Any) -> str:
    if inspect.iscoroutine(value):
        return "the call that gave it is async: await it"
    if isinstance(value, Iterator):
        return "reading it would use it up: give list(…) of it"
    if callable(value) and not isinstance(value, type):
        return "call it and give what it returns"
    if hasattr(value, "get_secret_value"):
        return "it hides what it holds: give get_secret_value() in a field of its own"
    if callable(getattr(value, "numpy", None)):
        return "give .numpy() of it"
    return (
        "use plain types, arrays or one of the model types"
        " (dataclass, Struct, attrs, TypedDict, pydantic)"
    )


# -- text -----------------------------------------------------------------------------------


def is_text_type(cls: type) -> bool:
    """Return whether values of a class travel as the text that makes them again."""
    return (
        issubclass(cls, PurePath | re.Pattern)
        or cls.__module__ == "ipaddress"
        or (cls.__module__ in _PYDANTIC_TEXT and hasattr(cls, "unicode_string"))  # a URL
    )


def from_text(cls: type, text: Any) -> Any:
    """The inverse of writing a value of ``cls`` as text.

    Raises:
        ValueError: the text does not stand for one.
    """
    if not isinstance(text, str):
        raise ValueError(f"Expected `str`, got `{type(text).__name__}`")
    try:
        return re.compile(text) if cls is re.Pattern else cls(text)
    except (re.error, NotImplementedError) as error:
        raise ValueError(str(error)) from error


def _text(value: Any) -> Any:
    cls = type(value)
    if isinstance(value, PurePath | UserString) or cls.__module__ == "ipaddress":
        return str(value)
    if isinstance(value, re.Pattern):
        if not isinstance(value.pattern, str) or value.flags != re.compile(value.pattern).flags:
            raise TypeError("a pattern of bytes or with flags cannot travel: put them in its text")
        return value.pattern
    if cls.__module__ in _PYDANTIC_TEXT:  # a URL, or an e-mail address with a name
        return str(value)
    return _NOT_PLAIN


# -- subclasses of scalars ------------------------------------------------------------------


def _scalar(value: Any) -> Any:
    """A subclass of a builtin scalar as that scalar."""
    for base, exact in _EXACT:
        if isinstance(value, base):
            plain = exact(value)
            equal = plain == value
            if not equal and value == value:  # such as a timestamp with nanoseconds
                raise TypeError(
                    f"a value of type {type(value).__module__}.{type(value).__qualname__} would"
                    f" lose a part as {base.__name__}: send it as text or as an array"
                )
            return plain
    return _NOT_PLAIN


_EXACT: Final[tuple[tuple[type, Any], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray, lambda value: bytearray(memoryview(value))),
    (decimal.Decimal, decimal.Decimal),
    (
        datetime.datetime,
        lambda value: datetime.datetime.combine(
            datetime.date(value.year, value.month, value.day),
            datetime.time(
                value.hour,
                value.minute,
                value.second,
                value.microsecond,
                value.tzinfo,
                fold=value.fold,
            ),
        ),
    ),
    (datetime.date, lambda value: datetime.date(value.year, value.month, value.day)),
    (
        datetime.time,
        lambda value: datetime.time(
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
            value.tzinfo,
            fold=value.fold,
        ),
    ),
    (
        datetime.timedelta,
        lambda value: datetime.timedelta(value.days, value.seconds, value.microseconds),
    ),
)


# -- containers -----------------------------------------------------------------------------


def _container(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: value[key] for key in value}
    array = sys.modules.get("array")
    if isinstance(value, CONTAINERS) or (array is not None and isinstance(value, array.array)):
        items: Collection[Any] = value
        return list(items)
    return _NOT_PLAIN
