"""The ASGI application, for any ASGI server: ``uvicorn --ws websockets-sansio repl_env.app:app``.

``openenv-async serve repl`` is the same with the settings that suit it.
"""

from __future__ import annotations

from openenv_async import create_app
from repl_env.environment import REPLEnvironment

__all__ = ["app"]

app = create_app(REPLEnvironment)
