"""The ASGI application, for any ASGI server: ``uvicorn --ws websockets-sansio echo_env.app:app``.

``openenv-async serve echo`` is the same with the settings that suit it.
"""

from __future__ import annotations

from echo_env.environment import EchoEnvironment
from openenv_async import create_app

__all__ = ["app"]

app = create_app(EchoEnvironment)
