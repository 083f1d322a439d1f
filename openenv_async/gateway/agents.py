"""Agents that play episodes by themselves: functions of this process, and programs.

``collect(env, agent=CommandAgent("my-agent {prompt}", gateway=gateway), tasks=…)``

Each episode gives its agent a key of the gateway and an address of the environment's session over
MCP, both its own; ``openenv_async.rollouts.agents`` says what becomes of the episode.

A program is given a clean environment: a ``HOME`` of its own, which goes with it, the base URLs and
keys of the episode, ``PATH``, and what its caller names; nothing else of this process. It finds

- ``OPENAI_BASE_URL``, ``OPENAI_API_KEY``, ``ANTHROPIC_BASE_URL`` and ``ANTHROPIC_API_KEY``: the
  model;
- ``OPENENV_MCP_URL`` and ``OPENENV_MCP_TOKEN``: the environment's tools;
- ``OPENENV_PROMPT_FILE``, and ``OPENENV_PROMPT`` where it is short enough for a variable: what it
  is to do; on its standard input as well where its command does not name the prompt;
- the settings of its own that ``agent_settings`` knows, for known agents.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shlex
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final, Literal, TypeAlias, get_args

from openenv_async.client.agent_lease import AgentLease, ModelGateway
from openenv_async.errors import (
    AgentFailed,
    CallerError,
    InvalidOption,
    OpenEnvError,
    ResponderFailed,
    SessionNotFound,
    error_class,
    error_from_wire,
    signal_name,
)
from openenv_async.gateway.agent_process import KeptOutput, ProgramEnd, run_program
from openenv_async.gateway.agent_sandbox import sandbox
from openenv_async.gateway.agent_settings import AgentAddresses, agent_settings
from openenv_async.gateway.calls import CallRecord
from openenv_async.gateway.exports import model_calls
from openenv_async.gateway.rows import TrainingRow
from openenv_async.guard import own_guard, remove_folder
from openenv_async.models.observed import content_of
from openenv_async.rollouts.agents import AGENT_FACTS, NO_ACTION, ModelUse, TimedCall
from openenv_async.rollouts.policies import Turn
from openenv_async.rollouts.run_facts import policy_facts
from openenv_async.types import Outcome

__all__ = ["Agent", "CommandAgent", "FunctionAgent"]

Place: TypeAlias = Literal["host", "sandbox", "container"]
"""The place that a program runs in."""
_GRACE: Final = 10.0
_MOST_ENDED: Final = 4096
"""Sessions that are kept for their rows."""
_TOLD: Final = 2_000
"""Characters of a program's output that an error and a record have."""
_MOST_IN_VARIABLE: Final = 96 * 1024
"""Bytes of a prompt in a variable or an argument; Linux takes 128 KiB of each."""
_PROMPT: Final = (
    "Use the tools of the MCP server `openenv` to act, one call for each action, until a result"
    " says that the episode is over.\n\n{observation}"
)
_PROMPT_FILE: Final = "prompt.txt"
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")


