"""The client."""

from __future__ import annotations

from typing import Any

from gymnasium_env.models import GymnasiumAction, GymnasiumObservation, GymnasiumState
from openenv_async.client.env import EnvClient
from openenv_async.errors import OperationUnsupported

__all__ = ["GymnasiumEnv"]


class GymnasiumEnv(EnvClient[GymnasiumAction, GymnasiumObservation, GymnasiumState]):
    """One session of a served Gymnasium environment."""

    async def render(self) -> Any:
        """Return what the environment's ``render()`` gives now.

        With ``options={"render_mode": "rgb_array"}`` that is uint8 [height, width, 3], with
        ``"ansi"`` a text.

        Raises:
            OperationUnsupported: the session has no render mode, or no episode yet.
        """
        frame = (await self.state()).frame
        if frame is None:
            raise OperationUnsupported(
                "render() has nothing to show: open the session with"
                " options={'render_mode': 'rgb_array'} and call reset() first"
            )
        return frame
