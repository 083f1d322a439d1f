"""Upstream's resource sessions: an environment as tools that a loop of the caller's own calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from openenv_async.compat.upstream.client_types import StepResult
from openenv_async.compat.upstream.mcp_types import RESERVED_TOOL_NAMES, Tool

__all__ = [
    "RESERVED_TOOL_NAMES",
    "Message",
    "ResourceSession",
    "ResourceSessionFactory",
    "StepEnvSessionAdapter",
    "ToolResult",
    "VerifyResult",
]

Message = dict[str, Any]


@dataclass
class ToolResult:
    """The result of a call of a tool.

    Attributes:
        data: what it returned.
        done: whether the episode is over.
        metadata: further facts.
        error: why it failed; ``None`` where it did not.
    """

    data: Any = None
    done: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass
class VerifyResult:
    """The outcome of an episode.

    Attributes:
        env_reward: the environment's reward; ``None`` where it gave none.
        done: whether the episode is over.
        metrics, artifacts: further facts.
    """

    env_reward: float | None = None
    done: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)


class ResourceSession(ABC):
    """One episode as tools."""

    @abstractmethod
    def initial_messages(self) -> list[Message]:
        """Return the messages that the conversation begins with."""

    @abstractmethod
    def list_tools(self) -> list[Tool]:
        """Return the tools."""

    @abstractmethod
    def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool."""

    @abstractmethod
    def verify(self, transcript: list[Message], final_state: Any | None = None) -> VerifyResult:
        """Return the outcome of the episode, given the conversation."""

    @abstractmethod
    def close(self) -> None:
        """Release what the session holds."""


SessionT = TypeVar("SessionT", bound=ResourceSession)


class ResourceSessionFactory(ABC, Generic[SessionT]):
    """Base of factories of sessions, one for each task."""

    @abstractmethod
    def create(self, task: Any, seed: int | None = None, episode_id: str | None = None) -> SessionT:
        """Begin an episode."""


class StepEnvSessionAdapter(ResourceSession):
    """A client's episode as tools: each call becomes an action.

    Args:
        client: of an environment; its blocking view is used where it has one.
        task: what the episode is about, for ``initial_messages_builder``.
        seed, episode_id, reset_kwargs: of the reset, which happens here.
        tool_specs: the tools.
        action_builder: makes the action of a tool's name and arguments.
        initial_messages_builder: makes the first messages of the result of the reset and the task.
        tool_result_builder: makes a tool's result of its name, arguments, step and state.
        verify_builder: makes the outcome of the transcript, the final state, the last step and
            the last state.

    Raises:
        ValueError: a tool has the name of a call of every environment.
    """

    def __init__(
        self,
        client: Any,
        *,
        task: Any = None,
        seed: int | None = None,
        episode_id: str | None = None,
        tool_specs: Sequence[Tool],
        action_builder: Callable[[str, dict[str, Any]], Any],
        initial_messages_builder: Callable[[StepResult[Any], Any], list[Message]],
        tool_result_builder: Callable[[str, dict[str, Any], StepResult[Any], Any], ToolResult]
        | None = None,
        verify_builder: Callable[
            [list[Message], Any | None, StepResult[Any] | None, Any], VerifyResult
        ]
        | None = None,
        reset_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._tools = {tool.name: tool for tool in tool_specs}
        reserved = sorted(self._tools.keys() & RESERVED_TOOL_NAMES)
        if reserved:
            raise ValueError(
                f"Tool names are reserved for orchestration controls: {', '.join(reserved)}"
            )
        self._client = client.sync() if callable(getattr(client, "sync", None)) else client
        self._task = task
        self._action_of = action_builder
        self._messages_of = initial_messages_builder
        self._result_of = tool_result_builder or _tool_result
        self._verified = verify_builder or _verify_result
        self._closed = False
        self._last: StepResult[Any] | None = None
        options = dict(reset_kwargs or {})
        for name, value in (("seed", seed), ("episode_id", episode_id)):
            if value is not None:
                options.setdefault(name, value)
        try:
            self._first: StepResult[Any] = self._client.reset(**options)
            self._state = self._asked_state()
        except BaseException:
            self.close()
            raise

    def _asked_state(self) -> Any:
        state = getattr(self._client, "state", None)
        return state() if callable(state) else None

    def initial_messages(self) -> list[Message]:
        """Return the messages that the conversation begins with."""
        return list(self._messages_of(self._first, self._task))

    def list_tools(self) -> list[Tool]:
        """Return the tools."""
        return list(self._tools.values())

    def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Take the action that a call of a tool is.

        Raises:
            KeyError: there is no such tool.
        """
        if name not in self._tools:
            kind = "Reserved orchestration" if name in RESERVED_TOOL_NAMES else "Unknown"
            raise KeyError(f"{kind} tool: {name}")
        self._last = self._client.step(self._action_of(name, dict(arguments)))
        self._state = self._asked_state()
        return self._result_of(name, dict(arguments), self._last, self._state)

    def verify(self, transcript: list[Message], final_state: Any | None = None) -> VerifyResult:
        """Return the outcome of the episode: the reward of its last step, never another."""
        return self._verified(list(transcript), final_state, self._last, self._state)

    def close(self) -> None:
        """Close the client; idempotent."""
        if not self._closed:
            self._closed = True
            close = getattr(self._client, "close", None)
            if callable(close):
                close()


def _plain(state: Any) -> Any:
    dump = getattr(state, "model_dump", None)
    return state if dump is None else dump()


def _tool_result(
    name: str, arguments: dict[str, Any], result: StepResult[Any], state: Any
) -> ToolResult:
    data = {
        "tool_name": name,
        "arguments": arguments,
        "observation": result.observation,
        "reward": result.reward,
        "done": result.done,
    }
    metadata = {"reward": result.reward, "state": _plain(state)}
    return ToolResult(data, bool(result.done), metadata)


def _verify_result(
    transcript: list[Message], _: Any | None, last: StepResult[Any] | None, state: Any
) -> VerifyResult:
    plain = _plain(state)
    steps = plain.get("step_count") if isinstance(plain, dict) else None
    return VerifyResult(
        None if last is None else last.reward,
        False if last is None else bool(last.done),
        {} if steps is None else {"step_count": steps},
        {"final_state": plain, "transcript_length": len(transcript)},
    )
