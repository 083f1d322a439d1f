"""Rollouts: policies, one rollout, many at once, their summary and their files."""

from __future__ import annotations

from openenv_async.client.server_info import fetch_schema
from openenv_async.rollouts.batching import BatchedPolicy
from openenv_async.rollouts.checking import check_policy
from openenv_async.rollouts.collection import Stop, collect, collect_all
from openenv_async.rollouts.files import (
    JsonlWriter,
    TrajectoryWriter,
    open_writer,
    read_header,
    read_trajectories,
)
from openenv_async.rollouts.groups import EpisodeGroup, StreamedEpisode, advantages, baseline
from openenv_async.rollouts.language import LanguagePolicy, ResponderPolicy
from openenv_async.rollouts.parquet import ParquetWriter
from openenv_async.rollouts.policies import Policy, RandomPolicy, Turn, load_policy
from openenv_async.rollouts.record import Trajectory, Transition
from openenv_async.rollouts.replaying import Difference, replay
from openenv_async.rollouts.run import rollout
from openenv_async.rollouts.run_folder import RunFolder, RunStatus
from openenv_async.rollouts.run_journal import EpisodeKey, ResultClass
from openenv_async.rollouts.sessions import Retry, Source
from openenv_async.rollouts.streaming import (
    EpisodeStream,
    GroupStream,
    StreamStatistics,
    stream,
    stream_groups,
)
from openenv_async.rollouts.summary import Failure, Reservoir, RunWarning, Summary
from openenv_async.rollouts.tasks import Mixture, Retire, TaskSet
from openenv_async.rollouts.versions import VersionedPolicy
from openenv_async.rollouts.video import VideoRecorder
from openenv_async.rollouts.writing import AsyncWriter

__all__ = [
    "AsyncWriter",
    "BatchedPolicy",
    "Difference",
    "EpisodeGroup",
    "EpisodeKey",
    "EpisodeStream",
    "Failure",
    "GroupStream",
    "JsonlWriter",
    "LanguagePolicy",
    "Mixture",
    "ParquetWriter",
    "Policy",
    "RandomPolicy",
    "Reservoir",
    "ResponderPolicy",
    "ResultClass",
    "Retire",
    "Retry",
    "RunFolder",
    "RunStatus",
    "RunWarning",
    "Source",
    "Stop",
    "StreamStatistics",
    "StreamedEpisode",
    "Summary",
    "TaskSet",
    "Trajectory",
    "TrajectoryWriter",
    "Transition",
    "Turn",
    "VersionedPolicy",
    "VideoRecorder",
    "advantages",
    "baseline",
    "check_policy",
    "collect",
    "collect_all",
    "fetch_schema",
    "load_policy",
    "open_writer",
    "read_header",
    "read_trajectories",
    "replay",
    "rollout",
    "stream",
    "stream_groups",
]
