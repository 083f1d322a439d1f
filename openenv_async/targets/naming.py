"""Classify text that names a target, without importing or starting anything.

Rules, the first that holds decides:

1. ``docker://IMAGE`` is an image; what begins with ``http``, ``https``, ``ws`` or ``wss`` a URL.
2. Text that begins with a scheme of ``targets.schemes``, such as ``mcp:COMMAND``, is hosted by it.
3. Text that looks like an address but has no such scheme names nothing; the message has the cure.
4. An installed name wins over a folder of the same name: write ``./NAME`` for the folder.
5. Text with a slash is a folder if there is one, else ``owner/space`` or an image by its form.
6. ``module:Class`` must be found: the module's source is read, not run.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from openenv_async.endpoints.addresses import checked_url
from openenv_async.errors import InvalidOption, TargetNotFound
from openenv_async.hosts import is_registered_id
from openenv_async.targets import manifest
from openenv_async.targets.discovery import (
    environments_of,
    installed,
    is_address,
    is_installed,
    looks_like_path,
    mistaken,
    normal_name,
    unknown_name,
)
from openenv_async.targets.schemes import checked_text, scheme_of

__all__ = ["IMAGE_SCHEME", "URL_SCHEMES", "NamedTarget", "read_name"]

URL_SCHEMES: Final = ("http://", "https://", "ws://", "wss://")
IMAGE_SCHEME: Final = "docker://"
_SPACE: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_IMAGE: Final = re.compile(
    r"(?:[A-Za-z0-9][\w.-]*(?::\d+)?/)*[a-z0-9][a-z0-9._-]*(?::[\w][\w.-]*)?(?:@sha256:[0-9a-f]{64})?"
)
_PATH: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
"""``module:Class``, with dots on both sides."""

TextKind = Literal["url", "scheme", "installed", "path", "id", "folder", "image", "space"]


@dataclass(frozen=True, slots=True)
class NamedTarget:
    """Text that names a target.

    Attributes:
        kind: of target: ``path`` is ``module:Class``, ``id`` one of Gymnasium's registry,
            ``scheme`` one of ``targets.schemes``.
        text: what a server process is started with, an image's name, ``owner/space`` or a URL.
    """

    kind: TextKind
    text: str


def read_name(text: str) -> NamedTarget:
    """Return what kind of target a text names.

    Raises:
        TargetNotFound: it names nothing; the message has the nearest names.
        InvalidOption: it begins as a URL does, and is not a valid one.
    """
    if text.startswith(IMAGE_SCHEME):
        return NamedTarget("image", _checked_image(text))
    if text.startswith(URL_SCHEMES):
        return NamedTarget("url", checked_url(text, "a target"))
    if scheme_of(text) is not None:
        return NamedTarget("scheme", checked_text(text))
    if not text.strip():
        raise TargetNotFound(f"there is no environment {text!r}: write a name, such as 'echo'")
    if "://" in text:
        raise TargetNotFound(mistaken(text) or unknown_name(text))
    is_path = looks_like_path(text)
    if not is_path and is_installed(text):
        return NamedTarget("installed", text)
    folder = Path(text).expanduser()
    if is_path:
        return _with_slash(text, folder)
    if (folder / manifest.MANIFEST).is_file():
        return NamedTarget("folder", f"./{text}")
    if is_registered_id(text) and not folder.is_dir():
        return _registered(text)
    if _PATH.fullmatch(text):
        return _importable(text)
    if is_address(text):
        raise TargetNotFound(mistaken(text) or unknown_name(text))
    if ":" in text and _IMAGE.fullmatch(text):
        return NamedTarget("image", text)
    if ":" in text:
        raise TargetNotFound(f"{text!r} is not an import path: write module:Class")
    raise TargetNotFound(mistaken(text) or unknown_name(text))


def _checked_image(text: str) -> str:
    name = text.removeprefix(IMAGE_SCHEME)
    if not _IMAGE.fullmatch(name):
        raise TargetNotFound(f"{text!r} is not an image's name: write docker://NAME:TAG")
    return name


def _with_slash(text: str, folder: Path) -> NamedTarget:
    """Return what a text is that is written as a path."""
    if folder.is_dir():
        if not (folder / manifest.MANIFEST).is_file():
            raise TargetNotFound(mistaken(text) or unknown_name(text))
        return NamedTarget("folder", text)
    if not folder.exists():
        is_space = _SPACE.fullmatch(text) is not None
        if is_registered_id(text):
            try:
                return _registered(text)
            except TargetNotFound:
                if not is_space:
                    raise
        if is_space:
            return NamedTarget("space", text)
        if _IMAGE.fullmatch(text) and (":" in text or text.count("/") > 1):
            return NamedTarget("image", text)
    raise TargetNotFound(mistaken(text) or f"there is no folder {text!r}")


def _registered(text: str) -> NamedTarget:
    """Return the target of an id that Gymnasium's registry has."""
    from openenv_async.hosts.gymnasium import find

    try:
        find(text)
    except InvalidOption as exc:
        known = ", ".join(installed())
        raise TargetNotFound(
            f"{exc.message} (installed are {known}; or give module:Class or a folder)"
        ) from None
    return NamedTarget("id", text)


def _importable(text: str) -> NamedTarget:
    """Return the target of a ``module:Class`` whose source defines the class.

    Raises:
        TargetNotFound: the module or the class is not there.
    """
    module, _, name = text.partition(":")
    first = name.partition(".")[0]
    found = sys.modules.get(module)
    if found is not None and hasattr(found, first):
        return NamedTarget("path", text)
    source = _source_of(module)
    if source is None:
        known = "" if "_" in module or "." in module else f", nor is it installed ({_near(module)})"
        raise TargetNotFound(
            f"there is no module {module!r} on the path ({text!r}){known}; an image is written"
            f" docker://{text}"
        )
    names = _defined(source)
    if names is not None and first not in names:
        near = difflib.get_close_matches(first, names, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        if not near and (classes := environments_of(source)):
            hint = f": name {' or '.join(classes[:3])}"
        raise TargetNotFound(f"{module!r} has no {first!r}{hint}")
    return NamedTarget("path", text)


def _near(name: str) -> str:
    known = {normal_name(each) for each in installed()}
    return ", ".join(difflib.get_close_matches(normal_name(name), known, n=3) or sorted(known))


def _source_of(module: str) -> Path | None:
    """The file of a module, on the path or in the working directory; its code is not run.

    A module without a source file of its own (built in, or a package's namespace) gives a path
    that cannot be read.
    """
    parts = module.split(".")
    # An absolute path: finders are kept by path, and another working directory is not ".".
    search: list[str] = [os.getcwd(), *sys.path]
    importlib.invalidate_caches()  # a file may just have been written
    origin: str | None = None
    for number, part in enumerate(parts):
        # By its last name: for the full one of a namespace the finder asks its loaded parent.
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None:
            return _loaded_source(module) if number == 0 else None
        search = [*(spec.submodule_search_locations or ())]
        origin = spec.origin
    return Path(origin or "")


def _loaded_source(module: str) -> Path | None:
    """The file of a module that another finder than the path's has, such as an editable install."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None else Path(spec.origin or "")


def _defined(source: Path) -> set[str] | None:
    """The names that a module's source defines; ``None`` where reading does not tell."""
    try:
        tree = ast.parse(source.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None  # the process that is started says what is wrong with it
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.ImportFrom() if any(each.name == "*" for each in node.names):
                return None
            case ast.Import() | ast.ImportFrom():
                names |= {(each.asname or each.name).partition(".")[0] for each in node.names}
    return None if "__getattr__" in names else names
