"""A REPL: an interpreter with a context in it, and the final answer that its code gives.

The episode has one, and so has each child that ``rlm_query`` opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from coding_env.sandbox import Execution, Limits, Sandbox

from repl_env.answers import printed_answer

__all__ = ["Ask", "Repl", "Settings"]

_PRELUDE: Final = '''
def FINAL(value):
    """End the episode with this answer."""
    _final_answer(str(value))
    return f"FINAL({value})"

def FINAL_VAR(name):
    """End the episode with the value of the variable of this name."""
    return FINAL(globals()[name] if isinstance(name, str) else name)

def _asked(remote, *args):
    try:
        return remote(*args)
    except RuntimeError as failed:
        raise RuntimeError(str(failed).partition(": ")[2]) from None

def _only(answers):
    (good, text), = answers
    if not good:
        raise RuntimeError(text)
    return text

def _each(answers):
    return [text if good else f"Error: {text}" for good, text in answers]

def llm_query(prompt, model=None):
    """Ask a language model."""
    return _only(_asked(_llm, [prompt], model))

def llm_query_batched(prompts, model=None):
    """Ask several questions at once; answers in their order, "Error: ..." where there is none."""
    return _each(_asked(_llm, prompts, model))

def rlm_query(prompt, model=None, context=None):
    """Let a language model answer with a REPL of its own, whose variable context this one is."""
    return _only(_asked(_rlm, [prompt], model, [context]))

def rlm_query_batched(prompts, model=None, contexts=None):
    """Open several at once; answers in their order, "Error: ..." where there is none."""
    return _each(_asked(_rlm, prompts, model, contexts))
'''
"""Run in every new interpreter; what begins with ``_`` and is not made here, the server answers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of all REPLs of an episode.

    Attributes:
        limits: of each interpreter.
        packages: that code may import.
    """

    limits: Limits
    packages: tuple[str, ...]


class Ask(Protocol):
    """The answers to the questions of one REPL's code; ``language.Node`` gives them."""

    async def llm(self, *args: Any) -> list[tuple[bool, str]]:
        """Answers to prompts, each with whether it is one."""
        ...

    async def rlm(self, *args: Any) -> list[tuple[bool, str]]:
        """Answers of children, each with whether it is one."""
        ...


class Repl:
    """One interpreter, its context and its final answer.

    Args:
        settings: of the interpreter.
        ask: answers what its code asks; another may be set between steps.

    Attributes:
        answer: the final one; ``None`` until there is one.
        content: what ``answer["content"]`` holds.
        variables: of the namespace, each with the start of its repr.
    """

    def __init__(self, settings: Settings, ask: Ask) -> None:
        self.answer: str | None = None
        self.content = ""
        self.variables: dict[str, str] = {}
        self.ask = ask
        self._context: Any = ""
        self._sandbox = Sandbox(
            settings.limits,
            {
                "_llm": lambda *args: self.ask.llm(*args),
                "_rlm": lambda *args: self.ask.rlm(*args),
                "_final_answer": self._take_answer,
            },
            settings.packages,
        )

    @property
    def usable(self) -> bool:
        """True unless the interpreter was lost with a step that was cancelled."""
        return self._sandbox.usable

    async def begin(self, seed: int, context: Any) -> None:
        """Start a fresh interpreter with this context: text, or whatever JSON can say."""
        self.answer, self._context = None, context
        await self._sandbox.start(seed)
        await self._load()

    async def run(self, code: str, timeout: float) -> Execution:
        """Run code and look for a final answer.

        Raises:
            EnvironmentDied: the interpreter was lost, through no fault of the code.
        """
        execution = Execution()
        if code:
            execution = await self._sandbox.execute(code, timeout)
        if execution.restarted:
            await self._load()
            return execution
        found = await self._look()
        self.content = str(found.get("content", ""))
        if self.answer is None:
            self.answer = await self.told(execution.stdout)
        if self.answer is None and found.get("ready") == "True":
            self.answer = self.content
        return execution

    async def told(self, text: str) -> str | None:
        """The final answer in what was printed, or said; ``None``: there is none."""
        answer, variable = printed_answer(text)
        if variable:
            seen = await self._sandbox.variables((variable,))
            value = seen.reply.asked.get(variable) if seen.reply is not None else None
            answer = "" if value is None else str(value)
        return answer or None

    async def _load(self) -> None:
        """Put what every episode begins with into a new interpreter."""
        await self._sandbox.execute(_PRELUDE, hidden=True)
        values = {"context": self._context, "answer": {"content": "", "ready": False}}
        await self._sandbox.set(values)
        self.content = ""
        await self._look()

    async def _look(self) -> Mapping[str, str]:
        """Read the variables; gives ``answer`` as text."""
        seen = await self._sandbox.variables(("answer",))
        if seen.restarted or seen.reply is None:
            await self._load()
            return {}
        self.variables = seen.reply.variables
        found = seen.reply.asked.get("answer")
        return found if isinstance(found, dict) else {}

    async def _take_answer(self, *args: Any) -> None:
        if self.answer is None:
            self.answer = str(args[0]) if args else ""

    async def aclose(self) -> None:
        """End the interpreter. Idempotent."""
        await self._sandbox.aclose()
