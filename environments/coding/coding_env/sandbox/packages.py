"""Installed packages that code may import: a folder of links to them, and to nothing else."""

from __future__ import annotations

import importlib.util
import os
from typing import Final

from coding_env.sandbox.disk import make_folder
from openenv_async.errors import InvalidOption

__all__ = ["is_installed", "link_packages", "locate"]

_OWN: Final = ("coding_env", "repl_env", "openenv_async")


def is_installed(name: str) -> bool:
    """Return whether a package of that name can be shown to code."""
    return name not in _OWN and name.isidentifier() and importlib.util.find_spec(name) is not None


def locate(names: tuple[str, ...]) -> dict[str, str]:
    """Return the paths of packages, by the names of their files; their shared libraries included.

    Raises:
        InvalidOption: one is not installed, or is not to be shown.
    """
    found: dict[str, str] = {}
    for name in names:
        if name in _OWN:
            raise InvalidOption(f"packages: {name} holds what the sandbox must not see")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not (spec.submodule_search_locations or spec.has_location):
            raise InvalidOption(f"packages: {name!r} is not an installed package: pip install it")
        places = list(spec.submodule_search_locations or [str(spec.origin)])
        libraries = os.path.join(os.path.dirname(places[0]), f"{name}.libs")
        for place in [*places[:1], *([libraries] if os.path.isdir(libraries) else [])]:
            found[os.path.basename(place)] = os.path.realpath(place)
    return found


def link_packages(names: tuple[str, ...]) -> tuple[str, list[str]]:
    """A new folder with a link to each; and what may be read: the folder and the packages."""
    found = locate(names)
    folder = make_folder()
    for name, place in found.items():
        os.symlink(place, os.path.join(folder, name))
    return folder, [folder, *found.values()]
