"""An environment of an Open Reward Standard server, by URL: its tools are the actions.

Rules (of the standard as the ``openreward`` package 0.1.167 serves it):

- An episode is one session of the server: ``/create_session`` gives its id, ``/create`` begins it
  on a task that split and index name, ``/delete`` and ``/delete_session`` end it. The next reset
  and ``close`` end it, whatever came before, and while it lasts it is kept alive by pings.
- A step is one call of a tool. Its reward is what the server gave for it, ``None`` where it gave
  none; ``finished`` is the end of the episode.
- A call that the server does not take (no such tool, arguments that do not fit) is the policy's
  mistake: the episode goes on. A tool that raises, an answer that cannot be read, a stream that
  falls silent and a session that the server has forgotten are failures: without a reward, and the
  episode is over.
- A call is sent once. A stream that breaks after the server named the call is taken up again under
  that name; before, nobody knows whether the tool ran, and the episode is over.
- The terminal tool, which ends the episode on the agent's last message, is one of the actions.
- The columns of a task are the server's and may hold answers: none is listed unless ``public``
  names it.
- The key is read from the environment variable ``OPENREWARD_API_KEY``, goes to this server alone
  (redirects are not followed) and stands in no message.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from openenv_async.endpoints.addresses import checked_url, is_here, told_url
from openenv_async.environment import Environment
from openenv_async.errors import (
    EnvironmentDied,
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    bounded,
    shown,
)
from openenv_async.event_loop import run_apart
from openenv_async.hosts import HostedText
from openenv_async.hosts.arguments import checked_columns, checked_seconds
from openenv_async.hosts.event_streams import EventStream, EventTooLarge
from openenv_async.hosts.tools import HostedTool, action_schema, declared, read_action
from openenv_async.types import StepResult, Task, Tool

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "API_KEY",
    "OpenRewardAction",
    "OpenRewardHost",
    "OpenRewardImage",
    "OpenRewardObservation",
    "OpenRewardState",
    "OpenRewardTasks",
    "host_of",
]

API_KEY: Final = "OPENREWARD_API_KEY"
"""The environment variable that has the key of the server."""

OpenRewardAction: TypeAlias = dict[str, Any]
"""A call of a tool, ``{"tool_name": …, "arguments": {…}}``."""

T = TypeVar("T")

_MAX_REPLY: Final = 64 * 1024 * 1024
"""Bytes of one answer of the server."""
_MAX_REASON: Final = 2000
"""Characters of what the server says of a failure that are passed on."""
_RESUMES: Final = 5
"""Times that a broken stream of one call is taken up again."""
_STARTING: Final = ("X-Backend-State", "starting")
"""The header, and its value, by which a server says that it is about to be there."""
_WAITS: Final = (0.1, 10.0)
"""Seconds between two looks at a server that is starting, the least and the most."""
_END_TIMEOUT: Final = 5.0
"""Seconds that ending a session may take; a server ends one by itself that nobody pings."""


@dataclass
class OpenRewardImage:
    """A picture of a tool's answer.

    Attributes:
        data: of the file.
        mime_type: such as ``image/png``.
    """

    data: bytes
    mime_type: str


@dataclass
class OpenRewardObservation:
    """The prompt of a task, or the answer of a tool.

    Attributes:
        text: its text blocks, one after the other.
        images: its pictures.
    """

    text: str
    images: list[OpenRewardImage] = field(default_factory=list)


@dataclass
class OpenRewardState:
    """Progress of an episode.

    Attributes:
        environment: name of the environment at its server.
        split, index: of the task; ``None`` before the first reset.
        calls: tools that were called.
        finished: the server ended the episode.
    """

    environment: str
    split: str | None = None
    index: int | None = None
    calls: int = 0
    finished: bool = False


class OpenRewardHost(Environment[OpenRewardAction, OpenRewardObservation, OpenRewardState]):
    """An environment of an Open Reward Standard server.

    Args:
        url: of the server.
        environment: name of the environment there; the server's first one by default.
        public: columns of its tasks that clients may see when they list tasks.
        timeout: seconds that one answer of the server may take, tool calls left out: those have
            the deadline of a step.
        silence: seconds without a sign of life, a ping included, after which a call has failed.
        start_timeout: seconds for which a server that says it is starting is waited for.
        ping_interval: seconds between two signs of life of an episode.

    Raises:
        InvalidOption: an argument is not valid.
    """

    name = "openreward"
    isolation = "inline"  # async: it waits for the server and computes next to nothing
    description: ClassVar[str | None] = "An environment of an Open Reward Standard server"

    def __init__(
        self,
        url: str,
        environment: str | None = None,
        public: Sequence[str] = (),
        timeout: float = 30.0,
        silence: float = 60.0,
        start_timeout: float = 300.0,
        ping_interval: float = 30.0,
    ) -> None:
        self._server = _Server(url, timeout, silence, start_timeout)
        self._environment = environment
        self._interval = checked_seconds("ping_interval", ping_interval)
        self._http: _Connections | None = None
        self._counts: dict[str, int] = {}
        self._session: str | None = None
        self._pings: asyncio.Task[None] | None = None
        self._state = OpenRewardState(environment or "")
        self._broken: str | None = None

    async def reset(
        self, seed: int | None = None, split: str | None = None, index: int | None = None
    ) -> StepResult[OpenRewardObservation]:
        """Begin an episode.

        Args:
            seed: chooses the task where no index does.
            split: of the task; the first one by default.
            index: of the task in its split, from 0.

        Raises:
            InvalidOption: there is no such split or index.
            EnvironmentStartFailed: the server did not begin it.
            EnvironmentDied: the server cannot be reached.
        """
        await self._end()
        http = self._connections()
        environment = await self._named(http)
        if split is None:
            split = (await _splits(http, environment))[0]
        if index is None:
            if split not in self._counts:
                self._counts[split] = await _count(http, environment, split)
            if not self._counts[split]:
                raise InvalidOption(f"the split {split!r} of {environment} has no tasks")
            index = random.Random(seed).randrange(self._counts[split])
        self._state = OpenRewardState(environment, split, index)
        self._broken = "its reset failed or was cancelled"
        self._session = session = await http.begin(environment, split, index)
        self._pings = asyncio.create_task(self._keep_alive(http, session))
        listed = await http.get(f"/{_segment(environment)}/task_tools", session)
        tools = _tools(listed)
        prompt = await http.get(f"/{_segment(environment)}/prompt", session)
        observation = _observation(prompt, "the prompt")
        self._broken = None
        info = {"split": split, "index": index, "tools": [tool.name for tool in tools]}
        return StepResult(observation, info=info)

    async def step(self, action: dict[str, Any]) -> StepResult[OpenRewardObservation]:
        """Call a tool.

        Raises:
            InvalidAction: the server does not take the call; the episode goes on.
            EnvironmentRaised: the tool raised.
            EnvironmentDied: the session is gone, the server cannot be reached, or nothing came
                from it for too long.
            InvalidObservation: the server's answer is not one of the standard.
        """
        session, http = self._session, self._http
        if self._broken is not None or session is None or http is None:
            raise EnvironmentDied(
                f"the episode at {self._server.told} is over ({self._broken or 'it was ended'}):"
                " reset the session"
            )
        name, arguments = read_action(action)
        self._broken = f"a call of the tool {name} failed or was cancelled"
        try:
            answer = await http.call(self._state.environment, session, name, arguments)
        except InvalidAction:
            self._broken = None
            raise
        self._state.calls += 1
        output = _field(answer, "output", dict)
        reward = output.get("reward")
        if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float)):
            raise InvalidObservation(f"the reward of the tool {name} is {shown(reward)}, no number")
        finished = output.get("finished") is True
        self._state.finished = finished
        info = {"tool": name}
        if output.get("metadata") is not None:
            info["metadata"] = output["metadata"]
        observation = _observation(output.get("blocks"), f"the answer of the tool {name}")
        self._broken = None
        return StepResult(observation, reward, terminated=finished, info=info)

    async def state(self) -> OpenRewardState:
        """Return the progress of the episode."""
        return self._state

    async def close(self) -> None:
        """End the session at the server."""
        try:
            await self._end()
        finally:
            if self._http is not None:
                await self._http.aclose()

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The actions: the tools that all tasks of the environment have.

        Raises:
            EnvironmentDied: the server cannot be reached.
            EnvironmentStartFailed: it has no such environment.
        """
        return {"action": action_schema(_listed_tools(params))}

    @classmethod
    def tools_for(cls, **params: Any) -> list[Tool]:
        """The tools that all tasks of the environment have."""
        return declared(_listed_tools(params))

    @classmethod
    def tasks_for(cls, **params: Any) -> OpenRewardTasks:
        """The tasks that the server lists."""
        return OpenRewardTasks(
            _server_of(params), params.get("environment"), params.get("public") or ()
        )

    # -- inside -----------------------------------------------------------------------------------

    def _connections(self) -> _Connections:
        if self._http is None:
            self._http = _Connections(self._server)
        return self._http

    async def _named(self, http: _Connections) -> str:
        if self._environment is None:
            self._environment = await _first(http)
        return self._environment

    async def _keep_alive(self, http: _Connections, session: str) -> None:
        """Ping until it is cancelled; a server that has forgotten the session says so to a call."""
        while True:
            await asyncio.sleep(self._interval)
            with contextlib.suppress(OpenEnvError):
                await http.post("/ping", None, session)

    async def _end(self) -> None:
        """End the session, if there is one. A server that is gone has ended it."""
        session, pings = self._session, self._pings
        self._session = self._pings = None
        if pings is not None:
            pings.cancel()
            await asyncio.wait([pings])
        if session is None or self._http is None:
            return
        for path in ("/delete", "/delete_session"):
            with contextlib.suppress(OpenEnvError, TimeoutError):
                async with asyncio.timeout(_END_TIMEOUT):
                    await self._http.post(path, None, session)


