"""Containers that serve nothing: commands are run in them, files go in and out.

Rules:

- A container is named by a UUID before it is asked for, and carries the labels of its owner: the
  reaper removes it if this process is killed, a sweep if the reaper is killed too.
- ``create`` is never interrupted, and what it may have made is removed however a start ends.
- A command is started once. Nothing here runs it again; a lost connection is an error.
- A command that ran out of time or was cancelled is killed with its process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import secrets
import tarfile
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import OpenEnvError, ProviderError, WorkerStartFailed
from openenv_async.providers.docker.calls import EngineError, NoSuchContainer
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.commands import (
    CommandOutput,
    CommandResult,
    kill_arguments,
    wrapped,
)
from openenv_async.providers.docker.options import check_limits, size
from openenv_async.providers.docker.owner import this_owner
from openenv_async.providers.docker.reaper_client import reaper_client
from openenv_async.providers.docker.removals import Removals
from openenv_async.providers.docker.sweep import sweep

__all__ = ["Sandbox", "SandboxOptions", "Sandboxes", "shared_sandboxes"]

log = logging.getLogger("openenv_async.providers.docker")
T = TypeVar("T")

_GROUP: Final = "openenv_async.sandboxes"
"""Label with the id of the ``Sandboxes`` that made a container."""
_CREATE_TIMEOUT: Final = 60.0
_CALL_TIMEOUT: Final = 30.0
_KILL_TIMEOUT: Final = 10.0
_FILES_TIMEOUT: Final = 120.0
_TOLD: Final = 4096
"""Bytes that are kept of what a program said that was run as it is."""
_LATE: Final = (2.0, 10.0, 50.0)
"""Seconds between the looks for a container whose ``create`` got no answer."""


@dataclass(frozen=True, kw_only=True)
class SandboxOptions:
    """The options of one container.

    Attributes:
        memory: bytes or ``"512m"``.
        cpus, pids: cores and processes.
        network: whether it has one.
        env: environment variables of all its commands.
        labels: more labels.
        lifetime: seconds after which ``openenv-async gc`` may remove it if its owner cannot be
            looked up.

    Raises:
        ValueError: a limit is none.
    """

    memory: int | str = "2g"
    cpus: float = 2.0
    pids: int = 4096
    network: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    lifetime: float = 86_400.0

    def __post_init__(self) -> None:
        check_limits(self.memory, self.cpus, self.pids, self.lifetime)

    def body(self, image: str) -> dict[str, Any]:
        """Return the body of the Engine's ``POST /containers/create``."""
        memory = size(self.memory)
        return {
            "Image": image,
            "Cmd": ["sh", "-c", "sleep infinity"],
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "Labels": {**self.labels, **this_owner().labels(self.lifetime)},
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "Memory": memory,
                "MemorySwap": memory,
                "NanoCpus": int(self.cpus * 1e9),
                "PidsLimit": self.pids,
                "NetworkMode": "default" if self.network else "none",
                "Init": True,
                "RestartPolicy": {"Name": "no"},
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
            },
        }


