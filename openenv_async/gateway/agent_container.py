"""An agent's program in the container of its environment's server.

Rules:

- It runs as a user of its own, which no other run of an agent has: it can neither read nor signal
  the server and the agents of other sessions in the same container.
- It has the container's ``PATH`` and the variables of its episode. The container's other variables,
  the server's token among them, were taken away before its first process began.
- Its files are below a folder in ``/tmp`` that nobody else may enter.
- When it is over, and when its caller is cancelled, every process of its user is killed and its
  files are removed; where that fails, such as for a run that kills what is to end it, the container
  is removed. If this process is killed, the container goes with it.
- The model is reached where the gateway listens at the address that this machine has in the
  container's network; the environment's tools are reached by the container's own loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import secrets
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from openenv_async.client.agent_lease import AgentLease
from openenv_async.deadlines import wait_uncancelled
from openenv_async.endpoints.addresses import is_loopback, is_on_bridge
from openenv_async.endpoints.tokens import TOKEN_VARIABLE
from openenv_async.errors import AgentFailed, OpenEnvError
from openenv_async.gateway.agent_process import KeptOutput, ProgramEnd
from openenv_async.gateway.agent_settings import AgentAddresses
from openenv_async.providers.docker.calls import NoSuchContainer
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.sandbox import Sandbox, shared_sandboxes
from openenv_async.providers.docker.worker import DockerWorker

__all__ = ["AgentContainer", "agent_container"]

log = logging.getLogger("openenv_async.gateway")

_FIRST_USER: Final = 20_000
_USERS: Final = 40_000
"""Numbers of users that runs have in turn: few images have any of them, and a user namespace of
65,536 has all."""
_LONGEST: Final = 30 * 86_400.0
"""Seconds of a run that nobody ends: episodes have deadlines of their own."""
_SETUP_TIMEOUT: Final = 60.0
_END_TIMEOUT: Final = 30.0
_TRIES: Final = 3
_MOST_AT_ONCE: Final = 24_000
"""Characters that one variable carries into a file, four bytes each at most."""
_LONGEST_COMMAND: Final = 120 * 1024
"""Bytes of a command line; Linux takes 128 KiB of one argument."""
_MAKE: Final = f"""\
if [ -n "${{{TOKEN_VARIABLE}+set}}" ]; then
  echo "this Engine cannot take the server's variables away"; exit 1
fi
umask 077 && mkdir "$PLACE" "$PLACE/home" "$PLACE/work" "$PLACE/tmp"
"""
_WRITE: Final = 'umask 077 && mkdir -p "${FILE%/*}" && printf %s "$PART" >> "$FILE"'
_END: Final = """\
for try in 1 2 3 4 5; do
  kill -KILL -1 2>/dev/null
  rm -rf -- "$1" 2>/dev/null
  if command -v find >/dev/null 2>&1; then
    find /tmp /var/tmp /dev/shm -xdev -depth -user "$2" -exec rm -rf -- {} + 2>/dev/null
  fi
  [ -e "$1" ] || { echo gone; exit 0; }
  sleep 0.1
