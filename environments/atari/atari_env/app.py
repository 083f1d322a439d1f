"""The ASGI application, for any ASGI server.

``ATARI_GAME=breakout uvicorn --ws websockets-sansio atari_env.app:app``;
``openenv-async serve atari --param game_name=breakout`` is the same with the settings that suit.
"""

from __future__ import annotations

from atari_env.environment import AtariEnvironment
from openenv_async import create_app

__all__ = ["app"]

app = create_app(AtariEnvironment)