class Sandboxes:
    """The containers of one event loop on one Engine.

    Args:
        url: of the Engine; ``None``: as the docker command finds it.
        max_starts: containers begun at once.

    Attributes:
        url: of the Engine, as it was given.
        engine: the Engine.
        users: who holds it open, see ``shared_sandboxes``.

    Raises:
        EngineError: the address is of no use.
    """

    def __init__(self, url: str | None = None, *, max_starts: int = 8) -> None:
        self.users = 0
        self.url = url
        self._group = uuid.uuid4().hex
        self.engine = DockerClient(url, max_calls=16, redact=lambda text: text)
        # Commands hold their connections for as long as they run: calls have others.
        self._streams = self.engine.address.connect()
        self._reaper = reaper_client(self.engine.address)
        self._reaper.users += 1
        self._gate = asyncio.Semaphore(max_starts)
        self._live: set[str] = set()
        self._removals = Removals(self.engine, self._live.discard, self._look_for_late)
        self._tasks: set[asyncio.Task[None]] = set()
        self._once: dict[str, asyncio.Task[Any]] = {}
        self.spawn(self._sweep())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that nobody has to wait for before this is closed."""
        task = asyncio.create_task(work, name="openenv-sandboxes")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def once(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something once for all who ask at the same time, or later.

        Work that fails is done again for the next who asks. It goes on when a caller is
        cancelled, until this is closed.

        Args:
            key: names the work.
            work: does it.
        """
        task = self._once.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._once[key] = asyncio.create_task(work(), name=f"openenv-once-{key:.80}")
        done: T = await asyncio.shield(task)
        return done

    async def start(self, image: str, options: SandboxOptions, *, timeout: float) -> Sandbox:
        """Start a container.

        Args:
            image: that the Engine has.
            options: of the container.
            timeout: seconds for all of it.

        Raises:
            WorkerStartFailed: it did not start; there is none.
            NoSuchImage: the Engine has no such image.
        """
        name = f"openenv-{uuid.uuid4().hex}"
        body = options.body(image)
        body["Labels"][_GROUP] = self._group
        self._reaper.ensure()
        creating: asyncio.Task[str] | None = None
        self._live.add(name)
        try:
            async with asyncio.timeout(timeout), self._gate:
                await self.engine.breaker.passed()
                creating = asyncio.create_task(
                    self.engine.create(
                        name,
                        body,
                        platform=None,
                        timeout=min(timeout, _CREATE_TIMEOUT),
                        wanted=lambda: name in self._live and name not in self._removals,
                    ),
                    name=f"openenv-create-{name}",
                )
                id = await asyncio.shield(creating)
                await self.engine.start(name, timeout=timeout)
                await self._check_runs(name, image)
        except BaseException as exc:
            if creating is None:
                self._live.discard(name)
            else:
                self._removals.begin(name, creating)
                await self._removals.end(name)
            if isinstance(exc, TimeoutError) and not isinstance(exc, OpenEnvError):
                raise WorkerStartFailed(
                    f"no container of {image} was started within {timeout:.3g} s", phase="reset"
                ) from None
            raise
        return Sandbox(self, name, id)

    async def _check_runs(self, name: str, image: str) -> None:
        state = (await self.engine.inspect(name)).get("State") or {}
        if state.get("Running"):
            return
        tail = ""
        with contextlib.suppress(OpenEnvError):
            tail = await self.engine.log_tail(name, lines=20, timeout=5.0)
        raise WorkerStartFailed(
            f"a container of {image} ended at once (exit code {state.get('ExitCode')}): its image"
            " must run the command that it is given, `sh -c 'sleep infinity'`",
            exit_code=state.get("ExitCode"),
            log_tail=tail or None,
            retryable=False,
        )

    def discard(self, name: str) -> None:
        """Begin to remove a container, unless that was done."""
        if name in self._live:
            self._removals.begin(name)

    async def remove(self, name: str) -> None:
        """Remove a container; cancellation does not stop it."""
        self.discard(name)
        await self._removals.end(name)

    @contextlib.asynccontextmanager
    async def output(self, id: str) -> AsyncIterator[Any]:
        """Start a command that was made, once, and give aiodocker's stream of its output.

        Raises:
            EngineError: the Engine refused, or the connection was lost.
        """
        import aiohttp
        from aiodocker import DockerError
        from aiodocker.execs import Exec

        try:
            stream = Exec(self._streams, id, tty=False).start(detach=False)
            async with stream:
                yield stream
        except DockerError as exc:
            kind = NoSuchContainer if exc.status in (404, 409) else EngineError
            words = " ".join(exc.message.split())
            raise kind(f"could not run a command: {words}", retryable=False) from None
        except (aiohttp.ClientError, ConnectionError) as exc:
            raise EngineError(
                f"the output of a command was lost ({type(exc).__name__}): it is not run again",
                retryable=False,
            ) from exc

    def _look_for_late(self) -> None:
        self.spawn(self._remove_late())

    async def _remove_late(self) -> None:
        """Remove what the Engine makes after nobody waits for it any more."""
        for pause in _LATE:
            await asyncio.sleep(pause)
            with contextlib.suppress(OpenEnvError):
                for found in await self.engine.containers(f"{_GROUP}={self._group}"):
                    name = (found.get("Names") or [""])[0].removeprefix("/")
                    if name and name not in self._live:
                        self._removals.begin(name)

    async def _sweep(self) -> None:
        try:
            removed = await sweep(self.engine)
        except OpenEnvError as exc:
            log.info("no sweep: %s", exc.message)
        else:
            if removed:
                log.warning("removed %d containers whose owners are gone", len(removed))

    async def aclose(self) -> None:
        """Remove every container and close the sockets."""
        for name in list(self._live):
            self._removals.begin(name)
        await self._removals.all()
        left = [*self._tasks, *self._once.values()]
        for task in left:
            task.cancel()
        await wait_uncancelled(*left)
        await self._streams.close()
        await self.engine.aclose()
        self._reaper.users -= 1
        if self._reaper.users == 0:
            await self._reaper.goodbye()