done
"""
"""Arguments: the folder and the user, whose processes are killed, but for the shell itself."""
_TOLD: Final = 2_000
"""Characters of its output that an error has."""
_numbers = itertools.count()


class AgentContainer:
    """A place for one run of a program in a container.

    Attributes:
        addresses: of the session, as they are inside.
        folder: of the run, with ``home``, ``work`` and ``tmp`` in it.
        user: number of the user that it runs as.
    """

    def __init__(
        self, box: Sandbox, addresses: AgentAddresses, taken_away: Sequence[str], user: int
    ) -> None:
        self.addresses = addresses
        self.folder = PurePosixPath(f"/tmp/openenv-agent-{secrets.token_hex(8)}")
        self.user = user
        self._box = box
        self._without: dict[str, str | None] = dict.fromkeys(taken_away)

    async def make(self) -> None:
        """Make its folder.

        Raises:
            AgentFailed: the container is not fit for agents.
        """
        said = await self._do(_MAKE, PLACE=str(self.folder))
        if said is not None:
            raise AgentFailed(f"the container {self._box.name} has no place for an agent: {said}")

    async def run(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        folder: PurePosixPath,
        files: Mapping[str, str],
        stdin: str | None,
        output: KeptOutput,
    ) -> ProgramEnd:
        """Run a program to its end.

        Args:
            command: the program, found by the container's ``PATH``, and its arguments.
            environ: its variables, besides the container's ``PATH``.
            folder: its working directory.
            files: path below the run's ``home`` -> text; they are written before.
            stdin: which of them it can read from its standard input; ``None``: nothing.
            output: takes what it writes.

        Raises:
            AgentFailed: it cannot be started.
            EngineError: the container is gone, or the Engine failed.
        """
        home = self.folder / "home"
        source = "/dev/null" if stdin is None else str(home / stdin)
        line = (
            f"cd -- {shlex.quote(str(folder))} || exit 126\n"
            f"{shlex.join(command)} < {shlex.quote(source)}"
        )
        if len(line.encode()) > _LONGEST_COMMAND or "\0" in line:
            raise AgentFailed(
                f"the agent {command[0]!r} cannot be started: its command line has NUL or more than"
                f" {_LONGEST_COMMAND} bytes: name {{prompt_file}} in place of {{prompt}}"
            )
        for name, text in files.items():
            await self._write(str(home / name), text)
        done = await self._box.run(
            line,
            timeout=_LONGEST,
            env={**self._without, **environ},
            user=self._owner,
            max_output=2,  # `output` has it
            take=output.add,
        )
        if done.exit_code is None:
            raise AgentFailed(
                f"the agent {command[0]!r} was killed with its shell, or its container was",
                log_tail=output.last(_TOLD),
            )
        return ProgramEnd(done.exit_code, output)

    async def end(self) -> str | None:
        """Kill every process of the run and remove its files.

        Returns:
            What went wrong; ``None``: nothing is left.
        """
        arguments = ["/bin/sh", "-c", _END, "sh", str(self.folder), str(self.user)]
        problem = "its files cannot be removed"
        for _ in range(_TRIES):
            try:
                said = await self._box.execute(
                    arguments, timeout=_END_TIMEOUT, env=self._without, user=self._owner
                )
            except NoSuchContainer:
                return None
            except (OpenEnvError, TimeoutError) as exc:
                problem = str(exc)
            else:
                if said.endswith(b"gone\n"):
                    return None
        return problem

    @property
    def _owner(self) -> str:
        return f"{self.user}:{self.user}"

    async def _write(self, path: str, text: str) -> None:
        if "\0" in text:
            raise AgentFailed(f"{path} for an agent has NUL in it, which no variable carries")
        for at in range(0, len(text) or 1, _MOST_AT_ONCE):
            part = text[at : at + _MOST_AT_ONCE]
            if (said := await self._do(_WRITE, FILE=path, PART=part)) is not None:
                raise AgentFailed(f"{path} for an agent cannot be written: {said}")

    async def _do(self, command: str, **environ: str) -> str | None:
        """Run a command as the agent's user; return the last line that it said if it failed."""
        done = await self._box.run(
            command, timeout=_SETUP_TIMEOUT, env={**self._without, **environ}, user=self._owner
        )
        if done.exit_code == 0:
            return None
        return (done.output.strip().splitlines() or ["it said nothing"])[-1][:300]


