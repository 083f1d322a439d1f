"""Schemes: targets written as ``SCHEME:TEXT``, whose environments another kind of thing makes.

Rules:

- One table has them all. A row names the module that hosts such targets, which is loaded when one
  is served, never to tell what a text is.
- The module's ``host_of(text)`` is given what stands after the colon, and returns a
  ``HostedText``. It raises ``TargetNotFound`` or ``InvalidOption`` for a text that names nothing.
- The text comes from the operator, who starts the server: nothing that a client sends is added.
- A scheme wins over a module, an image or a folder of its name: write ``docker://NAME:TAG`` for
  the image, ``./NAME`` for the folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openenv_async.endpoints.addresses import told_url
from openenv_async.errors import TargetNotFound
from openenv_async.hosts import HostedText

__all__ = [
    "SCHEMES",
    "Scheme",
    "checked_text",
    "hosted_text",
    "scheme_forms",
    "scheme_of",
    "told_target",
]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One row of the table.

    Attributes:
        module: has ``host_of``.
        forms: how such targets are written, for messages, such as ``mcp:COMMAND or mcp:URL``.
        extra: the extra of this distribution that the module needs, if any.
    """

    module: str
    forms: str
    extra: str | None = None


SCHEMES: Final[Mapping[str, Scheme]] = {
    "harbor": Scheme("openenv_async.compat.harbor.environment", "harbor:FOLDER"),
    "mcp": Scheme("openenv_async.hosts.mcp", "mcp:COMMAND or mcp:URL"),
    "ors": Scheme("openenv_async.hosts.openreward", "ors:URL"),
    "verifiers": Scheme("openenv_async.hosts.verifiers", "verifiers:MODULE"),
}
"""The schemes by name."""


def scheme_of(text: str) -> str | None:
    """Return the scheme by which a text is written; ``None`` for other text."""
    name, colon, rest = text.partition(":")
    return name if colon and name in SCHEMES and not rest.startswith("//") else None


def scheme_forms() -> list[str]:
    """Return how the targets of each scheme are written."""
    return [scheme.forms for scheme in SCHEMES.values()]


def told_target(text: str) -> str:
    """Return such a target for messages: its first word alone, and a URL without its secrets."""
    name, _, rest = text.partition(":")
    first, *more = rest.split() or [""]
    return f"{name}:{told_url(first) if '://' in first else first}{' …' if more else ''}"


def checked_text(text: str) -> str:
    """Return a text of a scheme that says something after the colon.

    Raises:
        TargetNotFound: it does not.
    """
    name, _, rest = text.partition(":")
    if not rest.strip():
        raise TargetNotFound(f"{text!r} names nothing: write {SCHEMES[name].forms}")
    return text


def hosted_text(text: str) -> HostedText:
    """Return the environment that a text of a scheme names; what hosts it is loaded.

    Raises:
        TargetNotFound: it names nothing, or what hosts it is not installed.
        InvalidOption: it is not written as it has to be.
    """
    name, _, rest = checked_text(text).partition(":")
    scheme = SCHEMES[name]
    try:
        module = importlib.import_module(scheme.module)
    except ModuleNotFoundError as exc:
        if scheme.extra is None:
            raise
        raise TargetNotFound(
            f"{name}: targets need {exc.name}, which is not installed:"
            f" pip install 'openenv-async[{scheme.extra}]'"
        ) from exc
    found: HostedText = module.host_of(rest.strip())
    return found
