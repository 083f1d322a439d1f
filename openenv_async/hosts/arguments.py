"""Constructor arguments that several hosts take, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openenv_async.errors import InvalidOption, shown
from openenv_async.types import MAX_SECONDS

__all__ = ["checked_columns", "checked_seconds"]


def checked_seconds(name: str, value: Any) -> float:
    """Return a number of seconds.

    Raises:
        InvalidOption: it is not a positive one, or too large.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= MAX_SECONDS
    ):
        raise InvalidOption(
            f"{name} must be a number of seconds, more than 0 and at most {MAX_SECONDS:g}, got"
            f" {shown(value)}",
            option=name,
        )
    return float(value)


def checked_columns(name: str, value: Any) -> tuple[str, ...]:
    """Return the names of columns of tasks.

    Raises:
        InvalidOption: it is not a list of names.
    """
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or not all(isinstance(each, str) for each in value):
        raise InvalidOption(
            f"{name} takes names of columns, such as ['question'], got {shown(value)}", option=name
        )
    return tuple(value)
