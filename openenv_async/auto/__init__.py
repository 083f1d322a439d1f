"""AutoEnv and AutoAction: environments by name, folder, image, URL or Space.

Rules:

- Classes come from what the environment declares: its entry point, its manifest, its type
  parameters, or the server's schema. No name is guessed.
- What is installed here is trusted; what lies elsewhere is not. From a URL, an image alone or a
  Space come schemas, never code, unless ``trust_remote_code=True``.
- A client that ``AutoEnv`` gives owns the server that was started for it: ``close`` ends both.
"""

from __future__ import annotations

from openenv_async.auto.clients import AutoEnvClient
from openenv_async.auto.facade import AutoAction, AutoEnv
from openenv_async.auto.listing import EnvironmentInfo, EnvironmentList, list_environments

__all__ = [
    "AutoAction",
    "AutoEnv",
    "AutoEnvClient",
    "EnvironmentInfo",
    "EnvironmentList",
    "list_environments",
]