class Agent(ABC):
    """An agent that plays whole episodes by itself.

    Args:
        gateway: gives each episode a key for a model; ``None``: the agent has a model of its own.
        budget: of each episode: a ``Budget``.
        submit: an action that finishes an episode that the agent left open; without one such an
            episode is truncated.
        grace: seconds that the agent may go on when its episode has ended.
    """

    def __init__(
        self,
        *,
        gateway: ModelGateway | None = None,
        budget: Any = None,
        submit: Any = NO_ACTION,
        grace: float = _GRACE,
    ) -> None:
        if not grace >= 0:
            raise ValueError(f"grace must be a number of seconds from 0 on, got {grace!r}")
        if budget is not None and gateway is None:
            raise ValueError("a budget is kept by a gateway: give the gateway too")
        self.gateway = gateway
        self.budget = budget
        self.submit = submit
        self.grace = grace
        self._ended: OrderedDict[str, Any] = OrderedDict()

    @property
    def version(self) -> int | None:
        """The version of its weights, by which streams tell the age of episodes.

        It is what was published last to its gateway, where that is of this process and the version
        is a number; else ``None``.
        """
        version = getattr(self.gateway, "version", None)
        return version if isinstance(version, int) else None

    @abstractmethod
    async def play(self, lease: AgentLease[Any, Any], turn: Turn) -> Mapping[str, Any]:
        """Play an episode to the agent's end, and return facts of it for the record."""

    def used(self, lease: AgentLease[Any, Any]) -> ModelUse:
        """Return the use that was made of the lease's model."""
        session: Any = lease.model
        if session is None:
            return ModelUse()
        self._ended[session.id] = session
        if len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)
        records: list[CallRecord] = sorted(session.records, key=lambda record: record.number)
        return ModelUse(
            calls=[
                TimedCall(call, record.started_at + record.seconds)
                for record, call in zip(records, model_calls(records), strict=True)
            ],
            failures=[
                (record.started_at, failure)
                for record in records
                if (failure := _failure_of(record)) is not None
            ],
            spent=session.exhausted,
            tokens=session.spent.tokens,
            session=session.id,
        )

    def rows(self, outcome: Outcome[Any, Any]) -> list[TrainingRow]:
        """Return the training rows of an episode, once, with its return as their reward.

        Those of an episode without a return have none. Rows of the last few thousand episodes are
        kept until they are asked for.

        Args:
            outcome: of the episode, with its trajectory.

        Raises:
            SessionNotFound: they were asked for before, are not kept any more, or never were.
        """
        trajectory = outcome.trajectory
        facts = {} if trajectory is None else trajectory.extra.get(AGENT_FACTS, {})
        session = self._ended.pop(facts.get("session", ""), None)
        if session is None:
            raise SessionNotFound(
                f"the rows of episode {outcome.index} are not kept: ask once for each episode that"
                " this agent played with a gateway, and record trajectories"
            )
        rows: list[TrainingRow] = session.rows(
            reward=outcome.episode_return, group=outcome.group, member=outcome.member
        )
        return rows

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other agents, for the manifest of a run."""
        budget = None if self.budget is None else repr(self.budget)
        submit = None if self.submit is NO_ACTION else repr(self.submit)
        return {"budget": budget, "submit": submit, "grace": self.grace}


class FunctionAgent(Agent):
    """An agent that is an async function of this process.

    Args:
        function: is called with the first observation and the lease, and returns when the agent
            has ended; what it returns is of no interest. ``lease.step`` takes a step, ``lease.mcp``
            has the address for tools of MCP, ``lease.model`` base URLs and key.
        options: of ``Agent``.
    """

    def __init__(
        self, function: Callable[[Any, AgentLease[Any, Any]], Awaitable[Any]], **options: Any
    ) -> None:
        super().__init__(**options)
        if not callable(function):
            raise TypeError(f"an agent's function is callable, got {function!r:.100}")
        self.function = function

    async def play(self, lease: AgentLease[Any, Any], turn: Turn) -> Mapping[str, Any]:
        """Await the function."""
        playing: Any = self.function(turn.result.observation, lease)
        if not inspect.isawaitable(playing):
            name = getattr(self.function, "__qualname__", repr(self.function))
            raise TypeError(f"the agent {name} is not async: what it calls would block all others")
        await playing
        return {}

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other agents, its source included."""
        return {**super().describe(), "function": policy_facts(self.function)}


@dataclass(frozen=True, slots=True)
class _Run:
    """A program as it is run for an episode, wherever that is."""

    command: list[str]
    environ: dict[str, str]
    files: dict[str, str]
    workdir: PurePath
    names_prompt: bool