class Sandbox:
    """One running container.

    Attributes:
        name, id: of the container.
    """

    def __init__(self, owner: Sandboxes, name: str, id: str) -> None:
        self.name = name
        self.id = id
        self._owner = owner

    async def run(
        self,
        command: str,
        *,
        timeout: float,
        folder: str = "/",
        env: Mapping[str, str | None] | None = None,
        user: str | int | None = None,
        max_output: int = 32 * 1024,
        take: Callable[[bytes], object] | None = None,
    ) -> CommandResult:
        """Run a command in a shell until it ends, or its time does.

        Args:
            command: for bash, or for sh where there is none.
            timeout: seconds; then its process group is killed.
            folder: that it begins in.
            env: more environment variables; ``None`` takes one of the container's away.
            user: name or number; by default the container's.
            max_output: bytes of output that are kept, the rest is left out of the middle.
            take: is given all output as it comes, too.

        Raises:
            EngineError: the container is gone, or the Engine failed; the command may have run.
        """
        word = secrets.token_hex(12)
        output = CommandOutput(word, max_output, take)
        id = await self._prepare(wrapped(command, word, folder), env, user)
        try:
            async with asyncio.timeout(timeout):
                await self._read(id, output)
        except TimeoutError:
            await asyncio.shield(self._owner.spawn(self._kill(output)))
            return output.result(timed_out=True)
        except asyncio.CancelledError:
            self._owner.spawn(self._kill(output))
            raise
        return output.result()

    async def execute(
        self,
        arguments: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str | None] | None = None,
        user: str | int | None = None,
    ) -> bytes:
        """Run a program, without a shell of ours, until nobody holds its output any more.

        Args:
            arguments: the program's path, and its arguments.
            timeout: seconds; nothing is killed when they are over.
            env, user: as for ``run``.

        Returns:
            The end of what it wrote.

        Raises:
            EngineError: the container is gone, or the Engine failed; it may have run.
            TimeoutError: it still ran.
        """
        said = b""
        id = await self._prepare(arguments, env, user)
        async with asyncio.timeout(timeout), self._owner.output(id) as stream:
            while (message := await stream.read_out()) is not None:
                said = (said + message.data)[-_TOLD:]
        return said

    async def _read(self, id: str, output: CommandOutput) -> None:
        async with self._owner.output(id) as stream:
            while not output.ended and (message := await stream.read_out()) is not None:
                output.feed(message.data)

    async def _prepare(
        self, arguments: Sequence[str], env: Mapping[str, str | None] | None, user: str | int | None
    ) -> str:
        body: dict[str, Any] = {
            "Cmd": list(arguments),
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "Env": [
                name if value is None else f"{name}={value}" for name, value in (env or {}).items()
            ],
        }
        if user is not None:
            body["User"] = str(user)
        return await self._owner.engine.prepare_command(self.name, body, timeout=_CALL_TIMEOUT)

    async def _kill(self, output: CommandOutput) -> None:
        """Kill what a command left running; a container that is gone has nothing left.

        As root, which needs the capabilities that an option no-new-privileges would take.
        """
        if output.group is None:
            return
        try:
            await self.execute(kill_arguments(output.group), timeout=_KILL_TIMEOUT, user="0")
        except (OpenEnvError, TimeoutError) as exc:
            log.info("whether a command in %s was killed is not known: %s", self.name, exc)

    async def working_folder(self) -> str:
        """Return the folder that the image's commands begin in."""
        config = (await self._owner.engine.inspect(self.name)).get("Config") or {}
        return str(config.get("WorkingDir") or "/")

    async def put(self, archive: bytes, into: str) -> None:
        """Unpack a tar archive in a folder of the container.

        Raises:
            EngineError: there is no such folder, or no such container.
        """
        await self._owner.engine.upload(self.name, into, archive, timeout=_FILES_TIMEOUT)

    async def read_file(self, path: str, max_size: int) -> bytes | None:
        """Return the contents of a regular file; ``None`` where there is none.

        Raises:
            ProviderError: it is too large, or something else than a file.
            EngineError: the container is gone, or the Engine failed.
        """
        room = max_size + 64 * 1024  # for what tar adds
        data = await self._owner.engine.download(self.name, path, room, timeout=_FILES_TIMEOUT)
        if data is None:
            return None
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                entry = archive.next()
                if entry is None or not entry.isreg():
                    raise ProviderError(f"{path} is not a regular file", retryable=False)
                if entry.size > max_size:
                    raise ProviderError(
                        f"{path} has {entry.size} bytes, more than {max_size}", retryable=False
                    )
                found = archive.extractfile(entry)
                assert found is not None
                return found.read()
        except tarfile.TarError as exc:
            raise ProviderError(f"{path} could not be read: {exc}", retryable=False) from exc

    def discard(self) -> None:
        """Begin to remove the container, and do not wait."""
        self._owner.discard(self.name)

    async def remove(self) -> None:
        """Kill and remove the container; cancellation does not stop it."""
        await self._owner.remove(self.name)


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, Sandboxes]] = (
    weakref.WeakKeyDictionary()
)


@contextlib.asynccontextmanager
async def shared_sandboxes(url: str | None = None) -> AsyncIterator[Sandboxes]:
    """The ``Sandboxes`` of the running loop, which the last who leaves closes."""
    of_loop = _shared.setdefault(asyncio.get_running_loop(), {})
    found = of_loop.get(url)
    if found is None:
        found = of_loop[url] = Sandboxes(url)
    found.users += 1
    try:
        yield found
    finally:
        found.users -= 1
        if found.users == 0:
            del of_loop[url]
            await wait_uncancelled(asyncio.ensure_future(found.aclose()))