class OpenRewardTasks:
    """The tasks of an environment of such a server. An id is the task's index, as text.

    Args:
        server: the server.
        environment: name of the environment there; the server's first one by default.
        public: columns that are listed.
    """

    def __init__(self, server: _Server, environment: str | None, public: Sequence[str]) -> None:
        self._server = server
        self._environment = environment
        self._public = checked_columns("public", public)
        self._counts: dict[str, int] = {}

    def splits(self) -> Sequence[str]:
        """Return the names of the splits."""
        return self._ask(_splits)

    def count(self, split: str) -> int:
        """Return how many tasks a split has."""
        if split not in self._counts:
            self._counts[split] = self._ask(lambda http, name: _count(http, name, split))
        return self._counts[split]

    def get(self, split: str, index: int) -> Task:
        """Return one task."""
        return self.range(split, index, index + 1)[0]

    def range(self, split: str, start: int, stop: int) -> Sequence[Task]:
        """Return the tasks from ``start`` to before ``stop``."""
        rows: Sequence[Any] = [{}] * (stop - start)
        if self._public:
            body = {"split": split, "start": start, "stop": stop}
            listed = self._ask(lambda http, name: http.post(f"/{_segment(name)}/task_range", body))
            rows = _field(listed, "tasks", list)
            if len(rows) != stop - start or not all(isinstance(row, Mapping) for row in rows):
                raise InvalidObservation(
                    f"the server listed {shown(rows)} as the {stop - start} tasks of {split} from"
                    f" {start}"
                )
        return [
            Task(
                str(start + place),
                {"index": start + place}
                | {name: row[name] for name in self._public if name in row and name != "index"},
                {},
                split,
            )
            for place, row in enumerate(rows)
        ]

    def find(self, split: str, task_id: str) -> Task | None:
        """Return the task of an id; ``None`` when there is none."""
        try:
            index = int(task_id)
        except ValueError:  # or it has more digits than Python reads
            return None
        found = str(index) == task_id and 0 <= index < self.count(split)
        return self.get(split, index) if found else None

    def _ask(self, call: Callable[[_Connections, str], Coroutine[Any, Any, T]]) -> T:
        async def ask(http: _Connections) -> T:
            return await call(http, self._environment or await _first(http))

        return _asked(self._server, ask)


