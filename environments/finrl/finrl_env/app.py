"""The ASGI application, for any ASGI server.

``FINRL_SPLIT=test uvicorn --ws websockets-sansio finrl_env.app:app``;
``openenv-async serve finrl --param split=test`` is the same with the settings that suit it.
"""

from __future__ import annotations

from finrl_env.environment import FinRLEnvironment
from openenv_async import create_app

__all__ = ["app"]

app = create_app(FinRLEnvironment)
