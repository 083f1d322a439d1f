"""A container as a worker, and how its end reads."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

from openenv_async.endpoints.addresses import is_on_bridge
from openenv_async.errors import signal_name
from openenv_async.providers.base import Worker, WorkerExit

if TYPE_CHECKING:
    from openenv_async.providers.docker.provider import DockerProvider

__all__ = ["DockerWorker", "direct_url", "exit_of", "port_url"]

_SIGNALLED: Final = 128
"""A shell's way of saying that a signal ended it: 128 and its number."""


class DockerWorker(Worker):
    """One container.

    Attributes:
        image: what it was made from.
        published_url: its address by a port of this machine; ``url`` may lead to it directly.
        port: where its server listens inside.
        engine_url: of its Engine, as the provider was told; ``None``: as the docker command finds
            it.
    """

    def __init__(
        self,
        provider: DockerProvider,
        name: str,
        url: str,
        token: str,
        container_id: str,
        published_url: str,
    ) -> None:
        super().__init__(name, url, token=token)
        self.container_id = container_id
        self.published_url = published_url
        self.image = provider.image
        self.port = provider.options.port
        self.engine_url = provider.engine_url
        self._provider = provider

    async def log_tail(self) -> str:
        """The last lines that it wrote, to either stream."""
        return await self._provider._log_tail(self.name)

    async def aclose(self) -> None:
        """Kill and remove it."""
        await self._provider._remove(self)


def port_url(info: dict[str, Any], port: int) -> str | None:
    """The address of a container by the port of this machine that the Engine chose, if it did.

    Args:
        info: all that the Engine knows of it.
        port: where its server listens.
    """
    ports = (info.get("NetworkSettings") or {}).get("Ports") or {}
    published = ports.get(f"{port}/tcp") or []
    return f"http://127.0.0.1:{published[0]['HostPort']}" if published else None


def direct_url(info: dict[str, Any], port: int) -> str | None:
    """The address of a container itself, if it has one on a bridge of this machine.

    Args:
        info: all that the Engine knows of it.
        port: where its server listens.
    """
    networks = (info.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = [network.get("IPAddress") or "" for network in networks.values()]
    found = next(filter(is_on_bridge, addresses), None)
    return None if found is None else f"http://{found}:{port}"


def exit_of(state: dict[str, Any], log_tail: str | None, memory: int | str) -> WorkerExit:
    """Return how a container ended, from the ``State`` that the Engine gives.

    The Engine sets ``OOMKilled`` also when the kernel killed some process in the container and
    the server went on: memory is the cause only where SIGKILL ended the container.

    Args:
        state: of a container that does not run.
        log_tail: its last lines.
        memory: its limit, for the message.
    """
    code = state.get("ExitCode")
    oom_killed = bool(state.get("OOMKilled"))
    oom = oom_killed and code == _SIGNALLED + signal.SIGKILL
    if oom:
        reason = f"its container was killed for its use of memory (limit {memory})"
    elif isinstance(code, int) and code > _SIGNALLED:
        reason = f"its container was killed by {signal_name(code - _SIGNALLED)}"
    else:
        reason = f"its container exited with code {code}"
    if oom_killed and not oom:
        reason += f"; a process in it had been killed for its use of memory (limit {memory})"
    if state.get("Error"):
        reason += f": {' '.join(str(state['Error']).split())}"
    return WorkerExit(reason, exit_code=code, oom=oom, log_tail=log_tail)
