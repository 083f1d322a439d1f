"""The action set: how a text becomes calls, and what each call takes.

A text is Python's syntax for calls with literal arguments, one a line. It is parsed, never
evaluated: names other than the action's, expressions and attributes are refused.
"""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_args

__all__ = ["MAX_CALLS", "MAX_LENGTH", "ActionError", "Call", "Signatures", "parse", "signatures"]

MAX_LENGTH: Final = 8192
"""Characters of one action."""
MAX_CALLS: Final = 16
"""Calls of one action."""

Signatures = dict[str, inspect.Signature]


class ActionError(Exception):
    """The action cannot be done; the text is for the agent."""


@dataclass(frozen=True)
class Call:
    """One call: the name of an action and its arguments by name."""

    name: str
    arguments: dict[str, Any]


def signatures(*functions: Callable[..., Any]) -> Signatures:
    """The signatures of methods, without ``self``, annotations resolved."""
    known: Signatures = {}
    for function in functions:
        hints = typing.get_type_hints(function)
        parameters = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "self"
        ]
        known[function.__name__] = inspect.Signature(parameters)
    return known


def parse(text: str, known: Signatures) -> list[Call]:
    """The calls of an action's text, in order; none for a blank one.

    Raises:
        ActionError: the text is not a call of ``known`` with literal arguments that fit.
    """
    if len(text) > MAX_LENGTH:
        raise ActionError(f"the action has {len(text)} characters: at most {MAX_LENGTH}")
    try:
        module = ast.parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise ActionError(f"the action is not a call such as click('12'): {exc}") from None
    if len(module.body) > MAX_CALLS:
        raise ActionError(f"the action has {len(module.body)} calls: at most {MAX_CALLS}")
    return [_call(statement, known) for statement in module.body]


def _call(statement: ast.stmt, known: Signatures) -> Call:
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ActionError("the action is not a call such as click('12')")
    name = call.func.id
    signature = known.get(name)
    if signature is None:
        raise ActionError(f"there is no action {name}(); there are: {', '.join(known)}")
    if any(keyword.arg is None for keyword in call.keywords):
        raise ActionError(f"{name}(): arguments must be literals")
    args = [_literal(name, node) for node in call.args]
    kwargs = {str(keyword.arg): _literal(name, keyword.value) for keyword in call.keywords}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as exc:
        raise ActionError(f"{name}{_shown(signature)}: {exc}") from None
    for key, value in bound.arguments.items():
        if not _fits(value, signature.parameters[key].annotation):
            raise ActionError(f"{name}{_shown(signature)}: {key} cannot be {value!r:.80}")
    return Call(name, bound.arguments)


def _literal(name: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ActionError(f"{name}(): arguments must be literals") from None


def _shown(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _fits(value: Any, annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in get_args(annotation))
    if origin is typing.Literal:
        return value in get_args(annotation)
    if origin is list:
        (member,) = get_args(annotation)
        return isinstance(value, list) and all(_fits(item, member) for item in value)
    if annotation is float:
        # Coordinates and durations: finite, and of a size that the browser takes.
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= 1e6
    return isinstance(value, annotation)
