"""A taskset of ``verifiers`` 0.4 as an environment: the policy is the model of its agent.

Rules:

- The taskset runs in an interpreter of its own, which has ``verifiers``: it cannot be installed
  beside everything. ``verifiers_bridge.py`` runs there, one process for all sessions of this one;
  it is started when it is first needed and ends with this process.
- An episode is one run of the taskset's own environment on one task. An observation is what its
  agent would send to a model: the messages that are new, and the tools. An action is the
  assistant's message: text, calls of tools, or both. The taskset's tools are called there.
- The reward comes with the last step, as ``verifiers`` sums it; where it gives none, there is none.
  An episode that it calls failed, as one whose reward function raised, is an error and no zero.
- A taskset of several agents, one whose environment plays its agent several times, and tasks that
  need a container are refused, with the reason.
- Interpreter, module and settings come from the operator, never from a client.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import itertools
import json
import logging
import os
import queue
import random
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Final

from openenv_async.endpoints.tokens import TOKEN_VARIABLES
from openenv_async.environment import Environment
from openenv_async.errors import (
    EnvironmentDied,
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
    bounded,
    shown,
)
from openenv_async.guard import GUARD_VARIABLE, own_guard
from openenv_async.hosts import HostedText
from openenv_async.hosts.arguments import checked_columns, checked_seconds
from openenv_async.types import StepResult, Task

__all__ = [
    "PYTHON",
    "VerifiersAction",
    "VerifiersHost",
    "VerifiersObservation",
    "VerifiersState",
    "VerifiersTasks",
    "VerifiersToolCall",
    "host_of",
]

PYTHON: Final = "OPENENV_VERIFIERS_PYTHON"
"""The environment variable that names the interpreter which has ``verifiers``."""

log = logging.getLogger("openenv_async.environment")

_BRIDGE: Final = Path(__file__).with_name("verifiers_bridge.py")
_SPLIT: Final = "train"
"""The one split that a taskset is."""
_MAX_LINE: Final = 256 * 1024 * 1024
"""Bytes of one line of the bridge."""
_TAIL: Final = 50
"""Lines kept of what the bridge writes to its standard error."""
_MAX_TAIL_LINE: Final = 500
"""Bytes of one of them; what is longer, as a bar of progress without an end, is several."""
_MAX_REASON: Final = 4000
_GOODBYE: Final = 2.0
"""Seconds that the bridge has to end by itself once its input is closed."""
_END_TIMEOUT: Final = 5.0
"""Seconds that the end of an episode is waited for; the bridge goes on to end it."""
_LIST_TIMEOUT: Final = 60.0
"""Seconds that listing tasks may take."""


@dataclass
class VerifiersToolCall:
    """A call of one of the taskset's tools.

    Attributes:
        name: of the tool.
        arguments: an object, or the text that a model wrote for it.
        id: of the call; one is made where there is none.
    """

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)
    id: str | None = None


@dataclass
class VerifiersAction:
    """The assistant's message: a text, calls of tools, or both.

    Attributes:
        content: the text.
        tool_calls: the calls, made in this order.
    """

    content: str | None = None
    tool_calls: list[VerifiersToolCall] = field(default_factory=list)


@dataclass
class VerifiersObservation:
    """The part of the conversation that is new to the policy.

    Attributes:
        messages: the messages as OpenAI's chat API has them; the policy's own are left out, unless
            the conversation began anew.
        text: their text, for a policy that reads no more.
        tools: the tools that may be called from now on, as that API has them; empty where they are
            those of the observation before.
    """

    messages: list[dict[str, Any]]
    text: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class VerifiersState:
    """Progress of an episode.

    Attributes:
        taskset: its name.
        task_id: of the task; ``None`` before the first reset.
        turns: messages of the policy.
    """

    taskset: str
    task_id: str | None = None
    turns: int = 0


class VerifiersHost(Environment[VerifiersAction, VerifiersObservation, VerifiersState]):
    """A taskset of ``verifiers`` 0.4.

    Args:
        taskset: ``MODULE`` or ``MODULE:NAME``; the module is importable where the taskset runs.
        python: interpreter that has ``verifiers`` and the taskset; by default the one that
            ``OPENENV_VERIFIERS_PYTHON`` names, else this one, if it has them.
        config: settings of the taskset, as its config class has them.
        agent: settings of the agent, such as ``{"max_turns": 8}``.
        limit: tasks that are served; a taskset without an end needs one.
        public: columns of its tasks that clients may see when they list tasks.
        start_timeout: seconds that loading the taskset may take.

    Raises:
        InvalidOption: an argument is not valid.
    """

    name = "verifiers"
    isolation = "inline"  # async: it waits for the bridge and computes next to nothing
    description: ClassVar[str | None] = "A taskset of verifiers"

    def __init__(
        self,
        taskset: str,
        python: str | None = None,
        config: Mapping[str, Any] | None = None,
        agent: Mapping[str, Any] | None = None,
        limit: int | None = None,
        public: Sequence[str] = ("name", "description"),
        start_timeout: float = 120.0,
    ) -> None:
        self._settings = _settings(taskset, python, config, agent, limit, start_timeout)
        self._bridge: _Bridge | None = None
        self._episode: str | None = None
        self._tools: list[dict[str, Any]] = []
        self._state = VerifiersState(taskset)

    async def reset(
        self, seed: int | None = None, split: str = _SPLIT, index: int | None = None
    ) -> StepResult[VerifiersObservation]:
        """Begin an episode.

        Args:
            seed: chooses the task where no index does.
            split: ``train``, the only one.
            index: of the task in the taskset, from 0.

        Raises:
            InvalidOption: there is no such task.
            EnvironmentRaised: the taskset's own code did not begin it.
            EnvironmentDied: the process of the taskset ended.
            OperationUnsupported: the taskset cannot be played step by step.
        """
        await self._end()
        bridge = self._bridge
        if bridge is None or bridge.is_over:
            bridge = self._bridge = await asyncio.to_thread(_bridge_of, self._settings)
        ids = bridge.ids
        if index is None and ids:
            index = random.Random(seed).randrange(len(ids))
        if split != _SPLIT or index is None or not 0 <= index < len(ids):
            raise InvalidOption(
                f"{self._settings.taskset} has {len(ids)} tasks in the split {_SPLIT!r}, and none"
                f" with the index {index!r} in {split!r:.60}",
                option="index",
            )
        self._state = VerifiersState(self._settings.taskset, ids[index])
        self._tools = []
        self._episode = bridge.new_episode()
        told = await self._asked(bridge, "begin", index=index)
        return self._result(told)

    async def step(self, action: VerifiersAction) -> StepResult[VerifiersObservation]:
        """Give the taskset's agent the assistant's message.

        Raises:
            InvalidAction: it has neither text nor calls.
            EnvironmentRaised: the taskset's own code failed, a reward function among it.
            EnvironmentDied: the process of the taskset ended.
        """
        bridge = self._bridge
        if self._episode is None or bridge is None:
            raise EnvironmentDied(
                f"the episode of {self._settings.taskset} is over, since a call of it failed or was"
                " cancelled: reset the session"
            )
        told = await self._asked(bridge, "act", action=_plain(action))
        self._state.turns += 1
        return self._result(told)

    async def state(self) -> VerifiersState:
        """Return the progress of the episode."""
        return self._state

    async def close(self) -> None:
        """End the episode."""
        await self._end()

    @classmethod
    def tasks_for(cls, **params: Any) -> VerifiersTasks:
        """The tasks of the taskset, which is loaded for it."""
        public = params.get("public", ("name", "description"))
        names = ("taskset", "python", "config", "agent", "limit", "start_timeout")
        given = {name: params[name] for name in names if name in params}
        if "taskset" not in given:
            raise InvalidOption("say which taskset, --param taskset=MODULE:NAME", option="taskset")
        return VerifiersTasks(_settings(**given), public)

    # -- inside -----------------------------------------------------------------------------------

    async def _asked(self, bridge: _Bridge, do: str, **request: Any) -> Any:
        """The answer to a request for the episode; one that fails or is cancelled ends it."""
        try:
            return await asyncio.wrap_future(bridge.ask(do, episode=self._episode, **request))
        except InvalidAction:
            raise
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None and self._bridge is not None and not self._bridge.is_over:
            self._bridge.ask("end", episode=episode)

    async def _end(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None and self._bridge is not None and not self._bridge.is_over:
            with contextlib.suppress(OpenEnvError, TimeoutError):
                async with asyncio.timeout(_END_TIMEOUT):
                    await asyncio.wrap_future(self._bridge.ask("end", episode=episode))

    def _result(self, told: Mapping[str, Any]) -> StepResult[VerifiersObservation]:
        if not told["ended"]:
            changed = told["tools"] != self._tools
            self._tools = told["tools"]
            messages = told["messages"]
            text = "\n\n".join(filter(None, map(_text, messages)))
            observation = VerifiersObservation(messages, text, self._tools if changed else [])
            info = {} if told["continues"] else {"task_id": self._state.task_id}
            return StepResult(observation, info=info)
        self._episode = None
        info = {key: told[key] for key in ("rewards", "metrics", "stop", "turns")}
        return StepResult(
            VerifiersObservation([]),
            told["reward"],
            terminated=not told["truncated"],
            truncated=told["truncated"],
            info=info,
        )


class VerifiersTasks:
    """The tasks of a taskset, all in one split. Ids are their own, else their places as text.

    Args:
        settings: of the taskset.
        public: columns that are listed.
    """

    def __init__(self, settings: _Settings, public: Sequence[str]) -> None:
        self._settings = settings
        self._public = checked_columns("public", public)
        self._places: dict[str, int] = {}

    def splits(self) -> Sequence[str]:
        """Return the one split; the taskset is loaded."""
        self._ids()
        return [_SPLIT]

    def count(self, split: str) -> int:
        """Return how many tasks there are."""
        return len(self._ids())

    def get(self, split: str, index: int) -> Task:
        """Return one task."""
        return self.range(split, index, index + 1)[0]

    def range(self, split: str, start: int, stop: int) -> Sequence[Task]:
        """Return the tasks from ``start`` to before ``stop``."""
        bridge = _bridge_of(self._settings)
        listed = bridge.ask("list", start=start, stop=stop, public=self._public)
        try:
            rows = listed.result(_LIST_TIMEOUT)
        except TimeoutError:
            raise EnvironmentDied(
                f"the process of {self._settings.taskset} did not list tasks in {_LIST_TIMEOUT:g} s"
            ) from None
        return [
            Task(
                bridge.ids[number],
                {"index": number} | {k: v for k, v in row.items() if k != "index"},
            )
            for number, row in enumerate(rows, start)
        ]

    def find(self, split: str, task_id: str) -> Task | None:
        """Return the task of an id; ``None`` when there is none."""
        place = self._ids().get(task_id)
        return None if place is None else self.get(split, place)

    def _ids(self) -> dict[str, int]:
        if not self._places:
            ids = _bridge_of(self._settings).ids
            self._places = {each: place for place, each in enumerate(ids)}
        return self._places


def host_of(text: str) -> HostedText:
    """Return the environment of a target ``verifiers:MODULE`` or ``verifiers:MODULE:NAME``.

    Raises:
        InvalidOption: it is not written so.
    """
    module, _, name = text.partition(":")
    _checked_taskset(text)
    return HostedText(VerifiersHost, {"taskset": text}, name or module.rpartition(".")[2])


# -- what is given and told -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    """The taskset, and where it runs."""

    taskset: str
    python: str
    config: str
    agent: str
    limit: int | None
    start_timeout: float

    @property
    def argument(self) -> str:
        """The argument of the bridge."""
        module, _, name = self.taskset.partition(":")
        given = {"config": json.loads(self.config), "agent": json.loads(self.agent)}
        return json.dumps({"module": module, "name": name, "limit": self.limit, **given})


def _settings(
    taskset: str,
    python: str | None = None,
    config: Mapping[str, Any] | None = None,
    agent: Mapping[str, Any] | None = None,
    limit: Any = None,
    start_timeout: Any = 120.0,
) -> _Settings:
    _checked_taskset(taskset)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidOption(f"limit must be a number of tasks, got {shown(limit)}", option="limit")
    start_timeout = checked_seconds("start_timeout", start_timeout)
    written = {}
    for name, value in (("config", config), ("agent", agent)):
        if value is not None and not isinstance(value, Mapping):
            raise InvalidOption(f"{name} must be a dict, got {shown(value)}", option=name)
        written[name] = json.dumps(dict(value or {}), sort_keys=True)
    found = python or os.environ.get(PYTHON) or ""
    if not found:
        if importlib.util.find_spec("verifiers") is None:
            raise InvalidOption(
                f"{taskset} needs an interpreter that has verifiers: make one with `python -m venv"
                " vf && vf/bin/pip install verifiers==0.4.0`, and give --param python=vf/bin/python"
                f" or set {PYTHON}",
                option="python",
            )
        found = sys.executable
    return _Settings(taskset, found, written["config"], written["agent"], limit, start_timeout)


def _checked_taskset(text: Any) -> None:
    module, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    parts = module.replace("-", "_").split(".")
    if not all(part.isidentifier() for part in parts) or (colon and not name.isidentifier()):
        raise InvalidOption(
            f"a taskset is named MODULE or MODULE:NAME, got {shown(text)}", option="taskset"
        )


def _plain(action: VerifiersAction) -> dict[str, Any]:
    """Return an action as the bridge takes it.

    Raises:
        InvalidAction: it has neither text nor calls.
    """
    if action.content is None and not action.tool_calls:
        raise InvalidAction("an action has content, tool_calls or both: it is a message")
    plain = asdict(action)
    for call in plain["tool_calls"]:
        if not isinstance(call["arguments"], str):
            call["arguments"] = json.dumps(call["arguments"])
    return plain


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, its pictures left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")


# -- the process of the taskset -------------------------------------------------------------------


class _Bridge:
    """The process in which a taskset runs. It may be asked from any thread, and blocks none.

    Each of its pipes is a thread's, which closes it: a full one blocks no event loop.

    Attributes:
        ids: of the tasks, in the order of the taskset.

    Args:
        settings: of the taskset.

    Raises:
        InvalidOption, OperationUnsupported, EnvironmentStartFailed: there is no such taskset, or
            it cannot be hosted, or it cannot be loaded.
    """

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # a few of each session
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._guard = own_guard()
        self._mark = self._guard.new_mark()
        self.is_over = False
        path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        kept_back = {*TOKEN_VARIABLES, "PYTHONHOME"}
        variables = {name: value for name, value in os.environ.items() if name not in kept_back}
        variables |= {GUARD_VARIABLE: self._mark, "PYTHONPATH": path}
        try:
            self._process = subprocess.Popen(
                [settings.python, str(_BRIDGE), settings.argument],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                start_new_session=True,
            )
        except OSError as exc:
            raise InvalidOption(
                f"the interpreter {settings.python} cannot be started: {exc.strerror or exc}",
                option="python",
            ) from exc
        ready: Future[Any] = Future()
        self._pending[0] = ready
        self._threads = [
            threading.Thread(target=target, name=f"openenv-verifiers-{name}", daemon=True)
            for name, target in (("in", self._write), ("out", self._read), ("log", self._note))
        ]
        for thread in self._threads:
            thread.start()
        try:
            self.ids: list[str] = ready.result(settings.start_timeout)["ids"]
        except BaseException as exc:
            self.close()
            if isinstance(exc, TimeoutError):
                raise EnvironmentStartFailed(
                    f"{settings.taskset} was not loaded in {settings.start_timeout:g} s"
                    " (start_timeout=)",
                    log_tail=self._log_tail,
                ) from None
            raise

    def new_episode(self) -> str:
        """Return a name for an episode."""
        return str(next(self._numbers))

    def ask(self, do: str, **request: Any) -> Future[Any]:
        """Send a request, and return its answer to come."""
        answer: Future[Any] = Future()
        number = next(self._numbers)
        line = json.dumps({"id": number, "do": do, **request}).encode() + b"\n"
        with self._lock:
            if self.is_over:
                answer.set_exception(self._died())
                return answer
            self._pending[number] = answer
            self._lines.put(line)
        return answer

    def close(self) -> None:
        """End the process and what it started; idempotent."""
        self._lines.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE)
        self._kill()
        for thread in self._threads:
            thread.join(_GOODBYE)  # a program that the guard does not find may have its pipe

    def _kill(self) -> None:
        """Kill the process and what it started."""
        self._guard.end(self._mark)
        self._process.kill()  # where there is no /proc, the guard finds nothing
        self._process.wait()

    @property
    def _log_tail(self) -> str:
        return "\n".join(self._tail)

    def _write(self) -> None:
        """Send the requests, until there are no more."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as pipe:  # its output tells the end
            while (line := self._lines.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def _read(self) -> None:
        """Take the lines of the process, until it ends."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            self._take(pipe)
        with self._lock:
            self.is_over = True
            waiting = [*self._pending.values()]
            self._pending.clear()
        self._lines.put(None)
        self._kill()  # after a line that is none, too
        for answer in waiting:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(self._died())

    def _take(self, pipe: IO[bytes]) -> None:
        """Give the answers that come to those who wait for them."""
        while (line := pipe.readline(_MAX_LINE)).endswith(b"\n"):
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(message, dict):
                return
            with self._lock:
                answer = self._pending.pop(message.get("id", 0), None)
            if answer is None or not answer.set_running_or_notify_cancel():
                continue
            if "failed" in message:
                answer.set_exception(self._error(message["failed"], message.get("id", 0) == 0))
            else:
                answer.set_result(message["ready"] if "ready" in message else message.get("ok"))

    def _note(self) -> None:
        """Keep the last lines of the process."""
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            while line := pipe.readline(_MAX_TAIL_LINE):
                self._tail.append(line.decode("utf-8", "replace").rstrip())

    def _died(self) -> EnvironmentDied:
        return EnvironmentDied(
            f"the process of {self._settings.taskset} ended: its last lines tell why",
            exit_code=self._process.poll(),
            log_tail=self._log_tail,
        )

    def _error(self, told: Mapping[str, Any], at_start: bool) -> OpenEnvError:
        """The error that the process tells of."""
        taskset = self._settings.taskset
        text = f"{taskset}: {bounded(str(told.get('message')), _MAX_REASON)}"
        if told.get("traceback"):
            log.info("%s\n%s", text, told["traceback"])
        match told.get("kind"):
            case "missing":
                return InvalidOption(text, option="taskset")
            case "shape":
                return OperationUnsupported(text)
            case _ if at_start:
                return EnvironmentStartFailed(text, type=told.get("error"))
            case _:
                return EnvironmentRaised(text, type=told.get("error"))


class _Bridges:
    """The bridges of this process, one for each way to load a taskset."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[int, _Settings], _Bridge] = {}
        self._locks: dict[_Settings, threading.Lock] = {}
        atexit.register(self.close)

    def of(self, settings: _Settings) -> _Bridge:
        """Return the bridge of some settings: the one that runs, or a new one."""
        key = os.getpid(), settings
        with self._lock:
            lock = self._locks.setdefault(settings, threading.Lock())
        with lock:
            found = self._found.get(key)
            if found is None or found.is_over:
                if found is not None:
                    found.close()
                found = self._found[key] = _Bridge(settings)
            return found

    def close(self) -> None:
        """End those of this process."""
        pid = os.getpid()
        for key in [key for key in self._found if key[0] == pid]:
            self._found.pop(key).close()


_bridges: Final = _Bridges()


def _bridge_of(settings: _Settings) -> _Bridge:
    """Return the process of a taskset, which is started if need be; it blocks."""
    return _bridges.of(settings)
