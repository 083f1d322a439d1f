"""The action set: how a text becomes calls, and what each call takes.

A call is Python's syntax with literal arguments. It is parsed, never evaluated: names other than
the action's, expressions and attributes are refused. Rules for a model's text, in this order:

1. The text in ``<think>`` is left out; a ``<think>`` that is not closed takes all that follows.
2. If there are ``<action>`` tags, the last one counts alone. Else, if there are fenced blocks
   (three backticks) with a call in them, the last such block counts alone.
3. If what is left is nothing but calls, they are done in their order. Blank lines and remarks
   after ``#`` are left out.
4. Else calls are looked for among other words. Those that have a line of their own, after a list's
   mark, a label such as ``Action:``, quotes or backticks, are done in their order, and calls within
   sentences are not. Without such lines a call within a sentence is done where it is the only one;
   several different ones are refused, since nobody can tell which is meant.
5. An action's name right before ``(`` begins a call; one after a dot or before one does not. A call
   that cannot be read is refused with all the others: nothing is done in part.
6. Curly quotes are quotes where they enclose an argument. A line break within quotes is part of
   the text. A whole number in the place of a text is its digits: ``click(12)``.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_args

__all__ = ["MAX_CALLS", "MAX_LENGTH", "ActionError", "Call", "Signatures", "parse", "signatures"]

MAX_LENGTH: Final = 16_384
"""Characters of one action, thoughts and prose included."""
MAX_CALLS: Final = 16
"""Calls of one action."""

_THOUGHT: Final = re.compile(
    r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE
)
_TAGGED: Final = re.compile(r"<action>(.*?)(?:</action>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCED: Final = re.compile(r"```[^\n`]*\n(.*?)```|```([^\n]*?)```", re.DOTALL)
_CLOSERS: Final = {"'": "'", '"': '"', "\u2018": "\u2019", "\u201c": "\u201d"}
_BEFORE: Final = re.compile(  # what may stand before a call on a line of its own
    r"(?:(?:[-*>\u2022]|\d{1,3}[.)])\s{0,8})?"
    r"(?:\*{0,2}[^\W\d][\w ]{0,40}:\*{0,2}\s{0,8})?[`'\"*\u201c]{0,8}"
)
_AFTER: Final = re.compile(r"[`'\"*\u201d;.,]{0,8}(?:\s{0,8}#.*)?")
_BETWEEN: Final = re.compile(r"[\s;,`]*")
_REMEDY: Final = "reply with calls alone, one a line, such as click('12')"

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
        ActionError: the text has no call of ``known`` with literal arguments that fit, or leaves
            open which is meant. The message names the remedy.
    """
    if len(text) > MAX_LENGTH:
        raise ActionError(f"the action has {len(text)} characters: at most {MAX_LENGTH}")
    if not text.strip():
        return []
    said = _counting(_THOUGHT.sub("", text), known)
    if not said.strip():
        raise ActionError(f"the text has thoughts alone: {_REMEDY}")
    calls = _plain(said)
    if calls is None:
        calls = [_read(source) for source in _among_words(said, known)]
    if len(calls) > MAX_CALLS:
        raise ActionError(f"the action has {len(calls)} calls: at most {MAX_CALLS}")
    return [_call(call, known) for call in calls]


def _counting(text: str, known: Signatures) -> str:
    """The part of the text that counts, by the rule of tags and fenced blocks."""
    tagged = _TAGGED.findall(text)
    if tagged:
        text = tagged[-1]
    blocks = [first or second for first, second in _FENCED.findall(text)]
    return next((block for block in reversed(blocks) if _found(block, known)), text)


def _plain(text: str) -> list[ast.Call] | None:
    """The calls of a text that has nothing else, or ``None``."""
    body: list[ast.stmt] | None = None
    for source in (text.strip(), "\n".join(line.strip() for line in text.splitlines())):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            body = ast.parse(source).body
            break
    if body is None:
        return None
    calls = [
        part.value
        for part in body
        if isinstance(part, ast.Expr)
        and isinstance(part.value, ast.Call)
        and isinstance(part.value.func, ast.Name)
    ]
    return calls if len(calls) == len(body) else None


@dataclass(frozen=True)
class _Found:
    """A call's place in a text, and its own text with plain quotes."""

    start: int
    end: int
    source: str