@contextlib.asynccontextmanager
async def agent_container(
    lease: AgentLease[Any, Any], gateway: Any, addresses: AgentAddresses
) -> AsyncIterator[AgentContainer]:
    """Have a place for a run in the container of a lease's worker.

    Args:
        lease: of the episode.
        gateway: of the lease's model, if it has one.
        addresses: of the session, as they are here.

    Raises:
        AgentFailed: the worker is not a container, or one that cannot reach the gateway.
        EngineError: the container is gone, or the Engine failed.
    """
    worker = getattr(lease.env, "worker", None)
    if not isinstance(worker, DockerWorker):
        played_on = "no worker of a pool" if worker is None else f"the worker {worker.name}"
        raise AgentFailed(
            "an agent's place `container` needs an environment whose server runs in one, and this"
            f" episode plays on {played_on}, which is none: play it with the provider `docker`, or"
            " give the agent the place `host` or `sandbox`"
        )
    async with shared_sandboxes(worker.engine_url) as owner:
        info = await owner.engine.inspect(worker.name)
        config = info.get("Config") or {}
        inside = await _inside(addresses, worker, info, gateway, owner.engine)
        names = {each.partition("=")[0] for each in config.get("Env") or ()} - {"PATH"}
        user = _FIRST_USER + next(_numbers) % _USERS
        if str(config.get("User") or "").partition(":")[0] == str(user):
            user = _FIRST_USER + next(_numbers) % _USERS
        assert worker.container_id is not None
        box = Sandbox(owner, worker.name, worker.container_id)
        own = AgentContainer(box, inside, sorted(names), user)
        try:
            await own.make()
            yield own
        finally:
            ending = asyncio.create_task(
                _end(own, owner.engine, worker.name), name="openenv-agent-end"
            )
            await wait_uncancelled(ending)
            ending.result()


async def _end(own: AgentContainer, engine: DockerClient, name: str) -> None:
    """End a run, or its container where the run cannot be ended."""
    problem = await own.end()
    if problem is None:
        return
    log.warning("removing %s, in which an agent cannot be ended: %s", name, problem)
    try:
        await engine.remove(name, timeout=_END_TIMEOUT)
    except OpenEnvError as exc:
        log.warning("what an agent left in %s may still be there: %s", name, exc.message)


async def _inside(
    addresses: AgentAddresses,
    worker: DockerWorker,
    info: Mapping[str, Any],
    gateway: Any,
    engine: DockerClient,
) -> AgentAddresses:
    """Return the addresses of a session as they are in a container."""
    changed: dict[str, Any] = {}
    if addresses.mcp_url is not None:
        own = f"127.0.0.1:{worker.port}"
        changed["mcp_url"] = (
            urlsplit(addresses.mcp_url)._replace(scheme="http", netloc=own).geturl()
        )
    if not addresses.openai_base_url:
        return dataclasses.replace(addresses, **changed)
    reachable_at = getattr(gateway, "reachable_at", None)
    if reachable_at is None:  # of another process: it listens where its owner said
        if is_loopback(addresses.openai_base_url):
            raise AgentFailed(
                f"the gateway at {addresses.openai_base_url} cannot be reached from a container:"
                " have it listen at an address of the container's network (--host), or let this"
                " process run it (--engine)"
            )
        return dataclasses.replace(addresses, **changed)
    host = _this_machine(info) if await engine.shares_networks() else None
    if host is None:
        raise AgentFailed(
            f"the container {worker.name} has no bridge to this machine by which it could reach the"
            " gateway: use an Engine of this machine and a network of the kind bridge, or a gateway"
            " of another process that the container reaches"
        )
    try:
        there = urlsplit(await reachable_at(host))
    except OSError as exc:
        raise AgentFailed(f"the gateway cannot listen at {host} for containers: {exc}") from exc
    for name in ("openai_base_url", "anthropic_base_url"):
        url = urlsplit(getattr(addresses, name))
        changed[name] = url._replace(scheme=there.scheme, netloc=there.netloc).geturl()
    return dataclasses.replace(addresses, **changed)


def _this_machine(info: Mapping[str, Any]) -> str | None:
    """Return the address that this machine has on a bridge of a container, if it has one."""
    networks = (info.get("NetworkSettings") or {}).get("Networks") or {}
    for network in networks.values():
        gateway = network.get("Gateway") or ""
        if gateway and is_on_bridge(network.get("IPAddress") or ""):
            return str(gateway)
    return None
