"""Upstream's import names, made of ours: ``import openenv.core`` without upstream installed.

Rules:

- ``install_names`` puts one finder into the running process and nowhere else: no file is written,
  and no other process sees it.
- Nothing is done beside an installed upstream unless ``shadow=True`` asks for it.
- The modules are empty until a name is asked for; it is then taken from the module of ours that
  ``names`` says has it.
- A name that there is none of is an ``ImportError`` which says so, and what to do.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Final

from openenv_async.compat.upstream.names import ALIASES, MODULES, REFUSED, home_of

__all__ = ["install_names", "remove_names"]

_TOPS: Final = ("openenv", *ALIASES)
_REMEDY: Final = (
    "pip install openenv==0.10.0 into the interpreter that serves it, whose own classes are then"
    " used"
)


def install_names(*, shadow: bool = False) -> bool:
    """Make upstream's import names stand for ours in this process.

    Args:
        shadow: do so even where upstream is installed, whose modules are then not imported.

    Returns:
        Whether the names are ours; ``False`` where upstream is installed.

    Raises:
        RuntimeError: upstream's own modules were imported already, and ``shadow`` is asked for.
    """
    if _Finder.installed() is not None:
        return True
    loaded = [top for top in _TOPS if top in sys.modules]
    if loaded and shadow:
        raise RuntimeError(
            f"{loaded[0]} was imported already, and classes of both would mix: call"
            " install_names(shadow=True) before the first import of it"
        )
    if not shadow and (loaded or any(map(_is_installed, _TOPS))):
        return False
    sys.meta_path.insert(0, _Finder())
    importlib.invalidate_caches()
    return True


def remove_names() -> None:
    """Take upstream's import names out of this process again, if they are ours."""
    finder = _Finder.installed()
    if finder is None:
        return
    sys.meta_path.remove(finder)
    for name in [n for n, module in sys.modules.items() if isinstance(module, _Module)]:
        del sys.modules[name]


def _is_installed(top: str) -> bool:
    """Return whether a package is there; a mere folder of that name on the path is none."""
    found = importlib.util.find_spec(top)
    return found is not None and found.origin is not None


class _Module(ModuleType):
    """A module of upstream's name, whose names are loaded on first use."""

    def __getattr__(self, name: str) -> Any:
        module = _current(self.__name__)
        home = None if name.startswith("__") else home_of(module, name)
        if home is not None:
            value = getattr(importlib.import_module(home), name)
        elif f"{module}.{name}" in MODULES:
            value = importlib.import_module(f"{self.__name__}.{name}")
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__all__})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The finder and loader of upstream's module names."""

    @staticmethod
    def installed() -> _Finder | None:
        return next((each for each in sys.meta_path if isinstance(each, _Finder)), None)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in _TOPS:
            return None
        name = _current(fullname)
        if name not in MODULES:
            raise ImportError(_unknown(fullname, name), name=fullname)
        # All are packages: `from openenv.core.env_server.types import NoSuchName` then comes here
        # for the name that the module does not have, and is told more than "cannot import name".
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        names = MODULES[_current(module.__name__)]
        module.__dict__["__all__"] = sorted(n for n in names if isinstance(names[n], str))


def _current(module: str) -> str:
    """A module's name of today for an older one."""
    top, dot, rest = module.partition(".")
    return f"{ALIASES.get(top, top)}{dot}{rest}"


def _unknown(asked: str, name: str) -> str:
    """The message for a module, or for a name in one, that there is none of."""
    for part in _parents(name):
        if part in REFUSED:
            return f"{asked} is not among this runtime's names for upstream: {REFUSED[part]}"
    module, _, last = name.rpartition(".")
    if module not in MODULES:
        return f"there is no module {asked} among this runtime's names for upstream: {_REMEDY}"
    known = [n for n in MODULES[module] if not n.startswith("_")]
    near = difflib.get_close_matches(last, known, n=1)
    hint = f"did you mean {near[0]!r}? Else " if near else ""
    return f"{module} has no name {last!r} among this runtime's names for upstream: {hint}{_REMEDY}"


def _parents(name: str) -> Iterator[str]:
    """A dotted name and those that it is inside, longest first."""
    while name:
        yield name
        name = name.rpartition(".")[0]
