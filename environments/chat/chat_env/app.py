"""The ASGI application, for any ASGI server: ``uvicorn --ws websockets-sansio chat_env.app:app``.

``openenv-async serve chat`` is the same with the settings that suit it.
"""

from __future__ import annotations

from chat_env.environment import ChatEnvironment
from openenv_async import create_app

__all__ = ["app"]

app = create_app(ChatEnvironment)