class CommandAgent(Agent):
    """An agent that is a program, run for each episode.

    Args:
        command: the program and its arguments, as a list or as a line that is split as a shell
            splits it; no shell runs it. ``{prompt}``, ``{prompt_file}``, ``{workdir}``, ``{home}``,
            ``{model}``, ``{mcp_url}``, ``{openai_base_url}`` and ``{anthropic_base_url}`` are
            replaced in each argument.
        prompt: what the agent is told: a text in which ``{observation}`` stands for the first
            observation, or a function of the ``Turn``.
        model: the name by which the agent asks for its model; the session's answers whatever it is.
        dialect: in which known agents ask that speak several: ``chat``, ``responses``,
            ``messages``.
        context_tokens: size of the model's context, which known agents are told.
        environ: variables besides those that it is given anyway.
        inherit: names of variables of this process that it is given too.
        place: ``host``; ``sandbox``: a network of its own that leads to its session and
            nowhere else, see ``agent_sandbox``; ``container``: that of the environment's server,
            see ``agent_container``.
        workdir: a folder that every episode works in, of the container where it runs in one; by
            default an empty one for each.
        output: a folder for what agents write, a file for each episode.
        options: of ``Agent``.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        prompt: str | Callable[[Turn], str] = _PROMPT,
        model: str = "session",
        dialect: str = "chat",
        context_tokens: int | None = None,
        environ: Mapping[str, str] | None = None,
        inherit: Sequence[str] = (),
        place: Place = "host",
        workdir: str | os.PathLike[str] | None = None,
        output: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.command = shlex.split(command) if isinstance(command, str) else [*command]
        if not self.command:
            raise InvalidOption("an agent's command names a program", option="command")
        known = {"prompt", *_placeholders(None, "", Path(), Path())}
        for argument in self.command:
            for name in _PLACEHOLDER.findall(argument):
                if name not in known:
                    listed = ", ".join(f"{{{each}}}" for each in sorted(known))
                    raise InvalidOption(
                        f"an agent's command has {{{name}}}, which stands for nothing: there are"
                        f" {listed}",
                        option="command",
                    )
        program = self.command[0]
        is_path = os.sep in program and not _PLACEHOLDER.search(program)
        if is_path and place != "container" and Path(program).exists():
            self.command[0] = os.path.abspath(program)  # it is started in another folder
        if place not in get_args(Place):
            raise InvalidOption(
                f"an agent's place is one of {', '.join(get_args(Place))}, got {place!r}",
                option="place",
            )
        self.prompt = prompt
        self.place = place
        self.model = model
        self.dialect = dialect
        self.context_tokens = context_tokens
        self.environ = dict(environ or {})
        self.inherit = [*inherit]
        if workdir is not None and place != "container":
            workdir = os.path.abspath(workdir)  # the program is started in it
        self.workdir = None if workdir is None else Path(workdir)
        self.output = None if output is None else Path(output)

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other agents."""
        told = self.prompt if isinstance(self.prompt, str) else policy_facts(self.prompt)
        return {
            **super().describe(),
            "command": self.command,
            "place": self.place,
            "prompt": told,
            "model": self.model,
            "dialect": self.dialect,
            "context_tokens": self.context_tokens,
        }

    def check_program(self) -> None:
        """Look for the program, as each episode will, unless a container is to have it.

        Raises:
            AgentFailed: it is not there.
        """
        program = self.command[0]
        path = self.environ.get("PATH", os.environ.get("PATH"))
        is_here = self.place != "container" and self.workdir is None
        if (
            is_here
            and not _PLACEHOLDER.search(program)
            and shutil.which(program, path=path) is None
        ):
            place = "there is no such file" if os.sep in program else "it is not on PATH"
            raise AgentFailed(
                f"the agent {program!r} cannot be started: {place}, or it is not executable;"
                " install it, or give the whole path of its program"
            )

    async def play(self, lease: AgentLease[Any, Any], turn: Turn) -> Mapping[str, Any]:
        """Run the program to its end.

        Raises:
            AgentFailed: it cannot be started, or ended with an exit code other than 0.
        """
        prompt = self._told(turn)
        output = KeptOutput()
        try:
            if self.output is not None:
                file = await asyncio.to_thread(_output_file, self.output, turn.index)
                output = KeptOutput(file)
            end = await self._run(lease, prompt, output)
        finally:
            output.close()
        if end.code != 0:
            raise _failed(self.command[0], end)
        return {"exit_code": end.code, "output": end.output.last(_TOLD)}

    def _told(self, turn: Turn) -> str:
        """Return what the agent is told."""
        if not isinstance(self.prompt, str):
            return self.prompt(turn)
        content = content_of(turn.result.observation)
        if not isinstance(content, str):  # pictures are seen by the tool that observes
            content = "\n".join(block["text"] for block in content if block["type"] == "text")
        return self.prompt.replace("{observation}", content)

    async def _run(
        self, lease: AgentLease[Any, Any], prompt: str, output: KeptOutput
    ) -> ProgramEnd:
        addresses = self._addresses(lease)
        if self.place == "container":
            return await self._run_in_container(lease, addresses, prompt, output)
        place = await asyncio.to_thread(_new_folder)
        try:
            if self.place == "host":
                return await self._run_here(addresses, prompt, place, output)
            async with sandbox(addresses, place) as own:
                end = await self._run_here(own.addresses, prompt, place, output, own.command)
                own.check_started(output.last(_TOLD))
                return end
        finally:
            await asyncio.to_thread(remove_folder, place)

    async def _run_here(
        self,
        addresses: AgentAddresses,
        prompt: str,
        place: Path,
        output: KeptOutput,
        wrapped: Callable[[Sequence[str]], Sequence[str]] = list,
    ) -> ProgramEnd:
        """Run the program on this machine, where it finds its session at these addresses."""
        run = self._as_run(addresses, prompt, place)
        await asyncio.to_thread(_write, place / "home", run.files)
        path = {"PATH": os.environ["PATH"]} if "PATH" in os.environ else {}
        try:
            return await run_program(
                wrapped(run.command),
                environ={**path, **run.environ},
                folder=Path(run.workdir),
                stdin=b"" if run.names_prompt else prompt.encode(),
                output=output,
            )
        except (OSError, ValueError) as exc:
            self.check_program()
            raise AgentFailed(f"the agent {self.command[0]!r} cannot be started: {exc}") from exc

    async def _run_in_container(
        self,
        lease: AgentLease[Any, Any],
        addresses: AgentAddresses,
        prompt: str,
        output: KeptOutput,
    ) -> ProgramEnd:
        """Run the program in the container of the lease's worker."""
        from openenv_async.gateway.agent_container import agent_container  # loads Docker's client

        async with agent_container(lease, self.gateway, addresses) as own:
            run = self._as_run(own.addresses, prompt, own.folder)
            return await own.run(
                run.command,
                environ=run.environ,
                folder=PurePosixPath(run.workdir),
                files=run.files,
                stdin=None if run.names_prompt else _PROMPT_FILE,
                output=output,
            )

    def _as_run(self, addresses: AgentAddresses, prompt: str, place: PurePath) -> _Run:
        """Return what is run where the session has these addresses and the run this folder."""
        home = place / "home"
        workdir = self.workdir or place / "work"
        settings = agent_settings(self.command[0], addresses)
        values = _placeholders(addresses, prompt, home, workdir)
        is_short = len(prompt.encode()) <= _MOST_IN_VARIABLE
        return _Run(
            command=[_PLACEHOLDER.sub(lambda m: values[m[1]], each) for each in self.command],
            environ={
                **{name: os.environ[name] for name in self.inherit if name in os.environ},
                "HOME": str(home),
                "TMPDIR": str(place / "tmp"),
                "LANG": "C.UTF-8",
                "OPENENV_PROMPT_FILE": values["prompt_file"],
                **({"OPENENV_PROMPT": prompt} if is_short else {}),
                **settings.environment,
                **self.environ,
            },
            files={**settings.files, _PROMPT_FILE: prompt},
            workdir=workdir,
            names_prompt=any("{prompt}" in each for each in self.command),
        )

    def _addresses(self, lease: AgentLease[Any, Any]) -> AgentAddresses:
        if lease.mcp is None and lease.model is None:
            raise AgentFailed(
                f"the agent {self.command[0]!r} can reach nothing: the session is in this process,"
                " which has no address, and there is no gateway"
            )
        model, mcp = lease.model, lease.mcp
        return AgentAddresses(
            openai_base_url="" if model is None else model.openai_base_url,
            anthropic_base_url="" if model is None else model.anthropic_base_url,
            key="" if model is None else model.key,
            model=self.model,
            dialect=self.dialect,
            context_tokens=self.context_tokens,
            mcp_url=None if mcp is None else mcp.url,
            mcp_token=None if mcp is None else mcp.token,
        )


