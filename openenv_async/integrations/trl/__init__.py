"""TRL: rollouts, tools and rewards of environments for its online trainers (extra ``trl``).

``make_rollout_func`` is for ``GRPOTrainer(rollout_func=...)``: many episodes at once while the
model generates in batches. ``make_environment_factory`` is for ``environment_factory=``: the
environment as tools of the model. ``make_reward_func`` scores finished completions.

Importing this loads neither TRL nor torch.
"""

from __future__ import annotations

from openenv_async.integrations.trl.formats import ChatFormat, EpisodeFormat, TextFormat
from openenv_async.integrations.trl.rewards import (
    make_reward_func,
    rollout_reward,
    usable_only,
)
from openenv_async.integrations.trl.rollouts import RolloutFunc, make_rollout_func
from openenv_async.integrations.trl.rows import episode_rows, reset_from_json
from openenv_async.integrations.trl.shared import SharedSessions, close_all
from openenv_async.integrations.trl.tools import EnvironmentFactory, make_environment_factory
from openenv_async.renamed import renamed_attributes

__all__ = [
    "ChatFormat",
    "EnvironmentFactory",
    "EpisodeFormat",
    "RolloutFunc",
    "SharedSessions",
    "TextFormat",
    "close_all",
    "episode_rows",
    "make_environment_factory",
    "make_reward_func",
    "make_rollout_func",
    "reset_from_json",
    "rollout_reward",
    "usable_only",
]

__getattr__ = renamed_attributes(__name__, {"SharedSource": "SharedSessions"})
