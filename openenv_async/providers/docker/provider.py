"""DockerProvider: workers are containers of a Docker Engine.

Rules:

- One start either gives a worker or leaves nothing: see ``starting``.
- A provider ends all that it started. The reaper ends the rest, and after it the lease.
- A loop that ends before its provider is closed takes the sockets along; another one may go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import OpenEnvError, ProviderError
from openenv_async.providers.base import Provider, WorkerExit
from openenv_async.providers.docker.attachment import Attachment
from openenv_async.providers.docker.calls import NoSuchContainer
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.images import PullPolicy
from openenv_async.providers.docker.local_folders import LocalFolders
from openenv_async.providers.docker.options import ContainerOptions, Redactor
from openenv_async.providers.docker.reaper_client import ReaperClient, reaper_client
from openenv_async.providers.docker.start import ContainerRecipe, ContainerStart
from openenv_async.providers.docker.watch import Watch
from openenv_async.providers.docker.worker import DockerWorker, exit_of

__all__ = ["DockerProvider"]

log = logging.getLogger("openenv_async.providers.docker")

_LOG_LINES: Final = 50
_LOG_TIMEOUT: Final = 5.0
_GROUP: Final = "openenv_async.provider"
"""Label with the provider's id: what it watches."""


class DockerProvider(Provider):
    """A provider of containers of an image whose server listens on a port.

    Nothing is asked of the Engine before the first ``start``. A provider belongs to one event loop
    at a time.

    Args:
        image: its name.
        port: where the server in the container listens. The Engine chooses the port of this
            machine it is reached at, on 127.0.0.1 alone.
        engine: address of the Engine; by default as the ``docker`` command finds it.
        env: environment variables.
        secrets: environment variables whose values are taken out of logs and errors.
        command: instead of the image's.
        memory, cpus, pids, shm_size: limits: bytes or ``"512m"``, cores, processes.
        gpus: a number, ``"all"``, or ids of devices.
        volumes: folder or named volume: where it is mounted, ``"/data:ro"``.
        networks: names of networks, instead of the default one.
        direct: whether to go to a container's own address where its network is a bridge of this
            machine, which saves the way through docker-proxy; ``False``: always by its port on
            127.0.0.1, should a firewall forbid the other.
        local_folder: whether to mount a folder into each container through which clients of this
            user reach it by a Unix socket, where the Engine is this machine's; the container sees
            no other folder and cannot write there.
        platform: ``linux/arm64`` and the like.
        user: who runs the server; by default the image's user, but never root.
        read_only: whether its files are read-only but for ``tmpfs``; by default if the image's
            label ``openenv_async.read_only`` says that it can.
        tmpfs: path: options, of folders in memory where the rest is read-only.
        cap_add: capabilities to keep; by default all are dropped.
        labels: more labels.
        lifetime: seconds after which ``openenv-async gc`` may remove a container whose owner it
            cannot look up.
        pull_policy: whether to pull the image if ``"missing"``, ``"always"`` (once) or ``"never"``.
        owner_lease: seconds after which a server ends when its owner does not renew.
        start_timeout: seconds for a start, without pulling.
        max_starts: containers begun at once.
        max_calls: requests to the Engine at once.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option makes no sense.
    """

    name = "docker"

    def __init__(
        self,
        image: str,
        *,
        port: int = 8000,
        engine: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        pull_policy: PullPolicy = "missing",
        owner_lease: float = 40.0,
        start_timeout: float = 60.0,
        max_starts: int = 8,
        max_calls: int = 16,
        **options: Any,
    ) -> None:
        if pull_policy not in ("missing", "always", "never"):
            raise ValueError(f"pull_policy is missing, always or never, not {pull_policy!r}")
        if owner_lease <= 0 or start_timeout <= 0 or max_starts < 1 or max_calls < 1:
            raise ValueError("owner_lease, start_timeout, max_starts and max_calls are positive")
        self.image = image
        try:
            self.options = ContainerOptions(
                port=port,
                env=dict(env or {}),
                secrets=dict(secrets or {}),
                command=command,
                **options,
            )
        except TypeError as exc:
            known = ContainerOptions.__dataclass_fields__
            wrong = sorted(options.keys() - known.keys())
            if not wrong:
                raise
            raise TypeError(f"DockerProvider has no option {wrong[0]!r}") from exc
        self._engine_url = engine
        self._pull_policy: PullPolicy = pull_policy
        self._lease = owner_lease
        self._start_timeout = start_timeout
        self._max_starts = max_starts
        self._max_calls = max_calls
        self._fresh()

    def _fresh(self) -> None:
        self._group = uuid.uuid4().hex
        self._redact = Redactor(self.options.secrets.values())
        self._attached: Attachment | None = None
        self._folders = LocalFolders()
        self._reaper: ReaperClient | None = None
        self._workers: dict[str, DockerWorker] = {}
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        """The settings; the containers stay with the process that started them."""
        kept = ("image", "options", "_engine_url", "_pull_policy", "_lease", "_start_timeout")
        return {name: self.__dict__[name] for name in (*kept, "_max_starts", "_max_calls")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fresh()

    def __repr__(self) -> str:
        return f"DockerProvider({self.image!r})"

    @property
    def engine_url(self) -> str | None:
        """The address of the Engine, as it was given."""
        return self._engine_url

    @property
    def reaper_pid(self) -> int | None:
        """The process id of the reaper that looks after what this process leaves behind."""
        return None if self._reaper is None else self._reaper.reaper_pid

    # -- starting -----------------------------------------------------------------------------

    async def start(self, *, timeout: float | None = None) -> DockerWorker:
        """Start a container; its server may not answer yet."""
        if self._closed:
            raise ProviderError("this provider was closed: make a new one", retryable=False)
        at = self._attach()
        recipe = ContainerRecipe(
            self.image,
            self._pull_policy,
            self.options,
            self._lease,
            {_GROUP: self._group},
        )
        seconds = self._start_timeout if timeout is None else timeout
        start = ContainerStart(self, recipe, at, seconds, lambda: self._closed)
        with at.start_of(start.name):
            worker = await start.run()
            assert worker.container_id is not None
            assert worker.token is not None
            assert self._reaper is not None
            self._workers[worker.name] = worker
            at.watch.add(worker.container_id)
            self._reaper.add(worker.name, worker.url, worker.token, self._lease)
            return worker

    def _attach(self) -> Attachment:
        """The Engine as this loop has it, with a reaper that runs."""
        at = self._attached
        if at is None or at.loop is not asyncio.get_running_loop():
            engine = DockerClient(self._engine_url, max_calls=self._max_calls, redact=self._redact)
            if self._reaper is None:
                self._reaper = reaper_client(engine.address)
                self._reaper.users += 1
            label = f"{_GROUP}={self._group}"
            watch = Watch(engine, label, self._confirm, self._stray, self._reaper.ensure)
            at = self._attached = Attachment(
                engine, watch, self._reaper.drop, self._max_starts, self._folders
            )
        assert self._reaper is not None
        self._reaper.ensure()
        return at

    # -- ending -------------------------------------------------------------------------------

    async def _confirm(self, id: str) -> None:
        """Look at a container that may have ended; if so, say how."""
        at = self._attached
        worker = next((w for w in self._workers.values() if w.container_id == id), None)
        if at is None or worker is None or worker.exited.done():
            return
        try:
            state = (await at.engine.inspect(worker.name)).get("State") or {}
        except NoSuchContainer:
            ended = WorkerExit("its container was removed by somebody else")
        except OpenEnvError as exc:
            log.warning("cannot look at %s: %s", worker.name, exc.message)
            return
        else:
            if state.get("Running") or state.get("Restarting"):
                return
            ended = exit_of(state, await self._log_tail(worker.name), self.options.memory)
        if worker.name in self._workers and not worker.exited.done():
            worker.exited.set_result(ended)
        at.watch.drop(id)

    def _stray(self, name: str) -> None:
        """A container of this provider was listed that may be nobody's."""
        at = self._attached
        if at is None or self._closed or name in self._workers or name in at.starting:
            return
        if name not in at.removals:
            log.warning("removing %s, whose start had been abandoned", name)
            at.removals.begin(name)

    async def _log_tail(self, name: str) -> str:
        if self._attached is None:
            return ""
        with contextlib.suppress(OpenEnvError):
            return await self._attached.engine.log_tail(
                name, lines=_LOG_LINES, timeout=_LOG_TIMEOUT
            )
        return ""

    async def _remove(self, worker: DockerWorker) -> None:
        if self._workers.pop(worker.name, None) is not None:
            at = self._attach()
            assert worker.container_id is not None
            at.watch.drop(worker.container_id)
            at.removals.begin(worker.name)
        if self._attached is not None:
            await self._attached.removals.end(worker.name)

    async def aclose(self) -> None:
        """Remove every container of this provider; starts under way fail and leave none."""
        self._closed = True
        at = self._attached
        if at is None:
            return
        if at.loop is not asyncio.get_running_loop():
            at = self._attach()
        if at.closing is None or at.closing.done():  # who closes meanwhile waits for the same end
            at.closing = asyncio.create_task(self._close(at), name="openenv-docker-close")
        closing = at.closing
        await wait_uncancelled(closing)
        closing.result()

    async def _close(self, at: Attachment) -> None:
        for worker in list(self._workers.values()):
            await asyncio.sleep(0)
            if self._workers.pop(worker.name, None) is not None:
                at.removals.begin(worker.name)
        await at.aclose()
        kept, self._reaper, self._attached = self._reaper, None, None
        assert kept is not None
        kept.users -= 1
        if kept.users == 0:
            await kept.goodbye()