def host_of(text: str) -> HostedText:
    """Return the environment of a target ``ors:URL`` or ``ors:URL/ENVIRONMENT``.

    The last part of the URL's path is the environment's name, unless the URL ends in ``/``.

    Raises:
        InvalidOption: it is not the URL of a server.
    """
    url = checked_url(text, "what follows ors:")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidOption(f"an Open Reward server is asked over http or https: {told_url(url)!r}")
    above, _, name = parts.path.rpartition("/")
    base = urlunsplit(parts._replace(path=above.rstrip("/"), query="", fragment=""))
    params: dict[str, Any] = {"url": base}
    if name:
        params["environment"] = name
    return HostedText(OpenRewardHost, params, name or None)


# -- what is read ---------------------------------------------------------------------------------


async def _first(http: _Connections) -> str:
    """The first environment that the server lists."""
    names = await http.get("/list_environments")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise EnvironmentStartFailed(f"{http.told} lists no environments: {shown(names)}")
    return str(names[0])


async def _splits(http: _Connections, environment: str) -> list[str]:
    listed = await http.get(f"/{_segment(environment)}/splits")
    if not isinstance(listed, list) or not listed:
        raise EnvironmentStartFailed(f"{environment} at {http.told} has no splits: {shown(listed)}")
    return [_field(each, "name", str) for each in listed]


