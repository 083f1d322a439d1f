"""Questions from inside sandboxes to language models outside: ``llm_query`` and ``rlm_query``.

Rules:

- Requests come from untrusted code: each is checked, counted and bounded. All REPLs of an episode
  have one ``LanguageModel``, and its budgets of calls, tokens and children are the episode's.
- A question has a path: its number among those of its REPL, after the path of the child that asks.
  From it, and the episode's seed, comes the question's own seed, whatever runs beside it.
- A fault of a question is told to the code that asked. A fault of the model's server is nobody's
  inside: ``check`` raises it, and the step does not count.
- The token budget counts what the responder tells, and four bytes as a token where it tells
  nothing. Questions that are under way when it runs out are still answered.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from openenv_async.errors import InvalidOption, OpenEnvError
from openenv_async.responders import Message, Reply, Responder
from repl_env.models import ModelCall

__all__ = ["Budgets", "LanguageModel", "Node", "OpenChild", "Path"]

Path = tuple[int, ...]
OpenChild = Callable[["Node", str, Any], Awaitable[tuple[str, int]]]
"""A function that runs a child for a prompt and a context: its answer, and its turns."""

_MAX_PROMPT_SIZE: Final = 1 << 20
_CHILDREN: Final = 4
"""Children of one batch that are open at once."""
_REFUSALS: Final = (400, 413, 422)
"""HTTP status of answers that find fault with the question, such as a prompt that is too long."""
_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits of an episode, over all its REPLs.

    Attributes:
        calls: of the model, the turns of children included.
        tokens: of prompts and replies; ``None``: any.
        reply_tokens: of each reply.
        children: that are opened.
        concurrency: calls at once.
        shown: characters of prompts and replies that the trace keeps.
    """

    calls: int
    tokens: int | None
    reply_tokens: int | None
    children: int
    concurrency: int
    shown: int


