"""The environment: a task, a conversation about it, a score for every message.

Rules:

- The reward of a step is by how much its message beats the best one before it in the episode, so
  that the return is the best score, 0 to 1, and nothing is gained by talking on. It comes from the
  task's scorer alone. Solved (a score of 1): terminated. Out of turns: truncated.
- A message that calls tools is not scored: their results come next, in the role ``tool``. It is a
  turn as any other.
- A step changes the episode when all that it asks (scorer, judge, tools, responder) has answered:
  one that failed can be taken again.
- A judge's question may hold the answer: its calls are told when the episode has ended.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from chat_env.bundled import builtin_tasks
from chat_env.judge import JudgeCalls
from chat_env.models import ChatAction, ChatObservation, ChatState, Message, ToolCall
from chat_env.tasks import SPLITS, Task, load_tasks, task_from
from chat_env.tokenizer import BUNDLED, ChatTokenizer, load_tokenizer
from openenv_async import Certification, Environment, StepResult, TaskTable
from openenv_async.errors import InvalidAction, InvalidOption
from openenv_async.responders import Responder, load_responder
from openenv_async.rubrics import PARTS

__all__ = ["ChatEnvironment"]

_MAX_TOKENS: Final = 8_192
_MAX_CHARS: Final = 32_768
_MAX_CALLS: Final = 16
"""Calls of tools in one message."""
_SCRIPT: Final = "task"
_HISTORIES: Final = ("full", "new")
_MARKED_CALL: Final = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_ROLE: Final = (
    "You are talking to an assistant that has a task. Its task is:\n{prompt}\n"
    "Answer its messages in one or two short sentences. Help it along; do not solve it."
)


class ChatEnvironment(Environment[ChatAction, ChatObservation, ChatState]):
    """Conversational tasks over tokens. Each session has its own conversation.

    An argument that is ``None`` is read from the environment variable in brackets, else the
    default.

    Args:
        tokenizer: name, see ``load_tokenizer`` (``CHAT_TOKENIZER``, ``TOKENIZER_NAME``; smollm2).
        responder: who answers what does not solve the task: ``task``, the task's own script, or
            what ``load_responder`` reads (``CHAT_RESPONDER``; task).
        system_prompt: the system message; empty for none (``CHAT_SYSTEM_PROMPT``,
            ``SYSTEM_PROMPT``; none).
        max_turns: messages the agent may send, unless the task says (``CHAT_MAX_TURNS``; 3).
        tasks: themselves, or see ``load_tasks``: a JSON Lines file, a folder of them or
            ``module:name`` (``CHAT_TASKS``; the bundled ones).
        max_reply_tokens: of a responder's or judge's message (``CHAT_MAX_REPLY_TOKENS``; 64).
        judge: who grades tasks whose scorer asks a judge, as ``load_responder`` reads
            (``CHAT_JUDGE``; nobody).
        history: what an observation has of the conversation: ``full``, or only what is ``new``
            since the last one (``CHAT_HISTORY``; full).
        trust_clients: take regular expressions from reset options (``CHAT_TRUST_CLIENTS``; no).

    Raises:
        InvalidOption: there is no such tokenizer, responder or file.
    """

    name = "chat"
    isolation = "inline"  # async: it waits for the responder and computes next to nothing

    def __init__(
        self,
        tokenizer: str | None = None,
        responder: str | Responder | None = None,
        system_prompt: str | None = None,
        max_turns: int | None = None,
        tasks: str | Sequence[Task] | None = None,
        max_reply_tokens: int | None = None,
        trust_clients: bool | None = None,
        judge: str | Responder | None = None,
        history: str | None = None,
    ) -> None:
        self._tokenizer = _tokenizer(tokenizer)
        if system_prompt is None:
            system_prompt = _variable("CHAT_SYSTEM_PROMPT", "SYSTEM_PROMPT") or ""
        self._system_prompt = system_prompt
        self._max_turns = _count("max_turns", max_turns, "CHAT_MAX_TURNS", 3)
        self._max_reply = _count("max_reply_tokens", max_reply_tokens, "CHAT_MAX_REPLY_TOKENS", 64)
        if trust_clients is None:
            trust_clients = _variable("CHAT_TRUST_CLIENTS") in ("1", "true", "yes")
        self._trust_clients = trust_clients
        path = tasks or _variable("CHAT_TASKS")
        self._tasks = _tasks(path)
        if responder is None:
            responder = _variable("CHAT_RESPONDER") or _SCRIPT
        self._responder: Responder | None = None
        if responder != _SCRIPT:
            self._responder = load_responder(responder) if isinstance(responder, str) else responder
        judge = judge or _variable("CHAT_JUDGE")
        self._judge = load_responder(judge) if isinstance(judge, str) else judge
        self._history = _one_of(
            "history", history or _variable("CHAT_HISTORY") or "full", _HISTORIES
        )
        self._sends_all = True
        self._opened = 0  # messages with which the episode began
        self._judged: JudgeCalls | None = None
        self._tools: list[dict[str, Any]] = []
        self._task: Task | None = None
        self._state = ChatState()
        self._rng = random.Random()

    @classmethod
    def tasks_for(cls, **params: Any) -> TaskTable:
        """Return the tasks that a reset may name, without what scores them."""
        path = params.get("tasks") or _variable("CHAT_TASKS")
        tasks = _tasks(path)

        def rows(split: str) -> list[dict[str, Any]]:
            return [
                {"id": t.id, "task": t.id, "kind": t.kind, "prompt": t.question.text}
                for t in tasks
                if t.split == split
            ]

        return TaskTable({split: functools.partial(rows, split) for split in SPLITS})

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
        from chat_env.policies import certification

        return certification(**params)

    async def reset(
        self,
        seed: int | None = None,
        split: str = "train",
        kind: str | None = None,
        task: str | dict[str, Any] | None = None,
        row: dict[str, Any] | None = None,
        system_prompt: str | None = None,
        max_turns: int | None = None,
        history: str | None = None,
    ) -> ChatObservation:
        """Begin a conversation.

        Args:
            seed: which of the tasks it is, and what the responder draws from.
            split: ``train`` or ``test``; of the tasks to draw from.
            kind: only tasks of this kind.
            task: this task: an id, or a whole one as data.
            row: the task as the row of a data set (see ``tasks.task_from``).
            system_prompt, max_turns, history: for this episode.

        Raises:
            InvalidOption: there is no such task, or nobody to judge it.
        """
        sends = self._history if history is None else _one_of("history", history, _HISTORIES)
        if row is not None:
            if task is not None:
                raise InvalidOption("give a task or a row, not both", option="row")
            task = row
        self._rng = random.Random(seed)
        chosen = self._chosen(split, kind, task)
        turns = chosen.max_turns or self._max_turns
        if max_turns is not None:
            turns = _at_least_one("max_turns", max_turns)
        if chosen.is_judged and self._judge is None:
            raise InvalidOption(
                "the task is scored by a judge, and there is none: set judge= or CHAT_JUDGE",
                option="judge",
            )
        messages = [self._cleaned(each) for each in (*chosen.before, chosen.question)]
        if messages[0].role != "system":
            for system in (system_prompt, chosen.system, self._system_prompt):
                if system is not None:
                    if system:
                        messages.insert(0, Message("system", self._tokenizer.clean(system)))
                    break
        tools = self._cleaned_data([tool.schema for tool in chosen.tools])
        tokens = self._tokenizer.opening(messages, tools)
        self._task, self._tools, self._sends_all = chosen, tools, sends == "full"
        self._opened = len(messages)
        self._judged = None
        if self._judge is not None:
            self._judged = JudgeCalls(self._judge, max_tokens=self._max_reply)
        self._state = ChatState(
            chosen.id, chosen.kind, chosen.split, 0, turns, 0.0, messages, tokens
        )
        return self._seen(messages, tokens, tokens, tools=tools)

    async def step(self, action: ChatAction) -> StepResult[ChatObservation]:
        state, task = self._state, self._task
        assert task is not None  # the engine refuses a step before a reset
        said, message, problem = self._read(action)
        calls = message.tool_calls or []
        turn = state.turns + 1
        history = [*state.history_messages, message]
        is_tool_turn = bool(calls) or problem is not None
        score, parts = (0.0, {}) if is_tool_turn else await self._score(task, history, turn)
        solved = score >= 1.0
        out = not solved and turn >= state.max_turns
        replies: list[Message] = []
        if not (solved or out):
            # Before anything is noted: what fails leaves the episode as it was.
            replies = await self._replies(task, history, turn, problem)
        following = self._tokenizer.following(said, replies, calls, self._tools)
        reward = max(0.0, score - state.best_score)
        state.turns = turn
        state.best_score = max(state.best_score, score)
        state.history_messages = [*history, *replies]
        state.history_tokens = [*state.history_tokens, *said, *following]
        state.judge_calls = len(self._judged.calls) if self._judged is not None else 0
        observation = self._seen(
            [message, *replies], [*said, *following], following, score=score, solved=solved
        )
        info: dict[str, Any] = {"task_id": task.id, "best_score": state.best_score}
        info[PARTS] = {"reward": reward, **parts}
        if (solved or out) and self._judged is not None and self._judged.calls:
            info["judge_calls"] = self._judged.calls
        return StepResult(observation, reward, solved, out, info)

    async def state(self) -> ChatState:
        return self._state

    async def close(self) -> None:
        for responder in (self._responder, self._judge):
            if responder is not None:
                await responder.aclose()

    @classmethod
    def schemas(cls, tokenizer: str | None = None, **params: Any) -> dict[str, Any]:
        """The action with the tokenizer's bounds; random play sends a few tokens."""
        token = {"type": "integer", "minimum": 0, "maximum": _tokenizer(tokenizer).size - 1}
        tokens = {"type": "array", "items": token, "minItems": 1, "maxItems": _MAX_TOKENS}
        few = {"type": "object", "required": ["tokens"]}
        return {
            "action": {
                "title": "ChatAction",
                "description": "The agent's next message: tokens, or the text instead.",
                "type": "object",
                "properties": {
                    "tokens": {**tokens, "description": "Ids of the server's tokenizer."},
                    "message": {
                        "type": "string",
                        "maxLength": _MAX_CHARS,
                        "description": "The text instead.",
                    },
                    "tool_calls": {
                        "type": "array",
                        "maxItems": _MAX_CALLS,
                        "description": "Calls of the task's tools, beside a text or alone.",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string"},
                                "arguments": {"type": "object"},
                                "id": {"type": "string"},
                            },
                            "required": ["name"],
                        },
                    },
                },
                "anyOf": [
                    {"required": ["tokens"]},
                    {"required": ["message"]},
                    {"required": ["tool_calls"]},
                ],
                "x-sample": {**few, "properties": {"tokens": {**tokens, "maxItems": 8}}},
            }
        }

    # -- inside -------------------------------------------------------------------------------

    def _chosen(self, split: str, kind: str | None, task: str | dict[str, Any] | None) -> Task:
        if isinstance(task, Mapping):
            return task_from(task, trusted=self._trust_clients)
        if task is not None:
            for each in self._tasks:
                if each.id == task:
                    return each
            raise InvalidOption(f"there is no task {task!r}", option="task")
        if split not in SPLITS:
            raise InvalidOption(f"there is no split {split!r}: train or test", option="split")
        fitting = [t for t in self._tasks if t.split == split and kind in (None, t.kind)]
        if not fitting:
            kinds = ", ".join(sorted({each.kind for each in self._tasks}))
            raise InvalidOption(
                f"no task of the kind {kind!r} is in the split {split}; kinds: {kinds}",
                option="kind",
            )
        return self._rng.choice(fitting)

    def _cleaned(self, message: Message) -> Message:
        clean, content = self._tokenizer.clean, message.content
        if isinstance(content, str):
            return Message(message.role, clean(content))
        return Message(
            message.role,
            [{**b, "text": clean(b["text"])} if b["type"] == "text" else b for b in content],
        )

    def _cleaned_data(self, value: Any) -> Any:
        """Return JSON data without special tokens in its texts."""
        match value:
            case str():
                return self._tokenizer.clean(value)
            case dict():
                return {self._tokenizer.clean(k): self._cleaned_data(v) for k, v in value.items()}
            case list():
                return [self._cleaned_data(each) for each in value]
            case _:
                return value

    def _read(self, action: ChatAction) -> tuple[list[int], Message, str | None]:
        """Return an action as tokens, as a message, and what is wrong with its calls of tools."""
        tokenizer = self._tokenizer
        if action.tokens is None:
            text, calls = action.message, list(action.tool_calls or [])
            if text is None and not calls:
                raise InvalidAction(
                    "a chat action has tokens, a message or calls of tools: give one of them"
                )
            text = text or ""
            if len(text) > _MAX_CHARS:
                raise InvalidAction(f"a message has at most {_MAX_CHARS} characters")
            text = tokenizer.clean(text)
            if calls:
                calls = self._numbered(calls)
                said = tokenizer.spoken(text, calls, self._tools)
                if len(said) > _MAX_TOKENS:
                    raise InvalidAction(f"calls of tools have at most {_MAX_TOKENS} tokens")
                return said, Message("assistant", text, calls), None
            return tokenizer.encode(text), *self._heard(text)
        if action.message is not None or action.tool_calls is not None:
            raise InvalidAction(
                "a chat action has tokens, or a message and calls of tools: give one of them"
            )
        tokens = action.tokens
        if not 1 <= len(tokens) <= _MAX_TOKENS:
            raise InvalidAction(f"a chat action has 1 to {_MAX_TOKENS} tokens, got {len(tokens)}")
        if min(tokens) < 0 or max(tokens) >= tokenizer.size:
            raise InvalidAction(
                f"token ids of this server are 0 to {tokenizer.size - 1},"
                f" got {min(tokens)} to {max(tokens)}: use its tokenizer"
            )
        said = tokenizer.until_end(tokens)
        return said, *self._heard(tokenizer.clean(tokenizer.decode(said)))

    def _heard(self, text: str) -> tuple[Message, str | None]:
        """Return a text as a message: calls that are written in it are calls."""
        written = _MARKED_CALL.findall(text) if self._tools else []
        if not written and self._tools and _names_tool(text):
            written = [text]
        if not written:
            return Message("assistant", text), None
        try:
            calls = self._numbered([_call(each) for each in written])
        except (ValueError, InvalidAction) as exc:
            return Message("assistant", text), f"Error: this is not a call of a tool: {exc}"
        rest = "" if written == [text] else _MARKED_CALL.sub("", text).strip()
        return Message("assistant", rest, calls), None

    def _numbered(self, calls: Sequence[ToolCall]) -> list[ToolCall]:
        """Return calls with an id each."""
        if not self._tools:
            raise InvalidAction("this task has no tools: answer with a message")
        if len(calls) > _MAX_CALLS:
            raise InvalidAction(f"a message calls at most {_MAX_CALLS} tools")
        before = sum(len(each.tool_calls or ()) for each in self._state.history_messages)
        return [
            ToolCall(
                self._tokenizer.clean(call.name),
                self._cleaned_data(call.arguments),
                self._tokenizer.clean(call.id) or f"call{number:05}",
            )
            for number, call in enumerate(calls, before + 1)
        ]

    async def _score(
        self, task: Task, history: Sequence[Message], turn: int
    ) -> tuple[float, dict[str, float | None]]:
        """Return the score of the last message, 0 to 1, and what it is made of."""
        rubric = task.scorer
        seed = self._rng.getrandbits(31) if task.is_judged else 0
        scored = await rubric.score_async(
            text=history[-1].text,
            messages=msgspec.to_builtins(history),
            calls=sum(len(each.tool_calls or ()) for each in history),
            turn=turn,
            last=turn >= self._state.max_turns,
            ask=self._judged.asking(seed) if self._judged is not None else None,
        )
        score = min(1.0, max(0.0, scored.value))
        below = {f"score.{name}": value for name, value in [*scored.parts.items()][1:]}
        return score, {"score": score, **below}

    async def _replies(
        self, task: Task, history: list[Message], turn: int, problem: str | None
    ) -> list[Message]:
        """Return what follows the agent's last message."""
        if problem is not None:
            return [Message("user", self._tokenizer.clean(problem))]
        if calls := history[-1].tool_calls:
            by_name = {tool.name: tool for tool in task.tools}
            replies = []
            for call in calls:
                tool = by_name.get(call.name)
                if tool is None:
                    result = f"Error: there is no tool {call.name!r:.80}: {', '.join(by_name)}."
                else:
                    result = await tool.result(call)
                result = self._tokenizer.clean(result)
                replies.append(Message("tool", result, None, call.id, call.name))
            return replies
        return [Message("user", await self._respond(task, history, turn))]

    async def _respond(self, task: Task, messages: list[Message], turn: int) -> str:
        text = messages[-1].text
        if self._responder is None:
            response = task.partner(text, turn) if task.partner else "That is not it. Try again."
        else:
            swapped = {"user": "assistant", "assistant": "user"}
            # The task itself is told to the responder; the conversation begins with the agent.
            spoken = [each for each in messages[self._opened :] if each.role in swapped]
            reply = await self._responder.respond(
                [
                    {"role": "system", "content": _ROLE.format(prompt=task.question.text)},
                    *({"role": swapped[m.role], "content": m.content} for m in spoken),
                ],
                max_tokens=self._max_reply,
                seed=self._rng.getrandbits(31),
            )
            response = reply.text
        return self._tokenizer.clean(response).strip()

    def _seen(
        self,
        messages: Sequence[Message],
        tokens: Sequence[int],
        following: list[int],
        *,
        score: float = 0.0,
        solved: bool = False,
        tools: Sequence[dict[str, Any]] = (),
    ) -> ChatObservation:
        """Return an observation of the state.

        Args:
            messages, tokens: those that are new.
            following: the new tokens that are not the agent's.
        """
        state = self._state
        heard = [each.text for each in messages if each.role in ("user", "tool")]
        if state.turns == 0:
            heard = heard[-1:]
        return ChatObservation(
            state.history_messages if self._sends_all else list(messages),
            state.history_tokens if self._sends_all else list(tokens),
            "\n".join(heard),
            following,
            score,
            solved,
            0 if solved else state.max_turns - state.turns,
            list(tools),
        )


