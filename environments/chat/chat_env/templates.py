"""Chat templates, rendered as ``apply_chat_template`` of transformers 5.24 renders them.

Rules:

- A template sees plain data alone. A key of a message whose value is ``None`` is left out, and
  reasoning is found under each of its names: ``reasoning_content``, ``thinking``, ``reasoning``.
- A template is code of others: it runs in Jinja's immutable sandbox, and stores nothing under a
  name with an underscore in front.
- ``generation`` blocks are rendered as their text; ``render_spans`` tells where they lie.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

from openenv_async.errors import InvalidOption

__all__ = ["ChatTemplate", "Rendered"]

_REASONING: Final = ("reasoning_content", "thinking", "reasoning")
_OPEN, _CLOSE = "\ue0e0", "\ue0e1"
"""Private characters around generated text, where spans are asked for."""
_PROBE: Final = "\u241f"

Clock = Callable[[], datetime.datetime]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: all of it.
        spans: (start, stop) of the characters that lie in ``generation`` blocks.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: in Jinja.
        marks: special tokens by name, such as ``eos_token``, which the template may use.
        clock: of ``strftime_now``; local time by default.

    Attributes:
        source: as it was given.
        takes_tools: whether it tells the model which tools there are.
        takes_blocks: whether it renders content that is a list of blocks; other templates are to be
            given its text.
        takes_text: whether it renders content that is a text; other templates are to be given a
            block of it.

    Raises:
        InvalidOption: it is broken.
    """

    def __init__(
        self, source: str, marks: Mapping[str, str] | None = None, clock: Clock | None = None
    ) -> None:
        self.source = source
        self._marks = dict(marks or {})
        environment = _environment()
        environment.globals["strftime_now"] = functools.partial(_strftime_now, clock)
        try:
            variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
            self._compiled = environment.from_string(source)
        except jinja2.TemplateError as exc:
            raise InvalidOption(f"the chat template is broken: {exc}", option="tokenizer") from exc
        self.takes_tools: bool = "tools" in variables
        self.takes_blocks: bool = self._renders([{"type": "text", "text": _PROBE}])
        self.takes_text: bool = not self.takes_blocks or self._renders(_PROBE)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        begin: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Return a conversation as text.

        Args:
            messages: each with a ``role``, and ``content``, ``tool_calls`` and so on as the
                template knows them.
            begin: add the beginning of the agent's next message.
            tools: JSON Schemas of functions, as OpenAI's API has them.
            documents: each with ``title`` and ``text``.
            variables: further ones of the template, such as ``enable_thinking``.

        Raises:
            InvalidOption: the template fails, or refuses the conversation.
        """
        return self._text(messages, begin, tools, documents, variables, marked=False)

    def render_spans(
        self, messages: Sequence[Mapping[str, Any]], *, begin: bool = False, **variables: Any
    ) -> Rendered:
        """Return a conversation as text, and where the text lies that an agent generates.

        Takes what ``render`` takes.
        """
        tools, documents = variables.pop("tools", None), variables.pop("documents", None)
        marked = self._text(messages, begin, tools, documents, variables, marked=True)
        parts, spans, at, start = [], [], 0, 0
        for piece in re.split(f"([{_OPEN}{_CLOSE}])", marked):
            if piece == _OPEN:
                start = at
            elif piece == _CLOSE:
                spans.append((start, at))
            else:
                parts.append(piece)
                at += len(piece)
        return Rendered("".join(parts), tuple(spans))

    def _text(
        self,
        messages: Sequence[Mapping[str, Any]],
        begin: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        documents: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        *,
        marked: bool,
    ) -> str:
        given = {**self._marks, **_plain(variables)}
        given |= {"messages": [_message(each, marked) for each in messages], "tools": _plain(tools)}
        given |= {"documents": _plain(documents), "add_generation_prompt": begin, _MARKED: marked}
        try:
            return self._compiled.render(given)
        except InvalidOption:
            raise
        except (
            *(jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError),
            *(AttributeError, ArithmeticError, RecursionError),
        ) as exc:
            raise InvalidOption(
                f"the chat template fails with this conversation: {type(exc).__name__}: {exc}",
                option="tokenizer",
            ) from exc

    def _renders(self, content: Any) -> bool:
        """Return whether the text of a content comes out, and nothing of how data is written."""
        try:
            text = self.render([{"role": "user", "content": content}])
        except InvalidOption:
            return False
        return _PROBE in text and not re.search(r"""['"]type['"]""", text)


# -- what a template sees ----------------------------------------------------------------------


def _message(message: Mapping[str, Any], marked: bool) -> dict[str, Any]:
    plain: dict[str, Any] = _plain(
        {key: value for key, value in message.items() if value is not None}
    )
    if marked:
        plain = _without_marks(plain)
    thought = next((plain[key] for key in _REASONING if plain.get(key) is not None), None)
    return plain if thought is None else {"thinking": thought, **plain, _REASONING[0]: thought}


def _plain(value: Any) -> Any:
    """Data of JSON's types; of anything else the name of its type."""
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Mapping():
            return {_plain(key): _plain(each) for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case tuple():
            return tuple(_plain(each) for each in value)
        case _:
            return f"<{type(value).__name__}>"


def _without_marks(value: Any) -> Any:
    match value:
        case str():
            return value.replace(_OPEN, "").replace(_CLOSE, "")
        case dict():
            return {key: _without_marks(each) for key, each in value.items()}
        case list():
            return [_without_marks(each) for each in value]
        case _:
            return value


# -- Jinja as transformers sets it up ----------------------------------------------------------

_MARKED: Final = "generation_is_marked"


class _Generation(jinja2.ext.Extension):
    """The tag ``generation``: what an agent generates."""

    tags: Final = {"generation"}  # type: ignore[misc]  # Jinja declares a variable

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line: int = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marked = jinja2.nodes.Name(_MARKED, "load")
        call = self.call_method("_shown", [marked])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _shown(self, marked: Any, caller: Callable[[], str]) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}" if marked is True else caller()


class _Dict:
    """``dict`` without its attributes."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """Return a dict of equal values."""
        return dict.fromkeys(keys, value)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's, without names that begin with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:  # a value may be called self
        self, *rest = args
        attributes = dict(*rest, **values)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a template may not store {name!r}")


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _refuse, "dict": _Dict(), "namespace": _Namespace}
    return made


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(clock: Clock | None, format: str) -> str:
    now = datetime.datetime.now() if clock is None else clock()  # as transformers
    return now.strftime(format)


def _refuse(message: str) -> None:
    raise InvalidOption(f"the tokenizer's chat template refuses this conversation: {message}")
