"""Rollout buffers for sb3-contrib's MaskablePPO that leave failures out.

They keep the masks of legal actions, and do with steps that failed what ``MaskedRolloutBuffer``
does. Needs the extra ``sb3-contrib``.
"""

from __future__ import annotations

from openenv_async.integrations.sb3 import MaskedRolloutBuffer

try:
    from sb3_contrib.common.maskable.buffers import (
        MaskableDictRolloutBuffer,
        MaskableRolloutBuffer,
    )
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "buffers for MaskablePPO need the extra: pip install 'openenv-async[sb3-contrib]'",
        name=exc.name,
    ) from None

__all__ = ["MaskedMaskableDictRolloutBuffer", "MaskedMaskableRolloutBuffer"]


class MaskedMaskableRolloutBuffer(MaskedRolloutBuffer, MaskableRolloutBuffer):
    """A ``MaskableRolloutBuffer`` that leaves out steps whose reward is not a number."""


class MaskedMaskableDictRolloutBuffer(MaskedRolloutBuffer, MaskableDictRolloutBuffer):
    """A ``MaskedMaskableRolloutBuffer`` for observations that are dicts."""
