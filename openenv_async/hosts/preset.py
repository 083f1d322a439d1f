"""A class of environments with some of its arguments given."""

from __future__ import annotations

import inspect
from typing import Any, Final

__all__ = ["preset"]

_TAKING_PARAMS: Final = (
    "prepare_process",
    "isolation_for",
    "schemas",
    "tasks_for",
    "tools_for",
    "certification_for",
)
"""Class methods of ``Environment`` that get the constructor's arguments."""


def preset(base: type, **given: Any) -> type:
    """Return a subclass whose constructor, schemas and tasks have these arguments.

    Args:
        base: an ``Environment`` class.
        given: arguments of its constructor; a server's own ``params`` win.

    Raises:
        TypeError: the constructor does not take one of them.
    """
    signature = inspect.signature(base)
    signature.bind_partial(**given)
    parameters = [
        each.replace(kind=each.KEYWORD_ONLY, default=given.get(each.name, each.default))
        if each.kind is each.POSITIONAL_OR_KEYWORD
        else each
        for each in signature.parameters.values()
    ]

    def __init__(self: Any, **params: Any) -> None:
        base.__init__(self, **{**given, **params})  # type: ignore[misc]  # of the instance made

    body: dict[str, Any] = {"__init__": __init__, "__doc__": base.__doc__}
    body["__signature__"] = signature.replace(parameters=parameters)
    for name in _TAKING_PARAMS:
        if hasattr(base, name):
            body[name] = classmethod(_with(base, name, given))
    return type(base.__name__, (base,), body)


def _with(base: type, name: str, given: dict[str, Any]) -> Any:
    function = getattr(base, name).__func__

    def call(cls: type, *arguments: Any, **params: Any) -> Any:
        return function(cls, *arguments, **{**given, **params})

    return call
