"""Exceptions of user code as bounded text, whatever they do when they are looked at.

An exception may raise when it is printed, claim another class, or hold gigabytes of text. The
functions here look at its real type, catch all that its own methods raise, and cut what is long.
"""

from __future__ import annotations

import traceback
from typing import Final

from openenv_async.errors import sendable

__all__ = ["exception_name", "exception_text", "traceback_text"]

_type_name: Final = type.__dict__["__name__"].__get__
"""The name that a type was made with: a metaclass cannot lie about it."""


def exception_name(exc: BaseException) -> str:
    """The name of its class."""
    name: str = _type_name(type(exc))
    return name


def exception_text(exc: BaseException, limit: int) -> str:
    """Its text, or what kept it from having one.

    Args:
        exc: any exception.
        limit: characters at most (``Limits.max_error_size``); more are cut, which is said.
    """
    try:
        text = str(exc)
        if type(text) is not str:
            text = str.__str__(text)
    except BaseException as second:  # raised by its __str__: nothing of it may get out
        return f"(its text cannot be read: str() raised {exception_name(second)})"
    return bounded(sendable(text), limit)


def traceback_text(exc: BaseException, limit: int) -> str:
    """Its traceback as Python prints it, with those of its causes.

    Args:
        exc: any exception.
        limit: characters at most (``Limits.max_error_size``); the middle of more is cut.
    """
    try:
        text = "".join(traceback.format_exception(exc))
    except BaseException:  # raised by its own methods or those of a cause
        frames = "".join(traceback.format_tb(exc.__traceback__))
        text = (
            f"Traceback (most recent call last):\n{frames}"
            f"{exception_name(exc)}: {exception_text(exc, limit)}\n"
        )
    text = sendable(text).rstrip("\n")
    if len(text) <= limit:
        return text
    cut = f"\n… {len(text) - limit} characters cut (Limits.max_error_size = {limit}) …\n"
    return text[: limit // 4] + cut + text[-(limit - limit // 4) :]


def bounded(text: str, limit: int) -> str:
    """``text``, cut at ``limit`` characters."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters, cut at Limits.max_error_size = {limit})"
