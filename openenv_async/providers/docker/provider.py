"""DockerProvider: workers are containers of a Docker Engine.

Rules:

- A container is named before it is asked for, by a UUID. Whatever cuts a start off, the name is
  enough to find and remove what there may be.
- ``create`` is never cut off in the middle: a request that was sent may still be obeyed. Who is
  cancelled waits until the Engine has answered and the container is removed; that is bounded by
  the deadlines of the calls, and further cancellation does not shorten it.
- What a provider starts it also ends. What it cannot, the reaper does, and after it the lease.
- A loop that ends before its provider is closed takes the sockets along; another one may go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openenv_async.errors import (
    DeadlineExceeded,
    OpenEnvError,
    ProviderError,
    WorkerStartFailed,
)
from openenv_async.providers.base import Provider, WorkerExit
from openenv_async.providers.docker.engine import Engine, NoSuchContainer
from openenv_async.providers.docker.images import PullPolicy, ensure_image
from openenv_async.providers.docker.keeper import Keeper, keeper
from openenv_async.providers.docker.options import ContainerOptions, Redactor, create_body
from openenv_async.providers.docker.owner import this_owner
from openenv_async.providers.docker.sweep import sweep
from openenv_async.providers.docker.watch import Watch
from openenv_async.providers.docker.worker import DockerWorker, direct_url, exit_of

__all__ = ["DockerProvider"]

log = logging.getLogger("openenv_async.providers.docker")

_LOG_LINES: Final = 50
_CREATE_TIMEOUT: Final = 60.0
_REMOVE_TIMEOUT: Final = 60.0
_LOG_TIMEOUT: Final = 5.0
_GROUP: Final = "openenv_async.provider"
"""Label with the provider's id: what it watches."""


