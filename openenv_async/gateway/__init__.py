"""A gateway between agents and inference engines, which keeps every token of a session.

The public names load on first use: who reads records and rows needs no server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from openenv_async.gateway.agents import CommandAgent, FunctionAgent
    from openenv_async.gateway.engines import Engines
    from openenv_async.gateway.gateway import Gateway
    from openenv_async.gateway.journal import Journal
    from openenv_async.gateway.rows import TrainingRow
    from openenv_async.gateway.sessions import Budget, GatewayLimits, ModelSession, Prices

__all__ = [
    "Budget",
    "CommandAgent",
    "Engines",
    "FunctionAgent",
    "Gateway",
    "GatewayLimits",
    "Journal",
    "ModelSession",
    "Prices",
    "TrainingRow",
]

_HOMES: Final = {
    "Budget": "sessions",
    "CommandAgent": "agents",
    "Engines": "engines",
    "FunctionAgent": "agents",
    "Gateway": "gateway",
    "GatewayLimits": "sessions",
    "Journal": "journal",
    "ModelSession": "sessions",
    "Prices": "sessions",
    "TrainingRow": "rows",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