async def _count(http: _Connections, environment: str, split: str) -> int:
    answer = await http.post(f"/{_segment(environment)}/num_tasks", {"split": split})
    return int(_field(answer, "num_tasks", int))


def _listed_tools(params: Mapping[str, Any]) -> list[HostedTool]:
    """The tools that all tasks of the environment have; the server is asked."""

    async def ask(http: _Connections) -> list[HostedTool]:
        environment = params.get("environment") or await _first(http)
        return _tools(await http.get(f"/{_segment(environment)}/tools"))

    return _asked(_server_of(params), ask)


def _tools(listed: Any) -> list[HostedTool]:
    """The tools of an answer, the terminal one among them."""
    tools = [
        HostedTool(
            _field(tool, "name", str),
            str(tool.get("description") or ""),
            _field(tool, "input_schema", dict) if tool.get("input_schema") else {"type": "object"},
        )
        for tool in _field(listed, "tools", list)
    ]
    terminal = listed.get("terminal_tool")
    if isinstance(terminal, Mapping):
        about = terminal.get("description") or ""
        about = f"{about}\nEnds the episode with the answer.".strip()
        argument = terminal.get("arg")
        parameters: dict[str, Any] = {"type": "object"}
        if isinstance(argument, str):
            parameters = {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            }
        tools.append(HostedTool(_field(terminal, "name", str), about, parameters))
    return tools


def _observation(blocks: Any, what: str) -> OpenRewardObservation:
    """Return what blocks of text and of pictures say.

    Raises:
        InvalidObservation: they are no such blocks.
    """
    if not isinstance(blocks, list):
        raise InvalidObservation(f"{what} is {shown(blocks)}, not a list of blocks")
    texts, images = [], []
    for block in blocks:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "text":
            texts.append(_field(block, "text", str))
        elif kind == "image":
            try:
                data = base64.b64decode(_field(block, "data", str), validate=True)
            except binascii.Error as exc:
                raise InvalidObservation(f"a picture of {what} is not base64: {exc}") from None
            images.append(OpenRewardImage(data, str(block.get("mimeType") or "")))
        else:
            raise InvalidObservation(f"{what} has a block of type {kind!r:.40}: text or image")
    return OpenRewardObservation("\n".join(texts), images)


def _field(value: Any, name: str, kind: type) -> Any:
    """Return a field of what the server answered.

    Raises:
        InvalidObservation: it is not there, or of another type.
    """
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise InvalidObservation(
            f"the server answered {shown(value)}: its field {name!r} must be a {kind.__name__}"
        )
    return found


# -- the wire -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Server:
    """The server, and how long its answers may take."""

    url: str
    timeout: float = 30.0
    silence: float = 60.0
    start_timeout: float = 300.0

    def __post_init__(self) -> None:
        checked_url(self.url, "url")
        for name in ("timeout", "silence", "start_timeout"):
            checked_seconds(name, getattr(self, name))

    @property
    def told(self) -> str:
        return told_url(self.url)


def _server_of(params: Mapping[str, Any]) -> _Server:
    if "url" not in params:
        raise InvalidOption(
            "an Open Reward server is named by its URL: --param url=…", option="url"
        )
    names = ("url", "timeout", "silence", "start_timeout")
    return _Server(**{name: params[name] for name in names if name in params})


def _segment(name: str) -> str:
    return quote(name, safe="")


def _asked(server: _Server, ask: Callable[[_Connections], Coroutine[Any, Any, T]]) -> T:
    """Return what the server answers to a caller that has no event loop of its own."""

    async def asking() -> T:
        http = _Connections(server)
        try:
            return await ask(http)
        finally:
            await http.aclose()

    return run_apart(asking())


class _Silent(Exception):
    """Nothing came of a stream for too long."""


class _Broken(Exception):
    """A stream ended before its answer was there."""