class LanguageModel:
    """The models of one session, and what its episode has asked them.

    Args:
        models: by name; the one called ``""`` answers where none is named.
        budgets: of each episode.

    Attributes:
        calls, tokens: of the episode so far.
        trace: of the episode so far, in the order in which calls ended.
    """

    def __init__(self, models: Mapping[str, Responder], budgets: Budgets) -> None:
        self.calls = self.tokens = self.children = 0
        self.trace: list[ModelCall] = []
        self.max_depth = 1
        self._models, self._budgets = models, budgets
        self._seed = 0
        self._failure: OpenEnvError | None = None
        self._places = asyncio.Semaphore(budgets.concurrency)

    def begin(self, seed: int, max_depth: int) -> None:
        """A new episode."""
        self.calls = self.tokens = self.children = 0
        self.trace = []
        self.max_depth, self._seed, self._failure = max_depth, seed, None
        self._places = asyncio.Semaphore(self._budgets.concurrency)

    def check(self) -> None:
        """Raise what kept a model from answering, if something did: the code is not at fault.

        Raises:
            ResponderFailed, DeadlineExceeded, EnvironmentDied: as it was raised.
        """
        if self._failure is not None:
            raise self._failure

    def forget(self) -> None:
        """Let the next step begin without the failure of the one before."""
        self._failure = None

    def failed(self, error: OpenEnvError) -> None:
        """Keep what nobody inside is to blame for."""
        self._failure = self._failure or error

    def seed(self, path: Path) -> int:
        """The seed of a question, or of a child."""
        return random.Random(f"{self._seed}/{'/'.join(map(str, path))}").getrandbits(31)

    def named(self, model: str | None) -> str:
        """Return the name of a model that there is.

        Raises:
            InvalidOption, TypeError: there is none of that name.
        """
        if not (model is None or isinstance(model, str)):
            raise TypeError(f"model is a str, not a {type(model).__name__}")
        if not self._models:
            raise InvalidOption("there is no model to ask: serve with a responder")
        if (name := model or "") not in self._models:
            known = ", ".join(repr(each) for each in self._models if each) or "none by name"
            raise InvalidOption(f"there is no model {name!r:.80}: this server has {known}")
        return name

    def take_calls(self, count: int) -> None:
        """Count questions that are about to be asked.

        Raises:
            RuntimeError: there are not so many left.
        """
        budgets = self._budgets
        if self.calls + count > budgets.calls:
            raise RuntimeError(f"the episode's {budgets.calls} questions are used up")
        self._check_tokens()
        self.calls += count

    def take_children(self, count: int) -> None:
        """Count children that are about to be opened.

        Raises:
            RuntimeError: there are not so many left.
        """
        if self.children + count > self._budgets.children:
            raise RuntimeError(f"the episode's {self._budgets.children} children are used up")
        self._check_tokens()
        self.children += count

    def _check_tokens(self) -> int | None:
        """Return the tokens that are left; ``None``: any.

        Raises:
            RuntimeError: there are none.
        """
        if self._budgets.tokens is None:
            return None
        left = self._budgets.tokens - self.tokens
        if left <= 0:
            raise RuntimeError(f"the episode's {self._budgets.tokens} tokens are used up")
        return left

    async def reply(self, messages: Sequence[Message], path: Path, kind: str, model: str) -> str:
        """Ask, and keep what was asked and said. The call is counted already."""
        begun = time.monotonic()
        reply: Reply | None = None
        error = ""
        try:
            async with self._places:
                left = self._check_tokens()
                most = [n for n in (self._budgets.reply_tokens, left) if n is not None]
                reply = await self._models[model].respond(
                    messages, max_tokens=min(most) if most else None, seed=self.seed(path)
                )
            self.tokens += _cost(messages, reply)
            return reply.text
        except BaseException as exc:
            error = f"{type(exc).__name__}: {exc}"
            raise
        finally:
            usage = reply.usage if reply is not None else None
            call = ModelCall(
                path=_written(path),
                kind=kind,
                depth=len(path) - 1,
                model=model,
                prompt=self._shown(str(messages[-1]["content"])),
                reply=self._shown(reply.text) if reply is not None else "",
                prompt_tokens=usage.prompt_tokens if usage is not None else None,
                completion_tokens=usage.completion_tokens if usage is not None else None,
                error=self._shown(error),
                seconds=time.monotonic() - begun,
            )
            self.trace.append(call)

    def note_child(
        self, path: Path, model: str, prompt: str, answer: str, steps: int, error: str, since: float
    ) -> None:
        """Keep what became of a child."""
        call = ModelCall(
            path=_written(path),
            kind="rlm",
            depth=len(path) - 1,
            model=model,
            prompt=self._shown(prompt),
            reply=self._shown(answer),
            iterations=steps,
            error=self._shown(error),
            seconds=time.monotonic() - since,
        )
        self.trace.append(call)

    def _shown(self, text: str) -> str:
        most = self._budgets.shown
        return text if len(text) <= most else f"{text[:most]}…"