def _found(text: str, known: Signatures) -> list[_Found]:
    """The calls among the words of a text, whether their arguments fit or not."""
    names = "|".join(map(re.escape, known))
    found: list[_Found] = []
    place = 0
    opening = re.compile(rf"(?<![\w.])(?:{names})(?=\()")
    while (match := opening.search(text, place)) is not None:
        end, source = _scan(text, match.end())
        if re.match(r"\.\w|[(\[]", text[end:]) is None:
            found.append(_Found(match.start(), end, match[0] + source))
        place = end
    return found


def _scan(text: str, start: int) -> tuple[int, str]:
    """The end of the parenthesis that opens at ``start``, and it with plain quotes.

    One that never closes goes to the end of the text.
    """
    depth, place, parts = 0, start, []
    while place < len(text):
        letter = text[place]
        if letter in _CLOSERS:
            end = _string_end(text, place)
            inside = text[place + 1 : end - 1].replace("\r", "").replace("\n", "\\n")
            quote = letter
            if letter not in "'\"":
                quote = '"'
                inside = re.sub(r'(?<!\\)"', r'\\"', inside)
            parts.append(quote + inside + quote)
            place = end
            continue
        depth += (letter in "([{") - (letter in ")]}")
        parts.append(letter)
        place += 1
        if depth == 0:
            break
    return place, "".join(parts)


def _string_end(text: str, start: int) -> int:
    closer = _CLOSERS[text[start]]
    place = start + 1
    while place < len(text) and text[place] != closer:
        place += 2 if text[place] == "\\" else 1
    return min(place + 1, len(text))


def _among_words(text: str, known: Signatures) -> list[str]:
    """The calls that a text of more than calls means, by the rule of lines and sentences."""
    found = _found(text, known)
    lines: dict[int, list[_Found]] = {}
    for call in found:
        lines.setdefault(text.rfind("\n", 0, call.start) + 1, []).append(call)
    own = [
        call.source for start, row in lines.items() if _is_alone(text, start, row) for call in row
    ]
    different = own or list(dict.fromkeys(call.source for call in found))
    if not different:
        raise ActionError(_no_call(text, known))
    if not own and len(different) > 1:
        raise ActionError(
            f"the text names {len(different)} calls within sentences, {different[0]:.80} and"
            f" {different[1]:.80}: {_REMEDY}"
        )
    return different


def _is_alone(text: str, start: int, row: list[_Found]) -> bool:
    """Return whether the line that begins at ``start`` has these calls and no sentence."""
    end = text.find("\n", row[-1].end)
    after = text[row[-1].end : end if end >= 0 else len(text)]
    between = (text[a.end : b.start] for a, b in itertools.pairwise(row))
    return (
        _BEFORE.fullmatch(text[start : row[0].start].strip()) is not None
        and _AFTER.fullmatch(after.strip()) is not None
        and all(_BETWEEN.fullmatch(part) for part in between)
    )


def _no_call(text: str, known: Signatures) -> str:
    other = re.search(r"(?<![\w.])([a-z_]\w*)\(", text)
    if other is not None and other[1] not in known:
        return _unknown(other[1], known)
    return f"no call is in the text {' '.join(text.split())!r:.80}: {_REMEDY}"


def _unknown(name: str, known: Signatures) -> str:
    return f"there is no action {name}(); there are: {', '.join(known)}"


def _read(source: str) -> ast.Call:
    try:
        call = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        why = exc.msg if isinstance(exc, SyntaxError) else str(exc)
        raise ActionError(
            f"the call {source:.80} cannot be read ({why}): quote texts, and put a backslash before"
            " a quote within them"
        ) from None
    assert isinstance(call, ast.Call)
    return call


def _call(call: ast.Call, known: Signatures) -> Call:
    assert isinstance(call.func, ast.Name)
    name = call.func.id
    signature = known.get(name)
    if signature is None:
        raise ActionError(_unknown(name, known))
    if any(keyword.arg is None for keyword in call.keywords):
        raise ActionError(f"{name}(): arguments must be literals")
    args = [_literal(name, node) for node in call.args]
    kwargs = {str(keyword.arg): _literal(name, keyword.value) for keyword in call.keywords}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as exc:
        raise ActionError(f"{name}{_shown(signature)}: {exc}") from None
    for key, value in bound.arguments.items():
        annotation = signature.parameters[key].annotation
        if annotation is str and type(value) is int:
            bound.arguments[key] = str(value)
        elif not _fits(value, annotation):
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
    return isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
