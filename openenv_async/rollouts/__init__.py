"""Rollouts: policies, one rollout, many at once, their summary and their files."""

from __future__ import annotations

from openenv_async.rollouts.collection import Source, collect, collect_all
from openenv_async.rollouts.policies import Policy, RandomPolicy, Turn, fetch_schema, load_policy
from openenv_async.rollouts.run import rollout
from openenv_async.rollouts.summary import Reservoir, Summary
from openenv_async.rollouts.trajectory import Trajectory, Transition
from openenv_async.rollouts.writers import (
    JsonlWriter,
    ParquetWriter,
    TrajectoryWriter,
    open_writer,
    read_trajectories,
)

__all__ = [
    "JsonlWriter",
    "ParquetWriter",
    "Policy",
    "RandomPolicy",
    "Reservoir",
    "Source",
    "Summary",
    "Trajectory",
    "TrajectoryWriter",
    "Transition",
    "Turn",
    "collect",
    "collect_all",
    "fetch_schema",
    "load_policy",
    "open_writer",
    "read_trajectories",
    "rollout",
]
