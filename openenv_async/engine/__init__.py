"""The session engine: owns sessions and runs their requests, whatever door they came by."""

from openenv_async.engine.connection import NativeConnection
from openenv_async.engine.engine import Engine
from openenv_async.engine.interfaces import ReplySink
from openenv_async.engine.options import EngineOptions
from openenv_async.engine.session import Session

__all__ = ["Engine", "EngineOptions", "NativeConnection", "ReplySink", "Session"]
