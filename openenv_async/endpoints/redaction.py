"""Secrets taken out of text, command lines and values before they are written or shown.

Removed are: a user's name and password in a URL; keys and tokens in its query; the argument of an
option such as ``--token``; what follows ``Authorization`` and ``Bearer``; keys of forms that are
well known (``sk-…``, ``hf_…``); and, wherever they stand, the values of environment variables whose
name ends in ``_KEY``, ``_TOKEN``, ``_SECRET`` or ``PASSWORD``. All else stays as it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

__all__ = ["HIDDEN", "Redactor", "redacted", "redacted_command", "redacted_value"]

HIDDEN: Final = "***"
"""The text that stands where a secret stood."""
_MIN_SECRET: Final = 8
"""Characters of the shortest value of a variable that is looked for: shorter ones are words."""
_VARIABLE: Final = re.compile(r"(?:.*_)?(?:KEY|TOKEN|SECRET)|.*PASSWORD", re.IGNORECASE)
_PART: Final = r"(?:token|secret|password|passwd|pwd|api[_-]?key|apikey|credentials?|signature)"
_NAME: Final = re.compile(
    rf"(?!(?:pad|eos|bos|unk|sep|cls|mask|stop|end|start|next|last|special)[_-]?token)"
    rf"(?:.*[_-])?(?:{_PART}|(?:access|auth|bearer|refresh|session)token|authorization)"
    rf"|.*[_-](?:access|secret|private|auth|signing|license)[_-]?key",
    re.IGNORECASE,
)
"""Names of options, columns and parameters whose values are secret; those of a vocabulary's
special tokens are not."""
_OPTION: Final = re.compile(rf"--(?:[\w-]+-)?(?:{_PART}|key)", re.IGNORECASE)
_WORD: Final = r"""(?:"[^"]*"|'[^']*'|[^\s"']+)"""
_RULES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), rf"\g<1>{HIDDEN}")
    for pattern in (
        # scheme://user:password@ ; the last @ before the path, for a password may have one
        r"""(://)[^\s/?#"'<>@][^\s/?#"'<>]*(?=@)""",
        # ?token=…&api_key=…  #access_token=…
        rf"([?&;#](?:[\w.-]+[_.-])?(?:{_PART}|\w*token|key|auth|sig)=)"
        r"""[^&;#\s"'<>]*[^&;#\s"'<>,.:)\]]""",
        # --token=… and --token … ; a short word or a name in capitals belongs to a sentence
        rf"(--(?:[\w-]+-)?(?:{_PART}|key)=){_WORD}",
        rf"(--(?:[\w-]+-)?(?:{_PART}|key)\s+)(?!-)(?!(?-i:[a-z]{{1,6}}|[A-Z_]+)(?![^\s,.;:)\]]))"
        rf"{_WORD}",
        r"""(authorization["']?\s*[:=]\s*["']?(?:bearer|basic|token|digest|api-?key)\s+)"""
        r"""[^\s"',;]+""",
        r"""(\b(?:authorization|x-api-key)["']?\s*[:=]\s*["']?)(?=[^\s"',;]*\d)[^\s"',;]{8,}""",
        r"(\bbearer[ .])(?!\*)(?!(?:token|auth|scheme|credential|challenge))[\w.~+/=-]{8,}",
        # {"api_key": "…"} in what a server answers
        r"""(["'](?:[\w-]+[_-])?(?:api[_-]?key|(?:access|auth|bearer|refresh)[_-]?token|password"""
        r"""|client[_-]secret)["']\s*:\s*["'])[^"']+""",
        # NAME_TOKEN=… as a shell has it
        rf"((?-i:\b[A-Z][A-Z0-9_]*(?:_KEY|_TOKEN|_SECRET|PASSWORD))=){_WORD}",
        r"()\b(?-i:sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|glpat-[\w-]{16,}"
        r"|github_pat_\w{20,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}"
        r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})",
    )
)
_SUSPECT: Final = re.compile(
    r"[=@]|--|bearer|auth|key|token|secret|password|sk-|hf_|gh|glpat|xox|akia|eyj", re.IGNORECASE
).search
"""A look for what every rule needs: most texts have nothing of it."""


class Redactor:
    """A remover of secrets that knows the values of variables.

    Args:
        environ: variables that may hold secrets; ``None``: those of this process, as they are now.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._secrets = _secrets(os.environ if environ is None else environ)
        self._last: tuple[Any, Any] = (None, None)

    def text(self, text: str) -> str:
        """Return a text with its secrets replaced by ``***``."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        if _SUSPECT(text) is not None:
            for pattern, replacement in _RULES:
                text = pattern.sub(replacement, text)
        return text

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the arguments of a command line with their secrets replaced by ``***``."""
        made: list[str] = []
        hide = False
        for argument in argv:
            name, given, value = argument.partition("=")
            if hide and not argument.startswith("--"):
                made.append(HIDDEN)
            elif given and value and (_OPTION.fullmatch(name) or _NAME.fullmatch(name)):
                made.append(f"{name}={HIDDEN}")
            else:
                made.append(self.text(argument))
            hide = not given and _OPTION.fullmatch(argument) is not None
        return made

    def value(self, value: Any) -> Any:
        """Return a tree of plain values with the secrets in it replaced by ``***``.

        A text is redacted; one that stands under a name such as ``api_key`` is hidden whole.
        Numbers, bytes, arrays and other objects stay what they are.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                key: HIDDEN
                if isinstance(key, str) and _is_given_text(item) and _NAME.fullmatch(key)
                else self.value(item)
                for key, item in value.items()
            }
        if type(value) in (list, tuple):
            return type(value)(self.value(item) for item in value)
        return value

    def remembered(self, value: Any, plain: Callable[[Any], Any]) -> Any:
        """Return what ``value`` makes of ``plain(value)``; the last object is not looked at again.

        Args:
            value: an object that nobody changes, and that many records may share.
            plain: makes a tree of plain values of it.
        """
        if self._last[0] is not value:
            self._last = (value, self.value(plain(value)))
        return self._last[1]


def redacted(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Return a text with its secrets replaced by ``***``.

    Args:
        text: any text, such as the message of an error.
        environ: variables that may hold secrets; ``None``: those of this process.
    """
    return Redactor(environ).text(text)


def redacted_command(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a command line's arguments with their secrets replaced by ``***``.

    Args:
        argv: the program and its arguments.
        environ: variables that may hold secrets; ``None``: those of this process.
    """
    return Redactor(environ).command(argv)


def redacted_value(value: Any, environ: Mapping[str, str] | None = None) -> Any:
    """Return a tree of plain values with the secrets in it replaced by ``***``.

    A text is redacted; one that stands under a name such as ``api_key`` is hidden whole. Numbers,
    bytes, arrays and other objects stay what they are.

    Args:
        value: dicts, lists and tuples of values.
        environ: variables that may hold secrets; ``None``: those of this process.
    """
    return Redactor(environ).value(value)


def _is_given_text(value: Any) -> bool:
    return isinstance(value, str | bytes) and bool(value)


def _secrets(environ: Mapping[str, str]) -> list[str]:
    """The values of variables that hold secrets, the longest first: one may be part of another."""
    found: set[str] = set()
    for name, value in environ.items():
        secret = value.strip()
        if len(secret) >= _MIN_SECRET and _VARIABLE.fullmatch(name):
            in_json = json.dumps(secret)[1:-1]
            found |= {secret, quote(secret), quote(secret, safe=""), in_json}  # as others write it
    return sorted(found, key=len, reverse=True)
