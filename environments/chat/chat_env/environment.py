"""The environment: a task, a conversation about it, a score for every message.

The reward of a step is by how much its message beats the best one before it in the episode, so
that the return is the best score, 0 to 1, and nothing is gained by talking on. It comes from the
task's scorer alone. Solved (a score of 1): terminated. Out of turns: truncated.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Mapping
from typing import Any, Final

from chat_env.models import ChatAction, ChatObservation, ChatState, Message
from chat_env.tasks import SPLITS, Task, builtin_tasks, load_tasks, task_from
from chat_env.tokenizer import BUNDLED, ChatTokenizer, load_tokenizer
from openenv_async import Certification, Environment, StepResult, TaskTable
from openenv_async.errors import InvalidAction, InvalidOption
from openenv_async.responders import Responder, load_responder

__all__ = ["ChatEnvironment"]

_MAX_TOKENS: Final = 8_192
_MAX_CHARS: Final = 32_768
_SCRIPT: Final = "task"
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
        tasks: a JSON Lines file (``CHAT_TASKS``; the bundled ones).
        max_reply_tokens: of a responder's message (``CHAT_MAX_REPLY_TOKENS``; 64).
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
        tasks: str | None = None,
        max_reply_tokens: int | None = None,
        trust_clients: bool | None = None,
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
        self._tasks = load_tasks(path) if path else builtin_tasks()
        if responder is None:
            responder = _variable("CHAT_RESPONDER") or _SCRIPT
        self._responder: Responder | None = None
        if responder != _SCRIPT:
            self._responder = load_responder(responder) if isinstance(responder, str) else responder
        self._task: Task | None = None
        self._state = ChatState()
        self._rng = random.Random()

    @classmethod
    def tasks_for(cls, **params: Any) -> TaskTable:
        """The tasks that a reset may name, without what scores them."""

        def rows(split: str) -> list[dict[str, Any]]:
            path = params.get("tasks") or _variable("CHAT_TASKS")
            return [
                {"id": task.id, "task": task.id, "prompt": task.prompt}
                for task in (load_tasks(path) if path else builtin_tasks())
                if task.split == split
            ]

        return TaskTable({split: functools.partial(rows, split) for split in SPLITS})

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
        from chat_env.certification import certification

        return certification(**params)

    async def reset(
        self,
        seed: int | None = None,
        split: str = "train",
        kind: str | None = None,
        task: str | dict[str, Any] | None = None,
        system_prompt: str | None = None,
        max_turns: int | None = None,
    ) -> ChatObservation:
        """Begin a conversation.

        Args:
            seed: which of the tasks it is, and what the responder draws from.
            split: ``train`` or ``test``; of the tasks to draw from.
            kind: only tasks of this kind.
            task: this task: an id, or a whole one as data (see ``tasks.task_from``).
            system_prompt, max_turns: for this episode.
        """
        self._rng = random.Random(seed)
        chosen = self._chosen(split, kind, task)
        turns = chosen.max_turns or self._max_turns
        if max_turns is not None:
            turns = _at_least_one("max_turns", max_turns)
        clean = self._tokenizer.clean
        messages = [Message("user", clean(chosen.prompt))]
        for system in (system_prompt, chosen.system, self._system_prompt):
            if system is not None:
                if system:
                    messages.insert(0, Message("system", clean(system)))
                break
        tokens = self._tokenizer.opening(messages)
        self._task = chosen
        self._state = ChatState(
            chosen.id, chosen.kind, chosen.split, 0, turns, 0.0, messages, tokens
        )
        return self._seen(messages[-1].text, tokens)

    async def step(self, action: ChatAction) -> StepResult[ChatObservation]:
        state, task = self._state, self._task
        assert task is not None  # the engine refuses a step before a reset
        said, text = self._read(action)
        score = task.scorer(text)
        turn = state.turns + 1
        solved = score >= 1.0
        out = not solved and turn >= state.max_turns
        response: str | None = None
        if not (solved or out):
            # Before anything is noted: a responder that fails leaves the episode as it was.
            response = await self._respond(task, [*state.history_messages, _by_agent(text)], turn)
        replies = [] if response is None else [Message("user", response)]
        following = self._tokenizer.following(said, replies)
        reward = max(0.0, score - state.best_score)
        state.turns = turn
        state.best_score = max(state.best_score, score)
        state.history_messages = [*state.history_messages, _by_agent(text)]
        if response is not None:
            state.history_messages.append(Message("user", response))
        state.history_tokens = [*state.history_tokens, *said, *following]
        observation = self._seen(response or "", following, score, solved)
        info = {"task_id": task.id, "best_score": state.best_score}
        return StepResult(observation, reward, solved, out, info)

    async def state(self) -> ChatState:
        return self._state

    async def close(self) -> None:
        if self._responder is not None:
            await self._responder.aclose()

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
                },
                "oneOf": [{"required": ["tokens"]}, {"required": ["message"]}],
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

    def _read(self, action: ChatAction) -> tuple[list[int], str]:
        """An action as tokens and as text."""
        tokenizer = self._tokenizer
        if (action.tokens is None) == (action.message is None):
            raise InvalidAction("a chat action has either tokens or a message: give one of them")
        if action.message is not None:
            if len(action.message) > _MAX_CHARS:
                raise InvalidAction(f"a message has at most {_MAX_CHARS} characters")
            text = tokenizer.clean(action.message)
            return tokenizer.encode(text), text
        tokens = action.tokens or []
        if not 1 <= len(tokens) <= _MAX_TOKENS:
            raise InvalidAction(f"a chat action has 1 to {_MAX_TOKENS} tokens, got {len(tokens)}")
        if min(tokens) < 0 or max(tokens) >= tokenizer.size:
            raise InvalidAction(
                f"token ids of this server are 0 to {tokenizer.size - 1},"
                f" got {min(tokens)} to {max(tokens)}: use its tokenizer"
            )
        said = tokenizer.until_end(tokens)
        return said, tokenizer.clean(tokenizer.decode(said))

    async def _respond(self, task: Task, messages: list[Message], turn: int) -> str:
        text = messages[-1].text
        if self._responder is None:
            response = task.partner(text, turn) if task.partner else "That is not it. Try again."
        else:
            swapped = {"user": "assistant", "assistant": "user"}
            # The task itself is told to the responder; the conversation begins with the agent.
            spoken = [each for each in messages if each.role != "system"][1:]
            reply = await self._responder.respond(
                [
                    {"role": "system", "content": _ROLE.format(prompt=task.prompt)},
                    *({"role": swapped[m.role], "content": m.content} for m in spoken),
                ],
                max_tokens=self._max_reply,
                seed=self._rng.getrandbits(31),
            )
            response = reply.text
        return self._tokenizer.clean(response).strip()

    def _seen(
        self, response: str, following: list[int], score: float = 0.0, solved: bool = False
    ) -> ChatObservation:
        state = self._state
        return ChatObservation(
            state.history_messages,
            state.history_tokens,
            response,
            following,
            score,
            solved,
            0 if solved else state.max_turns - state.turns,
        )


def _tokenizer(name: str | None) -> ChatTokenizer:
    return load_tokenizer(name or _variable("CHAT_TOKENIZER", "TOKENIZER_NAME") or BUNDLED)


def _by_agent(text: str) -> Message:
    return Message("assistant", text)


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
