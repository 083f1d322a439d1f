"""Environments as Gymnasium's: one (``GymEnv``), or many on one connection (``GymVectorEnv``).

Needs the extra ``gymnasium``.
"""

from __future__ import annotations

try:
    import gymnasium as _gymnasium  # noqa: F401  # to say which extra is missing, once
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "the Gymnasium adapters need the extra: pip install 'openenv-async[gymnasium]'",
        name=exc.name,
    ) from None

from openenv_async.integrations.gymnasium.env import GymEnv, OpenEnvGymWrapper
from openenv_async.integrations.gymnasium.spaces import SpaceCodec, codec_of
from openenv_async.integrations.gymnasium.vector import GymVectorEnv

__all__ = ["GymEnv", "GymVectorEnv", "OpenEnvGymWrapper", "SpaceCodec", "codec_of"]
