"""Any MCP server as an environment: its tools are the actions, their results the observations.

Rules:

- Server, folders, variables and functions are named by the operator, who starts the environment.
  Nothing that a client sends becomes a part of a command, a path or a variable, and sessions can
  set none of the constructor's arguments.
- An episode has a server to itself: a program that ``reset`` starts, in a folder and with a home of
  its own, both made for it; or a session of a server at a URL. Both end with the episode's reward,
  the next reset or the session, and with this process, however that ends.
- Calls are made one at a time.
- The episode ends with the answer tool (terminated) or after ``max_steps`` (truncated). Then the
  server is ended, so that its files are what they will stay, and the reward function is called,
  once. Without one there is no reward.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import pkgutil
import random
import re
import shlex
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from openenv_async.endpoints.addresses import checked_url
from openenv_async.endpoints.tokens import TOKEN_VARIABLES
from openenv_async.environment import Environment, Tasks
from openenv_async.errors import (
    EnvironmentDied,
    EnvironmentStartFailed,
    EpisodeEnded,
    InvalidAction,
    InvalidOption,
    exception_name,
    exception_text,
    shown,
)
from openenv_async.event_loop import run_apart
from openenv_async.guard import Guard, own_guard, remove_folder
from openenv_async.hosts import HostedText
from openenv_async.hosts.arguments import checked_seconds
from openenv_async.hosts.mcp_client import (
    ChannelClosed,
    McpCallFailed,
    McpChannel,
    McpClient,
)
from openenv_async.hosts.mcp_http import HttpChannel
from openenv_async.hosts.mcp_stdio import StdioChannel
from openenv_async.hosts.mcp_tools import McpObservation, misfit_of, observation_of
from openenv_async.hosts.tools import HostedTool, action_schema, declared, read_action
from openenv_async.protocol.json_rpc import RpcCode
from openenv_async.tasks import TaskTable
from openenv_async.types import StepResult, Tool

__all__ = ["McpCall", "McpEpisode", "McpHost", "McpServer", "McpState", "host_of"]

_PASSED: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables of this process that every server gets."""
_LAUNCHERS: Final = frozenset(
    {"npx", "bunx", "node", "bun", "deno", "uvx", "uv", "python", "python3", "docker", "podman"}
    | {"run", "exec", "tool"}
)
"""Words of a command that say how something is run, and not what."""
_STARTS: Final = 2 * (os.cpu_count() or 1)
"""Servers that start at the same time; others wait for them, outside their own deadline."""
_THREADS: Final = 4
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server, as the operator names it.

    Attributes:
        command: a program and its arguments; empty where there is a URL.
        url: the address of a server that runs.
        here: the folder in which the command was given, for its relative paths.
    """

    command: tuple[str, ...] = ()
    url: str | None = None
    here: str = ""

    @classmethod
    def of(cls, text: str) -> McpServer:
        """Return the server that a text names: a URL, or a command as a shell would split it.

        Raises:
            InvalidOption: it names none.
        """
        if text.startswith(("http://", "https://")):
            return cls(url=checked_url(text, "the URL of an MCP server"))
        try:
            command = tuple(shlex.split(text))
        except ValueError as exc:
            raise InvalidOption(f"the command of an MCP server cannot be read: {exc}") from None
        if not command or "://" in command[0]:
            raise InvalidOption("an MCP server is a command, or a URL with http:// or https://")
        return cls(command, here=os.getcwd())

    @property
    def name(self) -> str:
        """A short name: what is run, or the host."""
        if self.url is not None:
            return urlsplit(self.url).hostname or "mcp"
        for word in self.command:
            plain = word.rstrip("/").rpartition("/")[2]
            if plain not in _LAUNCHERS and re.fullmatch(r"[\w@][\w@.-]*", plain):
                return plain.partition("@")[0].removesuffix(".py").removesuffix(".js") or plain
        return self.command[0]


@dataclass(frozen=True, slots=True)
class McpCall:
    """One call of a tool in an episode.

    Attributes:
        tool_name, arguments: what was called, and with what.
        result: what came of it.
    """

    tool_name: str
    arguments: Mapping[str, Any]
    result: McpObservation


@dataclass(frozen=True, slots=True)
class McpEpisode:
    """An episode that has ended, as a reward function sees it.

    Attributes:
        task: the columns of its task, private ones too, or the options of its reset.
        calls: in order.
        answer: what the answer tool was given; ``None`` where the steps ran out.
        folder: the server's working folder as the episode left it; ``None`` for a URL.
    """

    task: Mapping[str, Any]
    calls: Sequence[McpCall]
    answer: Mapping[str, Any] | None
    folder: Path | None


@dataclass
class McpState:
    """The progress of an episode.

    Attributes:
        server: the name and version that the server gives itself.
        revision: of MCP that is spoken.
        steps, max_steps: calls made, and allowed.
        tools: names of the tools that there are now.
        log: the last lines that the server wrote besides its messages.
    """

    server: str
    revision: str
    steps: int
    max_steps: int | None
    tools: list[str]
    log: str


@dataclass(frozen=True)
class _Settings:
    """The arguments of a host, checked. Two that are equal have the same tools."""

    server: McpServer
    tasks: tuple[tuple[str, str], ...]
    private: tuple[str, ...]
    prompt: str
    reward: str | None
    answer: str | None
    max_steps: int | None
    template: str | None
    env: tuple[tuple[str, str], ...]
    pass_env: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    token_env: str | None
    start_timeout: float
    max_result_size: int

    @functools.cached_property
    def reward_function(self) -> Callable[[McpEpisode], Any] | None:
        """The function; it is imported here.

        Raises:
            InvalidOption: there is none.
        """
        if self.reward is None:
            return None
        try:
            found = pkgutil.resolve_name(self.reward)
        except Exception as exc:  # a module may raise anything when it is run
            why = f"{exception_name(exc)}: {exception_text(exc, 500)}"
            raise InvalidOption(
                f"the reward function {self.reward!r} cannot be imported: {why}", option="reward"
            ) from exc
        if ":" not in self.reward or not callable(found):
            raise InvalidOption(
                f"reward must name a function as module:function, got {self.reward!r}",
                option="reward",
            )
        function: Callable[[McpEpisode], Any] = found
        return function


class _Machine:
    """The parts that the episodes of this process share.

    Attributes:
        guard: ends what they leave.
        threads: where files are made and removed.
    """

    def __init__(self) -> None:
        self.guard: Final[Guard] = own_guard()
        self.threads: Final = futures.ThreadPoolExecutor(_THREADS, "openenv-mcp")
        self._starts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    def starting(self) -> asyncio.Semaphore:
        """Return what lets a server start, of the running loop."""
        return self._starts.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_STARTS))


@functools.cache
def _machine_of(pid: int) -> _Machine:
    return _Machine()


def _machine() -> _Machine:
    return _machine_of(os.getpid())


class _Server:
    """The server of one episode, from its folder to its end."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self._machine = _machine()
        self._place: Path | None = None
        self._making: futures.Future[None] | None = None
        self._channel: McpChannel | None = None
        self.client: McpClient | None = None
        self.folder: Path | None = None

    @property
    def log_tail(self) -> str:
        """The last lines that it wrote."""
        return "" if self._channel is None else self._channel.log_tail

    @property
    def exit_code(self) -> int | None:
        """Exit code of its program, once that has ended."""
        return None if self._channel is None else self._channel.exit_code

    async def start(self) -> McpClient:
        """Start it, shake hands and list its tools.

        Raises:
            EnvironmentStartFailed: it does not start, or not in time; ``log_tail`` has its words.
        """
        settings = self._settings
        name = settings.server.name
        try:
            async with self._machine.starting(), asyncio.timeout(settings.start_timeout):
                self._channel = channel = await self._open()
                self.client = client = McpClient(channel, name)
                await client.begin()
            return client
        except TimeoutError:
            tail = self.log_tail.rpartition("\n")[2]
            why = f"it did not shake hands within {settings.start_timeout:g} s (start_timeout)"
            raise self._failed(f"{why}: {tail}" if tail else why) from None
        except ChannelClosed as exc:
            raise self._failed(str(exc)) from None
        except McpCallFailed as exc:
            raise self._failed(f"it refuses the handshake: {exc}") from None
        except OSError as exc:
            raise self._failed(exc.strerror or str(exc)) from exc

    def _failed(self, why: str) -> EnvironmentStartFailed:
        return EnvironmentStartFailed(
            f"the MCP server {self._settings.server.name!r} could not be started: {why}",
            env=self._settings.server.name,
            exit_code=self.exit_code,
            log_tail=self.log_tail or None,
        )

    async def _open(self) -> McpChannel:
        settings = self._settings
        if settings.server.url is not None:
            headers = dict(settings.headers)
            if settings.token_env is not None:
                headers["Authorization"] = f"Bearer {os.environ.get(settings.token_env, '')}"
            return HttpChannel(settings.server.url, headers, settings.max_result_size)
        channel = StdioChannel(self._machine.guard, self._machine.threads, settings.max_result_size)
        self._channel = channel
        self._place = self._machine.guard.folder / f"episode-{os.urandom(8).hex()}"
        self.folder = self._place / "work"
        self._making = self._machine.threads.submit(self._make_place, self._place)
        await asyncio.wrap_future(self._making)
        environ = self._environ(self._place)
        await channel.start(self._command(environ.get("PATH")), environ=environ, folder=self.folder)
        return channel

    def _make_place(self, place: Path) -> None:
        place.mkdir(mode=0o700)
        for name in ("home", "tmp"):
            (place / name).mkdir(mode=0o700)
        if self._settings.template is None:
            (place / "work").mkdir(mode=0o700)
        else:
            shutil.copytree(self._settings.template, place / "work", symlinks=True)

    def _environ(self, place: Path) -> dict[str, str]:
        """The variables of the program: a few of this process's, and what the operator names."""
        names = (*_PASSED, *self._settings.pass_env)
        environ = {name: os.environ[name] for name in names if name in os.environ}
        environ |= {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
        return environ | {name: self._placed(value) for name, value in self._settings.env}

    def _command(self, path: str | None) -> list[str]:
        """The command with what it names made absolute, since it runs in another folder.

        Raises:
            OSError: there is no such program.
        """
        here = Path(self._settings.server.here)
        program, *arguments = map(self._placed, self._settings.server.command)
        found = shutil.which(str(here / program) if "/" in program else program, path=path)
        if found is None:
            raise FileNotFoundError(2, f"there is no command {program!r}")
        made = [os.path.abspath(here / found)]
        for argument in arguments:
            is_file = not argument.startswith("-") and (here / argument).is_file()
            made.append(str(here / argument) if is_file else argument)
        return made

    def _placed(self, text: str) -> str:
        """Return a text of the operator's with the folders of the episode."""
        place = self._place
        assert place is not None
        for name, path in (
            ("{folder}", place / "work"),
            ("{home}", place / "home"),
            ("{here}", self._settings.server.here),
        ):
            text = text.replace(name, str(path))
        return text

    async def stop(self) -> None:
        """End it; its folder stays. Idempotent."""
        channel = self._channel
        if self.client is not None:
            await self.client.aclose()
        elif channel is not None:
            await channel.aclose()
        self.client = None

    async def aclose(self) -> None:
        """End it and remove its folder. Idempotent."""
        try:
            await self.stop()
        finally:
            place, self._place = self._place, None
            if place is not None:
                loop = asyncio.get_running_loop()
                removing = loop.run_in_executor(self._machine.threads, self._remove, place)
                await asyncio.shield(removing)

    def _remove(self, place: Path) -> None:
        """Remove its folder, once the thread that fills it has ended: a copy cannot be stopped."""
        if self._making is not None:
            futures.wait([self._making])
        remove_folder(place)


class McpHost(Environment[dict[str, Any], McpObservation, McpState]):
    """The tools of an MCP server, as the actions of an environment.

    Args:
        server: a command, in which ``{folder}`` is the episode's folder, ``{home}`` its home and
            ``{here}`` the folder where the server was started; or a URL.
        tasks: the path of a JSONL file, or such paths by split.
        private: columns of the tasks for the reward function alone, such as answers.
        prompt: the column of a task that the first observation shows.
        reward: a function as ``module:function``, which gets an ``McpEpisode`` and returns a
            number or ``None``.
        answer: the tool that ends the episode: one of the server's, or else one of this name with
            the argument ``answer``. ``None``: there is none.
        max_steps: calls after which the episode is truncated; ``None``: never.
        template: a folder that is copied into each episode's.
        env: variables of the server; placeholders as in the command.
        pass_env: names of variables of this process that the server gets too.
        headers: for a URL.
        token_env: the variable of this process that has a bearer token for the URL.
        start_timeout: seconds that a server has to start, to shake hands and to list its tools.
        max_result_size: bytes of a result.
    """

    description: ClassVar[str | None] = "The tools of an MCP server"

    def __init__(
        self,
        server: str | McpServer,
        *,
        tasks: str | Mapping[str, str] | None = None,
        private: str | Sequence[str] = (),
        prompt: str = "prompt",
        reward: str | None = None,
        answer: str | None = "submit",
        max_steps: int | None = 100,
        template: str | None = None,
        env: Mapping[str, str] | None = None,
        pass_env: str | Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        token_env: str | None = None,
        start_timeout: float = 30.0,
        max_result_size: int = 8 * _MIB,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name in _ARGUMENTS}
        self._settings = _checked(**arguments)
        self._reward = self._settings.reward_function
        self._server: _Server | None = None
        self._task: Mapping[str, Any] = {}
        self._calls: list[McpCall] = []
        self._steps = 0
        self._told_tools: list[str] = []

    async def reset(
        self, seed: int | None = None, episode_id: str | None = None, **task: Any
    ) -> StepResult[McpObservation]:
        """Start a server and return what the episode is about.

        Args:
            seed: chooses the task, where there are some and none is given.
            episode_id: not used.
            task: columns of a task.
        """
        await self.close()
        settings = self._settings
        if not task and settings.tasks:
            task = await asyncio.to_thread(_drawn_task, settings, seed)
        text = task.get(settings.prompt)
        if task and not isinstance(text, str):
            raise InvalidOption(
                f"the task has no text in the column {settings.prompt!r}, which the first"
                " observation shows: name another one, prompt=",
                option=settings.prompt,
            )
        self._task, self._calls, self._steps = MappingProxyType(task), [], 0
        self._server = server = _Server(settings)
        try:
            client = await server.start()
        except BaseException:
            await self.close()
            raise
        self._told_tools = [*client.tools]
        return StepResult(McpObservation(client.instructions if text is None else text))

    async def step(self, action: dict[str, Any]) -> StepResult[McpObservation]:
        """Call one tool.

        Raises:
            InvalidAction: there is no such tool, or the arguments do not fit it.
            EnvironmentDied: the server is gone.
        """
        server = self._server
        client = None if server is None else server.client
        if server is None or client is None:
            raise EpisodeEnded("step() after the server of the episode ended: call reset() first")
        name, arguments = read_action(action)
        try:
            tool = await self._tool(client, name, arguments)
            result = McpObservation("") if tool is None else await _called(client, tool, arguments)
            await client.refresh()
        except ChannelClosed as exc:
            raise await self._died(server, str(exc)) from None
        names = [*client.tools]
        if names != self._told_tools:
            result.tools = self._told_tools = names
        self._steps += 1
        self._calls.append(McpCall(name, arguments, result))
        terminated = name == self._settings.answer
        truncated = not terminated and self._steps == self._settings.max_steps
        reward = None
        if terminated or truncated:
            await server.stop()
            reward = await self._judged(server, arguments if terminated else None)
        return StepResult(result, reward, terminated, truncated)

    async def _tool(
        self, client: McpClient, name: str, arguments: Mapping[str, Any]
    ) -> HostedTool | None:
        """Return the tool that is called; ``None`` for the answer tool that is not the server's.

        Raises:
            InvalidAction: it is not called rightly.
        """
        wrong = self._wrong(client, name, arguments)
        if wrong is not None and await client.refresh(doubted=True):
            wrong = self._wrong(client, name, arguments)
        if wrong is not None:
            raise InvalidAction(wrong)
        return client.tools.get(name)

    def _wrong(self, client: McpClient, name: str, arguments: Mapping[str, Any]) -> str | None:
        tools = _offered(self._settings, client.tools.values())
        tool = tools.get(name)
        if tool is None:
            known = ", ".join([*tools][:20])
            return f"there is no tool {name!r:.80}: there are {known or 'none'}"
        return misfit_of(tool, arguments)

    async def _died(self, server: _Server, how: str) -> EnvironmentDied:
        await server.stop()
        name = self._settings.server.name
        return EnvironmentDied(
            f"the MCP server {name!r} is gone: {how}; reset() starts another one",
            retryable=True,
            exit_code=server.exit_code,
            log_tail=server.log_tail or None,
            env=name,
        )

    async def _judged(self, server: _Server, answer: Mapping[str, Any] | None) -> Any:
        """Return what the reward function says of the episode."""
        if self._reward is None:
            return None
        episode = McpEpisode(self._task, tuple(self._calls), answer, server.folder)
        if inspect.iscoroutinefunction(self._reward):
            return await self._reward(episode)
        return await asyncio.to_thread(self._reward, episode)

    def state(self) -> McpState:
        """Return the progress of the episode."""
        server = self._server
        client = None if server is None else server.client
        return McpState(
            "" if client is None else client.server,
            "" if client is None else client.revision,
            self._steps,
            self._settings.max_steps,
            [] if client is None else [*_offered(self._settings, client.tools.values())],
            "" if server is None else server.log_tail,
        )

    async def close(self) -> None:
        """End the server of the episode, and remove its folder."""
        server, self._server = self._server, None
        if server is not None:
            await server.aclose()

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schema of actions, from the tools of a server that is started to ask it.

        Raises:
            EnvironmentStartFailed: it cannot be started.
        """
        settings = _settings_of(**params)
        settings.reward_function  # noqa: B018  # imported now, or refused
        return {"action": action_schema(_tools_of(settings))}

    @classmethod
    def tools_for(cls, **params: Any) -> Sequence[Tool]:
        """The server's tools, and the answer tool.

        Raises:
            EnvironmentStartFailed: the server cannot be started to ask it.
        """
        return declared(_tools_of(_settings_of(**params)))

    @classmethod
    def tasks_for(cls, **params: Any) -> Tasks | None:
        """The tasks of the files."""
        settings = _settings_of(**params)
        return _table_of(settings) if settings.tasks else None


def host_of(text: str) -> HostedText:
    """Return the environment of ``mcp:TEXT``.

    Raises:
        InvalidOption: the text names no server.
    """
    server = McpServer.of(text)
    return HostedText(McpHost, {"server": server}, server.name)


# -- tasks --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _table_of(settings: _Settings) -> TaskTable:
    return TaskTable(dict(settings.tasks), private=settings.private)


def _drawn_task(settings: _Settings, seed: int | None) -> dict[str, Any]:
    """Return the columns of a task of the first split that has one, chosen by the seed."""
    table = _table_of(settings)
    for split in table.splits():
        count = table.count(split)
        if count:
            task = table.get(split, random.Random(seed).randrange(count))
            return {**task.data, **task.private}
    return {}


# -- tools --------------------------------------------------------------------------------------


async def _called(
    client: McpClient, tool: HostedTool, arguments: Mapping[str, Any]
) -> McpObservation:
    """Return what a call gives; an error of the protocol is told as the tool's own.

    Raises:
        InvalidAction: the server says that the arguments are wrong.
    """
    try:
        return observation_of(await client.call(tool.name, arguments))
    except McpCallFailed as exc:
        if exc.code == RpcCode.INVALID_PARAMS:
            raise InvalidAction(f"{tool.name} refuses its arguments: {exc.message}") from None
        return McpObservation(exc.message, is_error=True)


def _offered(settings: _Settings, own: Any) -> dict[str, HostedTool]:
    """Return the tools of a server by name, and the answer tool where that is not one of them."""
    tools = {tool.name: tool for tool in own}
    if settings.answer is not None and settings.answer not in tools:
        tools[settings.answer] = HostedTool(
            settings.answer,
            "Give the final answer, which ends the episode.",
            {
                "type": "object",
                "properties": {"answer": {"type": "string"}},
                "required": ["answer"],
                "additionalProperties": False,
            },
        )
    return tools


@functools.lru_cache(maxsize=16)
def _tools_of(settings: _Settings) -> tuple[HostedTool, ...]:
    """The tools of a server that is started to be asked, in a loop of its own."""

    async def ask() -> tuple[HostedTool, ...]:
        server = _Server(settings)
        try:
            client = await server.start()
            return tuple(_offered(settings, client.tools.values()).values())
        finally:
            await server.aclose()

    return run_apart(ask())


# -- arguments ----------------------------------------------------------------------------------


def _settings_of(**params: Any) -> _Settings:
    """Return the arguments of a host, checked, where those left out are as for the class.

    Raises:
        InvalidOption: one is wrong.
        TypeError: there is no such argument.
    """
    given = inspect.signature(McpHost).bind(**params)
    given.apply_defaults()
    return _checked(**given.arguments)


def _checked(
    *,
    server: Any,
    tasks: Any,
    private: Any,
    prompt: Any,
    reward: Any,
    answer: Any,
    max_steps: Any,
    template: Any,
    env: Any,
    pass_env: Any,
    headers: Any,
    token_env: Any,
    start_timeout: Any,
    max_result_size: Any,
) -> _Settings:
    """Return the arguments of a host, checked.

    Raises:
        InvalidOption: one is wrong.
    """
    if not isinstance(server, McpServer):
        server = McpServer.of(_text("server", server))
    here = server.here or os.getcwd()
    if isinstance(tasks, str | os.PathLike):
        tasks = {"tasks": os.fspath(tasks)}
    files = _pairs("tasks", tasks)
    if template is not None:
        template = os.path.join(here, os.fspath(template))
        if not os.path.isdir(template):
            raise InvalidOption(f"there is no folder {template!r} (template)", option="template")
    names = _names("pass_env", pass_env)
    if own := TOKEN_VARIABLES & {*names}:
        raise InvalidOption(
            f"{min(own)} is this server's own token: a program of others is not given it",
            option="pass_env",
        )
    if token_env is not None and not os.environ.get(_text("token_env", token_env)):
        raise InvalidOption(f"the variable {token_env} (token_env) is not set", option="token_env")
    for name, value in (("max_steps", max_steps), ("max_result_size", max_result_size)):
        if value is None and name == "max_steps":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidOption(
                f"{name} must be an integer of at least 1, got {shown(value)}", option=name
            )
    return _Settings(
        server,
        tuple((split, os.path.join(here, path)) for split, path in files),
        _names("private", private),
        _text("prompt", prompt),
        None if reward is None else _text("reward", reward),
        None if answer is None else _text("answer", answer),
        max_steps,
        template,
        _pairs("env", env),
        names,
        _pairs("headers", headers),
        token_env,
        checked_seconds("start_timeout", start_timeout),
        max_result_size,
    )


_ARGUMENTS: Final = frozenset(inspect.signature(_checked).parameters)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidOption(f"{name} must be a text, got {shown(value)}", option=name)
    return value


def _names(option: str, value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(isinstance(each, str) for each in given):
        raise InvalidOption(f"{option} must be a list of names, got {shown(value)}", option=option)
    return tuple(given)


def _pairs(option: str, value: Any) -> tuple[tuple[str, str], ...]:
    given = {} if value is None else value
    if not isinstance(given, Mapping) or not all(
        isinstance(each, str) for pair in given.items() for each in pair
    ):
        raise InvalidOption(
            f"{option} must be texts by name, got {shown(value, secret=True)}", option=option
        )
    return tuple(given.items())