class Node:
    """One REPL of an episode: the answers to what its code asks.

    Args:
        model: of the session.
        path: of the child that it is; empty: the episode's own.
        name: of the model that answers where its code names none.
        open_child: runs a child.
    """

    def __init__(self, model: LanguageModel, path: Path, name: str, open_child: OpenChild) -> None:
        self.model, self.path, self.name = model, path, name
        self._open_child = open_child
        self._next = 0

    def number(self, count: int = 1) -> list[Path]:
        """The paths of the next questions."""
        first, self._next = self._next, self._next + count
        return [(*self.path, first + i) for i in range(count)]

    async def llm(self, *args: Any) -> list[tuple[bool, str]]:
        """``llm_query_batched(prompts, model)``."""
        prompts = _prompts(args[0] if args else None)
        name = self.model.named(_given(args, 1) or self.name)
        return await self._llm(prompts, name)

    async def _llm(self, prompts: Sequence[str], name: str) -> list[tuple[bool, str]]:
        self.model.take_calls(len(prompts))

        async def one(path: Path, prompt: str) -> str:
            messages = [{"role": "user", "content": prompt}]
            return await self.model.reply(messages, path, "llm", name)

        paths = self.number(len(prompts))
        return await self._all([partial(one, *each) for each in zip(paths, prompts, strict=True)])

    async def rlm(self, *args: Any) -> list[tuple[bool, str]]:
        """``rlm_query_batched(prompts, model, contexts)``; ``llm_query`` at the greatest depth."""
        prompts = _prompts(args[0] if args else None)
        name = self.model.named(_given(args, 1) or self.name)
        contexts = _given(args, 2)
        if contexts is None:
            contexts = [None] * len(prompts)
        if not isinstance(contexts, list) or len(contexts) != len(prompts):
            raise TypeError("contexts is a list, one for each prompt")
        if len(self.path) + 1 >= self.model.max_depth:
            return await self._llm(_prompts([*map(_joined, prompts, contexts)]), name)
        self.model.take_children(len(prompts))
        places = asyncio.Semaphore(_CHILDREN)

        async def one(path: Path, prompt: str, context: Any) -> str:
            async with places:
                return await self._child(path, name, prompt, context)

        each = zip(self.number(len(prompts)), prompts, contexts, strict=True)
        return await self._all([partial(one, *given) for given in each])

    async def _child(self, path: Path, name: str, prompt: str, context: Any) -> str:
        since = time.monotonic()
        answer, steps, error = "", 0, ""
        try:
            child = Node(self.model, path, name, self._open_child)
            answer, steps = await self._open_child(child, prompt, context)
            return answer
        except BaseException as exc:
            error = f"{type(exc).__name__}: {exc}"
            raise
        finally:
            self.model.note_child(path, name, prompt, answer, steps, error, since)

    async def _all(
        self, questions: Sequence[Callable[[], Awaitable[str]]]
    ) -> list[tuple[bool, str]]:
        """Wait for all: each is answered, or at fault; what is nobody's fault inside ends them."""

        async def one(question: Callable[[], Awaitable[str]]) -> tuple[bool, str]:
            try:
                return True, await question()
            except OpenEnvError as exc:
                if exc.detail.get("status") not in _REFUSALS:
                    self.model.failed(exc)
                    raise
                return False, f"{type(exc).__name__}: {exc}"
            except RuntimeError as exc:  # a budget is used up, or a child found nothing
                return False, str(exc)
            except Exception as exc:  # of the responder: the code that asked is told
                return False, f"{type(exc).__name__}: {exc}"

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(each)) for each in questions]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # one is enough for the code to know
        return [task.result() for task in tasks]


def _given(args: Sequence[Any], place: int) -> Any:
    return args[place] if len(args) > place else None


def _prompts(given: Any) -> list[str]:
    """Return prompts that code gave.

    Raises:
        TypeError, ValueError: they are not prompts.
    """
    if not isinstance(given, list):
        raise TypeError(f"prompts are a list of str, not a {type(given).__name__}")
    for prompt in given:
        if not isinstance(prompt, str):
            raise TypeError(f"a prompt is a str, not a {type(prompt).__name__}")
        if len(prompt) > _MAX_PROMPT_SIZE:
            raise ValueError(f"a prompt has at most {_MAX_PROMPT_SIZE} characters")
    return given


def _joined(prompt: str, context: Any) -> str:
    return prompt if context is None else f"{prompt}\n\n{context}"


def _written(path: Path) -> str:
    return ".".join(map(str, path))


def _cost(messages: Sequence[Message], reply: Reply) -> int:
    if reply.usage is not None:
        return reply.usage.prompt_tokens + reply.usage.completion_tokens
    texts = [*(str(message["content"]) for message in messages), reply.text]
    return sum(-(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN) for text in texts)
