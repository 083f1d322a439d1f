"""The ASGI application, for any ASGI server.

``GYMNASIUM_ID=CartPole-v1 uvicorn --ws websockets-sansio gymnasium_env.app:app``;
``openenv-async serve gymnasium --param id=CartPole-v1`` is the same with the settings that suit.
"""

from __future__ import annotations

import os

from gymnasium_env.environment import GymnasiumEnvironment
from openenv_async import create_app

__all__ = ["app"]

app = create_app(GymnasiumEnvironment, params={"id": os.environ.get("GYMNASIUM_ID", "CartPole-v1")})
