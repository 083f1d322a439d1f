"""Modules that a test imports from folders of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["forget_modules"]

_TEMPORARY = ("shelf_env", "space_env", "my_env", "mine_env", "server", "models", "client")


@contextlib.contextmanager
def forget_modules() -> Iterator[None]:
    """Forget, at the end, the folders on the path and the modules of temporary environments."""
    path, before = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in _TEMPORARY:
                del sys.modules[name]