class _Connections:
    """The HTTP connections of one session, or of one question, to the server."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.told = server.told
        self._client: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def get(self, path: str, session: str | None = None) -> Any:
        return await self._asked("GET", path, None, session)

    async def post(self, path: str, body: Any, session: str | None = None) -> Any:
        return await self._asked("POST", path, body, session)

    async def begin(self, environment: str, split: str, index: int) -> str:
        """Begin a session of the server on a task, and return its id."""
        events = self._events("/create_session", None, None)
        session = ""
        try:
            async with contextlib.aclosing(events):
                async for event, data in events:
                    if event == "task_id":
                        session = data.strip()
                    if event == "end":
                        break
        except (_Silent, _Broken) as exc:
            raise EnvironmentStartFailed(f"{self.told} began no session: {exc}") from None
        if not session:
            raise EnvironmentStartFailed(f"{self.told} began a session without an id")
        body = {"env_name": environment, "split": split, "index": index}
        try:
            await self.post("/create", body, session)
        except BaseException:
            with contextlib.suppress(OpenEnvError, TimeoutError):
                async with asyncio.timeout(_END_TIMEOUT):
                    await self.post("/delete_session", None, session)
            raise
        return session

    async def call(
        self, environment: str, session: str, name: str, arguments: Mapping[str, Any]
    ) -> Any:
        """Call a tool, and return what the server answers: ``{"ok": true, "output": …}``.

        Raises:
            InvalidAction, EnvironmentRaised, EnvironmentDied, InvalidObservation: see ``step``.
        """
        body: dict[str, Any] = {"name": name, "input": dict(arguments)}
        path = f"/{_segment(environment)}/call"
        for _ in range(_RESUMES + 1):
            try:
                answer = await self._answer(path, body, session, name)
            except _Silent as exc:
                raise EnvironmentDied(
                    f"the call of {name} at {self.told} has no end: {exc} (silence=)"
                ) from None
            except _Broken as exc:
                if "task_id" not in body:
                    raise EnvironmentDied(
                        f"the connection to {self.told} ended before the server took the call of"
                        f" {name}, which may have run: {exc}"
                    ) from None
                continue
            if isinstance(answer, Mapping) and answer.get("ok") is True:
                return answer
            raise self._refused(name, answer)
        raise EnvironmentDied(
            f"the stream of the call of {name} at {self.told} broke {_RESUMES + 1} times"
        )

    def _refused(self, name: str, answer: Any) -> OpenEnvError:
        """The error of a call that the server did not take."""
        if not isinstance(answer, Mapping) or answer.get("ok") is not False:
            return InvalidObservation(f"the tool {name} answered {shown(answer)}")
        reason = answer.get("reason")
        text = bounded(str(answer.get("error")), _MAX_REASON)
        if reason in ("name_collision", "episode_finished"):
            return EnvironmentRaised(f"{self.told} did not call {name}: {text}", reason=reason)
        return InvalidAction(f"the tool {name} was not called: {text}", reason=reason)

    async def _answer(self, path: str, body: dict[str, Any], session: str, name: str) -> Any:
        """The answer of one stream; the name that the call is given is put into ``body``."""
        parts: list[str] = []
        size = 0
        events = self._events(path, body, session)
        async with contextlib.aclosing(events):
            async for event, data in events:
                if event == "task_id":
                    body["task_id"] = data.strip()
                elif event == "error":
                    raise EnvironmentRaised(
                        f"the tool {name} at {self.told} raised: {bounded(data, _MAX_REASON)}"
                    )
                elif event in ("chunk", "end"):
                    parts.append(data)
                    size += len(data)
                    if size > _MAX_REPLY:
                        raise InvalidObservation(
                            f"the answer of the tool {name} has more than {_MAX_REPLY} characters"
                        )
                    if event == "end":
                        try:
                            return json.loads("".join(parts))
                        except (ValueError, RecursionError) as exc:
                            raise InvalidObservation(
                                f"the answer of the tool {name} is not JSON: {exc}"
                            ) from None
        raise _Broken("it ended without an answer")

    async def _asked(self, method: str, path: str, body: Any, session: str | None) -> Any:
        """The JSON that a request is answered with."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._server.timeout)
        async with self._sent(method, path, body, session, timeout, "application/json") as reply:
            octets = await _bounded_body(reply)
        try:
            return json.loads(octets)
        except (ValueError, RecursionError) as exc:
            raise InvalidObservation(f"{self.told}{path} answered no JSON: {exc}") from None

    async def _events(
        self, path: str, body: Any, session: str | None
    ) -> AsyncGenerator[tuple[str, str], None]:
        """The events of a stream, name and data.

        Raises:
            _Silent, _Broken: it fell silent; it broke.
            InvalidObservation: an event is too large.
        """
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._server.silence)
        accept = "text/event-stream"
        stream = EventStream(_MAX_REPLY)
        try:
            async with self._sent("POST", path, body, session, timeout, accept, True) as reply:
                async for part in reply.content.iter_any():
                    for event in stream.feed(part):
                        yield event.name, event.data.decode("utf-8", "replace")
        except EventTooLarge as exc:
            raise InvalidObservation(f"{self.told}{path}: {exc}") from None
        except TimeoutError:
            raise _Silent(f"nothing came for {self._server.silence:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _Broken(f"{type(exc).__name__}: {exc}") from None

    @contextlib.asynccontextmanager
    async def _sent(
        self,
        method: str,
        path: str,
        body: Any,
        session: str | None,
        timeout: aiohttp.ClientTimeout,
        accept: str,
        streams: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and have its answer; a server that is starting is asked again.

        A server that says so has not begun with the request.
        """
        import aiohttp

        loop = asyncio.get_running_loop()
        until = loop.time() + self._server.start_timeout
        headers = {"Accept": accept}
        if key := os.environ.get(API_KEY):
            headers["X-API-Key"] = key
        if session is not None:
            headers["X-Session-ID"] = session
        if self._client is None:
            self._client = aiohttp.ClientSession(trust_env=not is_here(self._server.url))
        while True:
            try:
                async with self._client.request(
                    method,
                    f"{self._server.url.rstrip('/')}{path}",
                    json=body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                ) as reply:
                    if not _is_starting(reply) or loop.time() >= until:
                        if reply.status != 200:
                            raise await self._status_error(reply, path, session)
                        yield reply
                        return
                    wait = _retry_after(reply)
            except aiohttp.ClientConnectorError as exc:
                raise EnvironmentDied(
                    f"the Open Reward server at {self.told} cannot be reached: {exc.os_error}"
                ) from None
            except TimeoutError:
                if streams:
                    raise
                raise EnvironmentDied(
                    f"{self.told}{path} was not answered in {self._server.timeout:g} s (timeout=)"
                ) from None
            except (aiohttp.ClientError, OSError) as exc:
                if streams:
                    raise
                raise EnvironmentDied(
                    f"the connection to {self.told} was lost: {type(exc).__name__}: {exc}"
                ) from None
            await asyncio.sleep(wait)

    async def _status_error(
        self, reply: aiohttp.ClientResponse, path: str, session: str | None
    ) -> OpenEnvError:
        """The error of an answer that is not 200."""
        text = (await _bounded_body(reply)).decode("utf-8", "replace")
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(text)
            text = str(told["detail"]) if isinstance(told, dict) and "detail" in told else text
        text = bounded(" ".join(text.split()), _MAX_REASON)
        where = f"{self.told}{path}"
        if reply.status in (401, 403):
            return EnvironmentStartFailed(
                f"{where} refuses the key: set the environment variable {API_KEY} ({text})"
            )
        if reply.status in (404, 410) and session is not None and path != "/create":
            return EnvironmentDied(f"{self.told} has no such session any more: {text}")
        if reply.status == 400:
            return InvalidOption(f"{where}: {text}")
        if 300 <= reply.status < 400:
            return EnvironmentStartFailed(
                f"{where} answered {reply.status}, and is not followed elsewhere: give the URL of"
                " the server itself, and the name of an environment that it lists"
            )
        if reply.status == 404:
            return EnvironmentStartFailed(f"{where} is not there: {text}")
        return EnvironmentRaised(f"{where} answered {reply.status}: {text}", status=reply.status)


def _is_starting(reply: aiohttp.ClientResponse) -> bool:
    name, value = _STARTING
    return reply.status == 503 and reply.headers.get(name) == value


def _retry_after(reply: aiohttp.ClientResponse) -> float:
    least, most = _WAITS
    try:
        return min(max(float(reply.headers.get("Retry-After", "1")), least), most)
    except ValueError:
        return 1.0


async def _bounded_body(reply: aiohttp.ClientResponse) -> bytes:
    """The body of an answer.

    Raises:
        InvalidObservation: it is too large.
    """
    body = bytearray()
    async for part in reply.content.iter_chunked(65536):
        body += part
        if len(body) > _MAX_REPLY:
            raise InvalidObservation(f"an answer of the server has more than {_MAX_REPLY} bytes")
    return bytes(body)
