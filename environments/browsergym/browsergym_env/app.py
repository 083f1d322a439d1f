"""The ASGI application, for any ASGI server.

``BROWSERGYM_TASK_NAME=click-test uvicorn --ws websockets-sansio browsergym_env.app:app``;
``openenv-async serve browsergym`` is the same with the settings that suit it.
"""

from __future__ import annotations

from browsergym_env.environment import BrowserGymEnvironment
from openenv_async import create_app

__all__ = ["app"]

app = create_app(BrowserGymEnvironment)
