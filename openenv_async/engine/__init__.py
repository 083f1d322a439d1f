"""The session engine: owns sessions and runs their requests, whatever door they came by."""

from openenv_async.engine.engine import Engine, EngineOptions
from openenv_async.engine.native import NativeConnection
from openenv_async.engine.session import Port, Session

__all__ = ["Engine", "EngineOptions", "NativeConnection", "Port", "Session"]
