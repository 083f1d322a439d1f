"""The ASGI application, for any ASGI server: ``uvicorn --ws websockets-sansio coding_env.app:app``.

``openenv-async serve coding`` is the same with the settings that suit it.
"""

from __future__ import annotations

from coding_env.environment import CodingEnvironment
from openenv_async import create_app

__all__ = ["app"]

app = create_app(CodingEnvironment)
