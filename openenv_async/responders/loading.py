"""A responder from one line of text, as the command line and environment variables give it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from openenv_async.endpoints.redaction import redacted
from openenv_async.errors import InvalidOption, TargetNotFound
from openenv_async.responders.base import Responder
from openenv_async.responders.openai import OpenAIResponder
from openenv_async.responders.scripted import ScriptedResponder
from openenv_async.responders.transformers import TransformersResponder
from openenv_async.targets.discovery import import_object

__all__ = ["load_responder"]

_FORMS = (
    'scripted:["a line"], scripted:{"rules": {"regex": "reply"}}, scripted:FILE.json,'
    " openai:MODEL, openai:MODEL@URL, transformers:FOLDER or module:name"
)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"write true or false, not {text!r}")
    return text == "true"


_LOCAL: Final[Mapping[str, Callable[[str], Any]]] = {
    "dtype": str,
    "max_tokens": int,
    "temperature": float,
    "batch_size": int,
    "threads": int,
}
_SETTINGS: Final[Mapping[str, Callable[[str], Any]]] = {
    "timeout": float,
    "max_attempts": int,
    "api_key_variable": str,
    "max_concurrency": int,
    "stream": _truth,
    "tokens": str,
}


def load_responder(text: str, **settings: Any) -> Responder:
    """Return the responder that ``text`` describes.

    - ``scripted:[...]``: lines, a JSON list; ``scripted:{...}``: ``rules`` (regex to reply or
      replies) and ``default``; ``scripted:FILE.json``: either in a file.
    - ``openai:MODEL`` or ``openai:MODEL@URL``: an OpenAI-compatible endpoint, with settings after
      a ``#``: ``openai:qwen@http://127.0.0.1:8080/v1#timeout=30&api_key_variable=MY_KEY``.
      The settings are ``timeout``, ``max_attempts``, ``api_key_variable``, ``max_concurrency``,
      ``stream`` and ``tokens`` of ``OpenAIResponder``.
    - ``transformers:FOLDER`` or a GGUF file: a model in this process, with ``dtype``,
      ``max_tokens``, ``temperature``, ``batch_size`` and ``threads`` after a ``#``.
    - ``module:name``: a responder, a class or function that makes one when it is called without
      arguments, or a function of the messages.

    Args:
        text: one of these forms.
        settings: of an endpoint, by name, where the text does not have them.

    Raises:
        InvalidOption: it does not describe one; the message says why.
    """
    kind, colon, rest = text.strip().partition(":")
    if not colon or not rest:
        raise InvalidOption(f"{redacted(text)!r} is not a responder: write {_FORMS}")
    try:
        match kind:
            case "scripted":
                return _scripted(rest)
            case "openai":
                return _openai(rest, settings)
            case "transformers":
                path, _, fragment = rest.partition("#")
                return TransformersResponder(path, **_settings(fragment, _LOCAL))
            case _:
                return _imported(f"{kind}:{rest}")
    except (ValueError, OSError, TypeError) as exc:
        raise InvalidOption(f"{redacted(text)!r} is not a responder: {exc}") from exc


def _scripted(text: str) -> ScriptedResponder:
    if text[0] not in "[{":
        text = Path(text).read_text(encoding="utf-8")
    script = json.loads(text)
    if isinstance(script, list):
        return ScriptedResponder(script)
    if not isinstance(script, dict) or not isinstance(script.get("rules"), dict):
        raise ValueError('a script is a list of lines or {"rules": {...}, "default": "..."}')
    if unknown := sorted(set(script) - {"rules", "default"}):
        raise ValueError(f"a script has no {unknown[0]!r}")
    return ScriptedResponder(rules=list(script["rules"].items()), default=script.get("default", ""))


def _openai(text: str, settings: dict[str, Any]) -> OpenAIResponder:
    text, _, fragment = text.partition("#")
    model, _, url = text.partition("@")
    return OpenAIResponder(model, url or None, **{**settings, **_settings(fragment, _SETTINGS)})


def _settings(text: str, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
        if name not in known:
            raise ValueError(f"there is no setting {name!r}; known: {', '.join(known)}")
        settings[name] = known[name](value)
    return settings


def _imported(text: str) -> Responder:
    try:
        found = import_object(text)
    except TargetNotFound as exc:
        raise ValueError(f"{exc.message}; write {_FORMS}") from exc
    if _responds(found):
        return found  # type: ignore[no-any-return]  # a Responder, as was checked
    if inspect.isclass(found) or (callable(found) and _takes_nothing(found)):
        made = found()
        if not _responds(made):
            raise TypeError(f"it makes a {type(made).__name__}, which has no respond()")
        return made  # type: ignore[no-any-return]  # a Responder, as was checked
    if callable(found):
        return ScriptedResponder(function=found)
    raise TypeError(f"a {type(found).__name__} has no respond() and cannot be called")


def _responds(value: Any) -> bool:
    return not inspect.isclass(value) and isinstance(value, Responder)


def _takes_nothing(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return not any(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )
