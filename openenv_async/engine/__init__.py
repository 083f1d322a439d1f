"""The session engine: sessions and their requests, over whichever transport they came."""

from openenv_async.engine.connection import ServerConnection
from openenv_async.engine.engine import Engine
from openenv_async.engine.interfaces import ReplySink
from openenv_async.engine.options import EngineOptions
from openenv_async.engine.session import Session
from openenv_async.renamed import renamed_attributes

__all__ = ["Engine", "EngineOptions", "ReplySink", "ServerConnection", "Session"]

__getattr__ = renamed_attributes(
    __name__, {"NativeConnection": "ServerConnection", "Port": "ReplySink"}
)
