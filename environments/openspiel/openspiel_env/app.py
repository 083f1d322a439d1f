"""The ASGI application, for any ASGI server.

``OPENSPIEL_GAME=tic_tac_toe uvicorn --ws websockets-sansio openspiel_env.app:app``;
``openenv-async serve openspiel --param game_name=tic_tac_toe`` is the same with the settings
that suit it.
"""

from __future__ import annotations

from openenv_async import create_app
from openspiel_env.environment import OpenSpielEnvironment

__all__ = ["app"]

app = create_app(OpenSpielEnvironment)
