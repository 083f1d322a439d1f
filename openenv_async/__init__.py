"""openenv_async: a WebSocket-first async environment runtime for agentic RL.

The public names load on first use, so importing the package costs next to nothing and a program
that needs only the client does not load the server, nor the other way round.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from openenv_async import renamed
from openenv_async.version import __version__

if TYPE_CHECKING:
    from openenv_async.certification import Certification
    from openenv_async.client.env import EnvClient, GenericEnvClient
    from openenv_async.client.http import HTTPEnvClient
    from openenv_async.client.settings import ClientSettings
    from openenv_async.client.sync import SyncEnvClient
    from openenv_async.engine.options import EngineOptions
    from openenv_async.environment import Environment, VectorEnvironment
    from openenv_async.errors import OpenEnvError
    from openenv_async.pool import EnvPool, SyncEnvPool
    from openenv_async.rollouts import collect, rollout
    from openenv_async.server.app import HTTPEnvServer, create_app
    from openenv_async.targets.auto import AutoAction, AutoEnv
    from openenv_async.targets.resolve import resolve
    from openenv_async.targets.served import connect, connect_in_process, serve
    from openenv_async.tasks import TaskTable
    from openenv_async.types import (
        EpisodeInfo,
        Limits,
        Outcome,
        OutcomeStatus,
        StepResult,
        Task,
        Timeouts,
        Tool,
        VectorRows,
    )

__all__ = [
    "AutoAction",
    "AutoEnv",
    "Certification",
    "ClientSettings",
    "EngineOptions",
    "EnvClient",
    "EnvPool",
    "Environment",
    "EpisodeInfo",
    "GenericEnvClient",
    "HTTPEnvClient",
    "HTTPEnvServer",
    "Limits",
    "OpenEnvError",
    "Outcome",
    "OutcomeStatus",
    "StepResult",
    "SyncEnvClient",
    "SyncEnvPool",
    "Task",
    "TaskTable",
    "Timeouts",
    "Tool",
    "VectorEnvironment",
    "VectorRows",
    "__version__",
    "collect",
    "connect",
    "connect_in_process",
    "create_app",
    "resolve",
    "rollout",
    "serve",
]

_HOMES = {
    "AutoAction": "targets.auto",
    "AutoEnv": "targets.auto",
    "Certification": "certification",
    "ClientSettings": "client.settings",
    "EngineOptions": "engine.options",
    "EnvClient": "client.env",
    "EnvPool": "pool",
    "Environment": "environment",
    "EpisodeInfo": "types",
    "GenericEnvClient": "client.env",
    "HTTPEnvClient": "client.http",
    "HTTPEnvServer": "server.app",
    "Limits": "types",
    "OpenEnvError": "errors",
    "Outcome": "types",
    "OutcomeStatus": "types",
    "StepResult": "types",
    "SyncEnvClient": "client.sync",
    "SyncEnvPool": "pool",
    "Task": "types",
    "TaskTable": "tasks",
    "Timeouts": "types",
    "Tool": "types",
    "VectorEnvironment": "environment",
    "VectorRows": "types",
    "collect": "rollouts",
    "connect": "targets.served",
    "connect_in_process": "targets.served",
    "create_app": "server.app",
    "resolve": "targets.resolve",
    "rollout": "rollouts",
    "serve": "targets.served",
}

renamed.install()


_OF_UPSTREAM = frozenset(
    {"Action", "GenericAction", "MCPToolClient", "Observation", "State", "create_fastapi_app"}
)
"""Names that OpenEnv's package has, and people look for here."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if name in _OF_UPSTREAM:
        raise ImportError(
            f"{__name__} has no {name}, a name of OpenEnv's: from {__name__}.compat.upstream import"
            f" {name}",
            name=__name__,
        )
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
