"""The server's transports: ASGI applications over one engine."""

from openenv_async.server.app import HTTPEnvServer, create_app

__all__ = ["HTTPEnvServer", "create_app"]