def _tasks(source: str | Sequence[Task] | None) -> Sequence[Task]:
    if isinstance(source, str):
        return load_tasks(source)
    return source or builtin_tasks()


def _tokenizer(name: str | None) -> ChatTokenizer:
    return load_tokenizer(name or _variable("CHAT_TOKENIZER", "TOKENIZER_NAME") or BUNDLED)


def _names_tool(text: str) -> bool:
    """Return whether a text is nothing but a call as JSON, as Llama's models write it."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}") and '"name"' in text):
        return False
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("arguments", row.get("parameters")), dict)


def _call(text: str) -> ToolCall:
    """Return the call that is written as JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"it is not JSON ({exc})") from None
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise ValueError('it is an object with "name" and "arguments"')
    arguments = row.get("arguments", row.get("parameters", {}))
    if not isinstance(arguments, dict):
        raise ValueError("its arguments are an object")
    return ToolCall(row["name"], arguments)


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise InvalidOption(f"{name} is {' or '.join(known)}, got {value!r:.80}", option=name)
    return value


def _variable(*names: str) -> str | None:
    """The first of the environment variables that is set."""
    return next((value for name in names if (value := os.environ.get(name))), None)


def _count(name: str, given: int | None, variable: str, default: int) -> int:
    if given is not None:
        return _at_least_one(name, given)
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        return _at_least_one(variable, int(text))
    except ValueError:
        raise InvalidOption(
            f"{variable} must be a whole number of 1 or more, got {text!r}"
        ) from None


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise InvalidOption(f"{name} must be at least 1, got {value}", option=name)
    return value
