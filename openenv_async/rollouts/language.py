"""Policies that ask a language model for each action.

Rules:

- Each episode has a conversation of its own: observations are the user's messages, or the results
  of the tools that were called; replies are the actions.
- A reply that calls several tools is several actions, played one after the other; the model is
  asked again when all have their results.
- A mistake (``turn.mistake``) is told in place of an observation, and the model is asked again.
- Each call of the model is recorded (``turn.model_calls``), also one that failed. A failure for
  good is the policy's error, and costs this episode only.
- The seed of a call follows from the policy's seed, the episode's index, the step and how often
  the model was asked in it: a run that is played again asks the same.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Final, Self

from openenv_async.client.server_info import fetch_schema
from openenv_async.errors import InvalidModel, UnreadableReply, error_text
from openenv_async.models import PayloadCodec, json_schema
from openenv_async.models.observed import content_of
from openenv_async.responders.base import Message, takes_tools
from openenv_async.rollouts.policies import Turn, takes_turn
from openenv_async.rollouts.run_facts import policy_facts
from openenv_async.rollouts.tools import ActionTools
from openenv_async.types import ModelCall

__all__ = ["LanguagePolicy", "ResponderPolicy"]

_UNTYPED: Final = (None, Any, dict)
_WITH_TOOLS: Final = (
    "You act in an environment. Answer every observation by calling one of the tools: each call is"
    " one action."
)
_WITHOUT_TOOLS: Final = (
    "You act in an environment. Answer every observation with one action, as JSON that fits this"
    " schema:\n{schema}"
)
_CALLS_AS_TEXT: Final = (
    "You act in an environment. Answer every observation by calling one of these tools: write"
    ' {{"name": …, "arguments": {{…}}}} as JSON.\n{tools}'
)


class LanguagePolicy:
    """A policy that plays an episode as a conversation with a language model.

    The model's tools are made of the environment's action: one tool for each member of a union,
    or one tool ``act``. A model that calls no tool may write its action as JSON. A reply without an
    action, and an action that is refused, is told to the model; see ``on_mistake`` of ``rollout``.

    Args:
        responder: has ``async respond(messages, *, max_tokens, temperature, seed, stop)``, which
            gives something with a ``text``; one that takes ``tools`` as well is offered them. See
            ``openenv_async.responders``, which has one for endpoints.
        action: type of the environment's action, or its JSON Schema
            (``(await fetch_schema(url))["action"]``).
        action_type: actions are made of this type; by default ``action``, where it is a type.
        tools: offered in place of those made of the action, as OpenAI's API has them; an empty list
            offers none.
        tool_choice: ``auto``, ``required``, or one tool, as the API has it.
        parser: what turns a reply's text into an action; no tools are offered then. A
            ``ValueError`` or ``LookupError`` of it says that the text has none.
        system: first message of every conversation; by default it says how to act. ``""``: none.
        prompt: what turns an observation, or observation and turn, into the content of the message
            that tells it: a text or content blocks. By default see ``content_of``.
        max_turns: replies of the model kept with what they answer, the latest, and the observation;
            all when ``None``.
        seed: of sampling; each call has its own made of it.
        max_tokens, temperature, stop: of each reply.
    """

    corrects_mistakes: Final = True

    def __init__(
        self,
        responder: Any,
        action: Any = None,
        *,
        action_type: Any = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        parser: Callable[[str], Any] | None = None,
        system: str | None = None,
        prompt: Callable[..., Any] | None = None,
        max_turns: int | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
    ) -> None:
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, got {max_turns}")
        if not callable(getattr(responder, "respond", None)):
            raise TypeError(
                f"a language policy asks a responder, which has respond(): got {responder!r:.100};"
                " see load_responder and OpenAIResponder"
            )
        for name, function in (("prompt", prompt), ("parser", parser)):
            if inspect.iscoroutinefunction(function):
                raise TypeError(
                    f"{name} must give its value at once, got the async function"
                    f" {function.__qualname__}: have the responder do what is to be awaited"
                )
        if parser is not None and tools:
            raise ValueError("give tools or a parser of texts, not both")
        schema = _schema_of(action)
        if action_type is None and not isinstance(action, Mapping):
            action_type = action
        self.responder = responder
        self._tools = ActionTools(schema, tools)
        self._parser = parser
        offered = parser is None and tools != [] and takes_tools(responder)
        self._offered = self._tools.schemas if offered else []
        self._tool_choice = tool_choice
        self._typed: PayloadCodec[Any] | None = (
            None if _is_untyped(action_type) else PayloadCodec(action_type, "json")
        )
        self._plain: PayloadCodec[Any] = PayloadCodec(Any, "json")
        self._prompt_given = prompt
        self._prompt = _of_turn(prompt or content_of)
        if system is None:
            system = self._told_how()
        self._first: list[Message] = [{"role": "system", "content": system}] if system else []
        self._max_turns = max_turns
        self._seed = seed
        self._options = {"max_tokens": max_tokens, "temperature": temperature, "stop": stop}

    @classmethod
    async def for_client(cls, client: Any, responder: Any, **options: Any) -> Self:
        """Return a policy for a client: with its server's schema and its action type."""
        schema = await fetch_schema(client.base_url, token=client.settings.token)
        options.setdefault("action_type", client.instance_types()[0])
        return cls(responder, schema["action"], **options)

    def for_episode(self, index: int) -> Callable[[Any, Turn], Coroutine[Any, Any, Any]]:
        """Return the policy of one episode, with a conversation of its own."""
        return _Conversation(self, index).decide

    def __call__(self, observation: Any, turn: Turn) -> Coroutine[Any, Any, Any]:
        """Return one action without a conversation."""
        return self.for_episode(turn.index)(observation, turn)

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other policies, for the manifest of a run."""
        named = {"prompt": self._prompt_given, "parser": self._parser}
        return {
            "responder": policy_facts(self.responder),
            "system": self._first[0]["content"] if self._first else None,
            "tools": self._offered,
            "tool_choice": self._tool_choice,
            "max_turns": self._max_turns,
            "seed": self._seed,
            **self._options,
            **{name: policy_facts(each) for name, each in named.items() if each is not None},
        }

    async def aclose(self) -> None:
        """Close the responder."""
        await self.responder.aclose()

    def _told_how(self) -> str:
        """Return the system message that says how to act."""
        if self._parser is not None:
            return ""
        if self._offered:
            return _WITH_TOOLS
        names = self._tools.names
        if names and names != ["act"]:
            functions = [tool["function"] for tool in self._tools.schemas]
            return _CALLS_AS_TEXT.format(tools="\n".join(map(_json, functions)))
        schema = self._tools.schema
        return "" if schema is None else _WITHOUT_TOOLS.format(schema=_json(schema))

    def _made(self, value: Any) -> Any:
        """Return an action of the type that is wanted."""
        if self._typed is None:
            return value
        try:
            return self._typed.decode(self._plain.encode(value))
        except InvalidModel as exc:
            raise UnreadableReply(f"this is not a valid action: {exc.message}") from exc

    def _of_text(self, text: str) -> Any:
        if self._parser is None:
            return self._tools.of_text(text)
        try:
            return self._parser(text)
        except UnreadableReply:
            raise
        except (ValueError, LookupError) as exc:
            raise UnreadableReply(f"no action can be read from this: {error_text(exc)}") from exc

    def _seed_of(self, index: int, t: int, asked: int) -> int | None:
        if self._seed is None:
            return None
        text = f"{self._seed}/{index}/{t}/{asked}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) & 0x7FFFFFFF


class _Conversation:
    """The conversation of one episode."""

    def __init__(self, policy: LanguagePolicy, index: int) -> None:
        self._policy = policy
        self._index = index
        self._turns: list[list[Message]] = []  # each ends with what the model said
        self._new: list[Message] = []  # what it has not read yet
        self._left: deque[Mapping[str, Any]] = deque()  # its calls of tools that are to be played
        self._played: Mapping[str, Any] | None = None  # the one whose result is waited for
        self._sent: list[Message] | None = None  # the prompt of the last call, with its reply
        self._asked = (-1, 0)  # the step, and how often the model was asked in it

    async def decide(self, observation: Any, turn: Turn) -> Any:
        """Return the next action."""
        self._tell(observation, turn)
        if not self._left:
            text = await self._ask(turn)
            if not self._left:
                self._played = None
                return self._read(self._policy._of_text, text, text)
        self._played = call = self._left.popleft()
        return self._read(self._policy._tools.of_call, call, _json(call.get("function")))

    def _read(self, read: Callable[[Any], Any], said: Any, reply: str) -> Any:
        """Return the action in what the model said.

        Raises:
            UnreadableReply: there is none; it has the reply.
        """
        try:
            return self._policy._made(read(said))
        except UnreadableReply as exc:
            exc.detail.setdefault("reply", reply)
            raise

    def _tell(self, observation: Any, turn: Turn) -> None:
        """Add what came of the last action."""
        mistake = turn.mistake
        if mistake is None:
            content = self._policy._prompt(observation, turn)
        else:
            content = f"{mistake.message}\nNothing was done: choose again."
        if self._played is None:
            self._new.append({"role": "user", "content": content})
            return
        # A tool's result is text: pictures follow as the user's.
        pictures: list[Any] = []
        if not isinstance(content, str):
            pictures = [block for block in content if block.get("type") != "text"]
            content = "\n".join(block["text"] for block in content if block.get("type") == "text")
        called = {"role": "tool", "tool_call_id": self._played["id"], "content": content}
        self._new.append(called)
        if pictures:
            self._new.append({"role": "user", "content": pictures})

    async def _ask(self, turn: Turn) -> str:
        """Ask the model; return its text, and keep the tools that it calls."""
        policy = self._policy
        # Results of several tools come first, then the pictures that came with them.
        new = sorted(self._new, key=lambda message: message["role"] != "tool")
        if policy._max_turns is not None:
            del self._turns[: max(0, len(self._turns) + 1 - policy._max_turns)]
        said = [message for turns in self._turns for message in turns]
        messages = [*policy._first, *_answered(said + new)]
        options: dict[str, Any] = dict(policy._options)
        if policy._offered:
            options["tools"] = policy._offered
            if policy._tool_choice is not None:
                options["tool_choice"] = policy._tool_choice
        asked = self._asked[1] + 1 if self._asked[0] == turn.t else 0
        self._asked = (turn.t, asked)
        options["seed"] = policy._seed_of(self._index, turn.t, asked)
        call = self._call(messages)
        turn.model_calls.append(call)
        begun = time.perf_counter()
        try:
            reply = await policy.responder.respond(messages, **options)
        except BaseException as exc:
            call.error = error_text(exc) or type(exc).__name__
            call.extra.update(getattr(exc, "detail", {}))
            raise
        finally:
            call.seconds = time.perf_counter() - begun
        _note(call, reply)
        queue = getattr(reply, "queue_seconds", 0.0)
        timings = turn.timings
        timings["queue"] = timings.get("queue", 0.0) + queue
        timings["model"] = timings.get("model", 0.0) + call.seconds - queue
        message = call.reply
        assert message is not None
        self._sent = [*messages, message]
        self._turns.append([*new, message])
        self._new = []
        self._left.extend(message.get("tool_calls") or ())
        return str(reply.text)

    def _call(self, messages: list[Message]) -> ModelCall:
        """Return the record of a call: with the messages that no earlier one had sent."""
        sent = self._sent
        if sent is not None and messages[: len(sent)] == sent:
            return ModelCall(messages=messages[len(sent) :], continues=True)
        return ModelCall(messages=list(messages), continues=False)


class ResponderPolicy(LanguagePolicy):
    """A ``LanguagePolicy`` whose actions are read from texts by a function.

    Args:
        responder: as ``LanguagePolicy`` has it.
        to_action: the ``parser``.
        system: first message of every conversation.
        to_text: the ``prompt``.
        options: further arguments of ``LanguagePolicy``.
    """

    def __init__(
        self,
        responder: Any,
        to_action: Callable[[str], Any],
        *,
        system: str | None = None,
        to_text: Callable[[Any], str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            responder, parser=to_action, system=system or "", prompt=to_text, **options
        )


def _note(call: ModelCall, reply: Any) -> None:
    """Write into a call's record what the model said, as far as the responder tells."""
    message = getattr(reply, "message", None)
    call.reply = message or {"role": "assistant", "content": reply.text}
    for name in ("prompt_ids", "completion_ids", "logprobs", "finish_reason", "model"):
        setattr(call, name, getattr(reply, name, None))
    call.weight_version = getattr(reply, "weight_version", None)
    call.extra.update(getattr(reply, "extra", None) or {})
    usage = getattr(reply, "usage", None)
    if usage is not None:
        call.extra["usage"] = asdict(usage) if is_dataclass(usage) else usage  # type: ignore[arg-type]


def _answered(messages: list[Message]) -> list[Message]:
    """Return messages without results of tools whose call is not among them: the user tells those.

    Servers refuse them, and a window may begin behind the call.
    """
    known: set[Any] = set()
    made: list[Message] = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            known.add(call["id"])
        if message["role"] == "tool" and message["tool_call_id"] not in known:
            message = {"role": "user", "content": message["content"]}
        made.append(message)
    return made


def _schema_of(action: Any) -> Mapping[str, Any] | None:
    if isinstance(action, Mapping):
        return action
    return None if _is_untyped(action) else json_schema(action)


def _is_untyped(action_type: Any) -> bool:
    return action_type in _UNTYPED or getattr(action_type, "__origin__", None) is dict


def _of_turn(prompt: Callable[..., Any]) -> Callable[[Any, Turn], Any]:
    if takes_turn(prompt):
        return prompt
    return lambda observation, turn: prompt(observation)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
