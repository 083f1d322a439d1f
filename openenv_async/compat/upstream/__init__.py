"""Upstream's public names on top of this runtime, for people who port from it.

``from openenv_async.compat.upstream import Environment, Action, create_app`` gives what
``openenv.core`` gives. ``install_names`` makes ``openenv`` itself importable in this process, for
code that is not to be touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from openenv_async.compat.upstream.finder import install_names, remove_names
from openenv_async.compat.upstream.names import MODULES, home_of

if TYPE_CHECKING:
    from openenv_async.compat.upstream.auto import *  # noqa: F403
    from openenv_async.compat.upstream.client_types import *  # noqa: F403
    from openenv_async.compat.upstream.clients import *  # noqa: F403
    from openenv_async.compat.upstream.containers import *  # noqa: F403
    from openenv_async.compat.upstream.exceptions import *  # noqa: F403
    from openenv_async.compat.upstream.interfaces import *  # noqa: F403
    from openenv_async.compat.upstream.llm_client import *  # noqa: F403
    from openenv_async.compat.upstream.mcp_client import *  # noqa: F403
    from openenv_async.compat.upstream.mcp_environment import *  # noqa: F403
    from openenv_async.compat.upstream.mcp_types import *  # noqa: F403
    from openenv_async.compat.upstream.rubrics import *  # noqa: F403
    from openenv_async.compat.upstream.serialization import *  # noqa: F403
    from openenv_async.compat.upstream.serving import *  # noqa: F403
    from openenv_async.compat.upstream.types import *  # noqa: F403

_MODULES = (
    "openenv.core.client_types",
    "openenv.core.containers.runtime",
    "openenv.core.rubrics",
    "openenv.core",
    "openenv",
)
_PUBLIC = {name: module for module in _MODULES for name in MODULES[module]}

__all__ = ["install_names", "remove_names", *sorted(_PUBLIC)]  # texts all


def __getattr__(name: str) -> Any:
    home = home_of(_PUBLIC[name], name) if name in _PUBLIC else None
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
