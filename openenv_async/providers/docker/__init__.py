"""Containers as workers, through the Docker Engine's API; see docs/containers.md."""

from openenv_async.providers.docker.provider import DockerProvider
from openenv_async.providers.docker.worker import DockerWorker

__all__ = ["DockerProvider", "DockerWorker"]