class DockerProvider(Provider):
    """Starts containers of an image whose server listens on a port.

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
        self._engine: Engine | None = None
        self._keeper: Keeper | None = None
        self._watch: Watch | None = None
        self._gate: asyncio.Semaphore | None = None
        self._image_known: asyncio.Task[dict[str, Any]] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: dict[str, DockerWorker] = {}
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._starting: set[str] = set()
        self._settled: asyncio.Event | None = None
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
    def reaper_pid(self) -> int | None:
        """The process id of the reaper that looks after what this process leaves behind."""
        return None if self._keeper is None else self._keeper.reaper_pid

    # -- starting -----------------------------------------------------------------------------

    async def start(self, *, timeout: float | None = None) -> DockerWorker:
        """Start a container; its server may not answer yet."""
        if self._closed:
            raise ProviderError("this provider was closed: make a new one", retryable=False)
        seconds = self._start_timeout if timeout is None else timeout
        engine = self._connect()
        name = f"openenv-{uuid.uuid4().hex}"
        self._starting.add(name)
        try:
            return await self._start(engine, name, seconds)
        finally:
            self._starting.discard(name)
            if self._settled is not None:
                self._settled.set()

    async def _start(self, engine: Engine, name: str, seconds: float) -> DockerWorker:
        creating: asyncio.Task[str] | None = None
        wanted = True
        doing = f"the image {self.image} was still being looked for, or pulled"
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        assert self._gate is not None
        try:
            async with asyncio.timeout(seconds):
                image = await self._image(engine)
            doing = "the Docker Engine was busy"
            async with asyncio.timeout(until - loop.time()), self._gate:
                while (hold := engine.breaker.hold(loop.time())) > 0:
                    doing = "the Docker Engine failed too often to begin another"
                    await asyncio.sleep(hold)
                if self._closed:
                    raise ProviderError("this provider was closed", retryable=False)
                token = secrets.token_urlsafe(32)
                body = create_body(
                    self.image,
                    image.get("Config") or {},
                    self.options,
                    this_owner(),
                    token=token,
                    lease=self._lease,
                )
                body["Labels"][_GROUP] = self._group
                # As long as there is time, and a little: see the rules above.
                creating = asyncio.create_task(
                    engine.create(
                        name,
                        body,
                        platform=self.options.platform,
                        timeout=min(max(until - loop.time(), 1.0), _CREATE_TIMEOUT),
                        wanted=lambda: wanted,
                    ),
                    name=f"openenv-create-{name}",
                )
                id = await asyncio.shield(creating)
                for network in self.options.networks[1:]:
                    await engine.connect_network(network, name, timeout=until - loop.time())
                await engine.start(name, timeout=until - loop.time())
                worker = await self._running(engine, name, id, token)
                if self._closed:
                    raise ProviderError("this provider was closed", retryable=False)
        except BaseException as exc:
            wanted = False
            if creating is not None:
                await self._finish(self._removal(name, creating))
            if isinstance(exc, TimeoutError) and not isinstance(exc, OpenEnvError):
                raise DeadlineExceeded(
                    f"no container of {self.image} was started within {seconds:.3g} s: {doing}",
                    phase="open",
                ) from None
            if isinstance(exc, ProviderError) and creating is not None:
                raise self._start_failed(name, exc) from exc
            raise
        self._workers[name] = worker
        assert self._watch is not None
        assert self._keeper is not None
        self._watch.add(id)
        self._keeper.add(name, worker.url, token, self._lease)
        return worker

    async def _running(self, engine: Engine, name: str, id: str, token: str) -> DockerWorker:
        """The worker of a container that was started, with the port that it got."""
        info = await engine.inspect(name)
        state = info.get("State") or {}
        if not state.get("Running"):
            ended = exit_of(state, await self._log_tail(name), self.options.memory)
            raise WorkerStartFailed(
                f"the worker {name} did not start: {ended.reason}",
                phase="open",
                container_id=id,
                exit_code=ended.exit_code,
                oom=ended.oom,
                log_tail=ended.log_tail or None,
                retryable=False,
            )
        ports = (info.get("NetworkSettings") or {}).get("Ports") or {}
        published = ports.get(f"{self.options.port}/tcp") or []
        if not published:
            raise WorkerStartFailed(
                f"the worker {name} did not start: port {self.options.port} of its container is"
                " not published (a network of the kind host or none?)",
                phase="open",
                container_id=id,
                retryable=False,
            )
        by_port = f"http://127.0.0.1:{published[0]['HostPort']}"
        url = None
        if self.options.direct and await engine.shares_networks():
            url = direct_url(info, self.options.port)
        return DockerWorker(self, name, url or by_port, token, id, by_port)

    def _start_failed(self, name: str, exc: ProviderError) -> ProviderError:
        if isinstance(exc, WorkerStartFailed):
            return exc
        return WorkerStartFailed(
            f"the worker {name} did not start: {exc.message}",
            phase="open",
            retryable=exc.retryable,
        )

    def _connect(self) -> Engine:
        """The Engine, and all that goes with it."""
        loop = asyncio.get_running_loop()
        if self._engine is None or self._loop is not loop:
            self._loop = loop
            self._image_known = None
            self._removing.clear()
            self._engine = Engine(self._engine_url, max_calls=self._max_calls, redact=self._redact)
            self._gate = asyncio.Semaphore(self._max_starts)
            self._watch = Watch(
                self._engine,
                f"{_GROUP}={self._group}",
                self._confirm,
                self._stray,
                self._keep,
            )
            if self._keeper is None:
                self._keeper = keeper(self._engine.url)
                self._keeper.users += 1
            self._holding = asyncio.create_task(self._hold(self._engine), name="openenv-docker")
            self._sweeping = asyncio.create_task(self._sweep(self._engine), name="openenv-sweep")
        self._keep()
        return self._engine

    async def _hold(self, engine: Engine) -> None:
        """Close the sockets when this is cancelled: by closing, or by a loop that ends."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._finish(*self._removing.values())
            await engine.aclose()

    def _keep(self) -> None:
        assert self._keeper is not None
        self._keeper.ensure()

    async def _sweep(self, engine: Engine) -> None:
        """Remove what owners of this host left behind; what fails does not hurt a start."""
        try:
            removed = await sweep(engine)
        except OpenEnvError as exc:
            log.info("no sweep: %s", exc.message)
        else:
            if removed:
                log.warning("removed %d containers whose owners are gone", len(removed))

    async def _image(self, engine: Engine) -> dict[str, Any]:
        """What the Engine knows of the image; asked once, by whoever comes first."""
        if self._image_known is None or (
            self._image_known.done()
            and (self._image_known.cancelled() or self._image_known.exception() is not None)
        ):
            self._image_known = asyncio.create_task(
                ensure_image(engine, self.image, self._pull_policy, self.options.platform),
                name="openenv-image",
            )
        return await asyncio.shield(self._image_known)

    # -- ending -------------------------------------------------------------------------------

    async def _confirm(self, id: str) -> None:
        """Look at a container that may have ended; if so, say how."""
        engine = self._engine
        worker = next((w for w in self._workers.values() if w.container_id == id), None)
        if engine is None or worker is None or worker.exited.done():
            return
        try:
            state = (await engine.inspect(worker.name)).get("State") or {}
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
        if self._watch is not None:
            self._watch.drop(id)

    def _stray(self, name: str) -> None:
        """A container of this provider was listed that may be nobody's."""
        known = name in self._workers or name in self._starting or name in self._removing
        if not known and not self._closed:
            log.warning("removing %s, whose start had been given up", name)
            self._removal(name, None)

    async def _log_tail(self, name: str) -> str:
        if self._engine is None:
            return ""
        with contextlib.suppress(OpenEnvError):
            return await self._engine.log_tail(name, lines=_LOG_LINES, timeout=_LOG_TIMEOUT)
        return ""

    async def _remove(self, worker: DockerWorker) -> None:
        if self._workers.pop(worker.name, None) is not None:
            self._connect()
            assert worker.container_id is not None
            assert self._watch is not None
            self._watch.drop(worker.container_id)
            self._removal(worker.name, None)
        removing = self._removing.get(worker.name)
        if removing is not None:
            await self._finish(removing)

    def _removal(self, name: str, creating: asyncio.Task[str] | None) -> asyncio.Task[None]:
        """Remove a container, once; whoever wants to wait for it waits for this task."""
        task = asyncio.create_task(self._do_remove(name, creating), name=f"openenv-remove-{name}")
        self._removing[name] = task
        task.add_done_callback(lambda _: self._removing.pop(name, None))
        return task

    async def _do_remove(self, name: str, creating: asyncio.Task[str] | None) -> None:
        assert self._engine is not None
        assert self._keeper is not None
        interrupted: asyncio.CancelledError | None = None
        while True:
            try:
                if creating is not None and not creating.done():
                    await asyncio.wait([creating])
                await self._engine.remove(name, timeout=_REMOVE_TIMEOUT)
            except OpenEnvError as exc:
                log.error("the container %s could not be removed: %s", name, exc.message)
            except asyncio.CancelledError as exc:  # a loop that ends cancels every task
                if interrupted is None:
                    interrupted = exc
                    continue
            break
        assert self._watch is not None
        if creating is not None and (creating.cancelled() or creating.exception() is not None):
            # The Engine may obey a request whose answer was lost, later.
            self._watch.suspect()
        self._keeper.drop(name)
        if interrupted is not None:
            raise interrupted

    async def _finish(self, *tasks: asyncio.Task[Any]) -> None:
        """Wait for tasks, cancelled or not; then let the cancellation go on."""
        interrupted: asyncio.CancelledError | None = None
        while waiting := [task for task in tasks if not task.done()]:
            try:
                await asyncio.wait(waiting)
            except asyncio.CancelledError as exc:
                interrupted = exc
        if interrupted is not None:
            raise interrupted

    async def aclose(self) -> None:
        """Remove every container of this provider; starts under way fail and leave none."""
        self._closed = True
        if self._engine is None:
            return
        self._connect()
        closing = asyncio.create_task(self._close_all(), name="openenv-docker-close")
        await self._finish(closing)
        closing.result()

    async def _close_all(self) -> None:
        watch, kept = self._watch, self._keeper
        if watch is None or kept is None:
            return
        self._settled = asyncio.Event()
        for worker in list(self._workers.values()):
            await asyncio.sleep(0)
            self._workers.pop(worker.name, None)
            self._removal(worker.name, None)
        while self._starting:
            self._settled.clear()
            await self._settled.wait()
        await self._finish(*self._removing.values())
        others = [task for task in (self._sweeping, self._image_known) if task is not None]
        for task in others:
            task.cancel()
        await self._finish(*others)
        await watch.aclose()
        holding = self._holding
        self._engine = self._watch = self._keeper = None
        kept.users -= 1
        if kept.users == 0:
            await kept.goodbye()
        assert holding is not None
        holding.cancel()
        await self._finish(holding)