def _placeholders(
    addresses: AgentAddresses | None, prompt: str, home: PurePath, workdir: PurePath
) -> dict[str, str]:
    """Return what stands for what in a command."""
    return {
        "prompt": prompt,
        "prompt_file": str(home / _PROMPT_FILE),
        "home": str(home),
        "workdir": str(workdir),
        "model": "" if addresses is None else addresses.model,
        "mcp_url": "" if addresses is None else addresses.mcp_url or "",
        "openai_base_url": "" if addresses is None else addresses.openai_base_url,
        "anthropic_base_url": "" if addresses is None else addresses.anthropic_base_url,
    }


def _new_folder() -> Path:
    """Make the folder of one run of an agent; the guard removes it where this process cannot."""
    place = Path(tempfile.mkdtemp(prefix="agent-", dir=own_guard().folder))
    for name in ("home", "work", "tmp"):
        (place / name).mkdir(mode=0o700)
    return place


def _write(home: Path, files: Mapping[str, str]) -> None:
    """Write files below a folder, for its owner alone."""
    for name, text in files.items():
        path = home / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")


def _output_file(folder: Path, index: int) -> Any:
    """Open a new file for what the agent of an episode writes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, _ = tempfile.mkstemp(prefix=f"{index:06}-", suffix=".log", dir=folder)
    return os.fdopen(handle, "wb")


def _failed(program: str, end: ProgramEnd) -> AgentFailed:
    """Return the error of an agent that ended badly."""
    how = f"ended with exit code {end.code}"
    if end.code < 0:
        how = f"was ended by {signal_name(-end.code)}"
    lines = end.output.last(_TOLD).strip()
    said = f": {lines.splitlines()[-1][:200]}" if lines else ""
    return AgentFailed(
        f"the agent {Path(program).name!r} {how}{said}", exit_code=end.code, log_tail=lines
    )


def _failure_of(record: CallRecord) -> OpenEnvError | None:
    """Return what a call failed with, unless the agent or its holder caused it."""
    if record.answer is not None or record.error is None or record.is_refused:
        return None
    code, message = record.error
    cls = error_class(code)
    if issubclass(cls, CallerError):
        return None
    if issubclass(cls, ResponderFailed):
        return error_from_wire(code, message, True, {"call": record.call_id})
    return ResponderFailed(message, call=record.call_id, cause=code)
