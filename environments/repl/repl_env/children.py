"""Children of ``rlm_query``: a language model that works in a REPL of its own until it answers."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final

from coding_env.sandbox import Execution

from openenv_async.responders import Message
from repl_env.language import Node
from repl_env.repl import Repl, Settings

__all__ = ["Children"]

_SYSTEM: Final = """\
You answer a question with the help of a Python REPL. Write code in one block:

```python
print(len(context))
```

It is run and you are told what it printed; variables stay. There are
- context: what the question is about;
- llm_query(prompt) and llm_query_batched(prompts): ask a language model;
- rlm_query(prompt, context=...): let another one answer with a REPL of its own;
- FINAL(value): call it in code, or write it on a line of its own, to give your answer. \
FINAL_VAR("name") gives the value of a variable."""
_FENCE: Final = re.compile(r"^```[\w+-]*[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_SHOWN: Final = 2_000
"""Characters of either end of a long question that the first message shows."""
_PREVIEW: Final = 500
_CODE_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Children:
    """The settings of children, and the run of one.

    Attributes:
        settings: of their interpreters.
        max_iterations: turns of each, at most.
        timeout: seconds that each may take.
    """

    settings: Settings
    max_iterations: int
    timeout: float

    async def open(self, node: Node, prompt: str, context: Any) -> tuple[str, int]:
        """Run a child until it answers.

        Args:
            node: answers what its code asks.
            prompt: the question.
            context: its variable; ``None``: the question itself.

        Returns:
            Its answer, and how many turns it took.

        Raises:
            RuntimeError: it gave no answer, or a budget is used up.
            OpenEnvError: its model or interpreter failed, through no fault of its own.
        """
        repl = Repl(self.settings, node)
        try:
            async with asyncio.timeout(self.timeout) as deadline:
                await repl.begin(node.model.seed(node.path), prompt if context is None else context)
                return await self._converse(repl, node, prompt, context)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise RuntimeError(f"the child gave no answer in {self.timeout:g} s") from None
        finally:
            await repl.aclose()

    async def _converse(self, repl: Repl, node: Node, prompt: str, context: Any) -> tuple[str, int]:
        model = node.model
        messages: list[Message] = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _first(prompt, context)},
        ]
        for turn in range(1, self.max_iterations + 1):
            model.take_calls(1)
            [path] = node.number()
            said = await model.reply(messages, path, "turn", node.name)
            code = "\n".join(_FENCE.findall(said))
            execution = await repl.run(code, _CODE_TIMEOUT)
            model.check()
            if repl.answer is None and not execution.restarted:
                repl.answer = await repl.told(_FENCE.sub("", said))
            if repl.answer is not None:
                return repl.answer, turn
            messages += (
                {"role": "assistant", "content": said},
                {"role": "user", "content": _outcome(code, execution)},
            )
        raise RuntimeError(f"the child gave no answer in {self.max_iterations} turns")


def _first(prompt: str, context: Any) -> str:
    """The first message: the question, and what the context is."""
    text = context if isinstance(context, str) else repr(context)
    if context is None:
        text = prompt
        if len(prompt) > 2 * _SHOWN:
            prompt = f"{prompt[:_SHOWN]}\n[…: the whole is in context]\n{prompt[-_SHOWN:]}"
    kind = "str" if context is None else type(context).__name__
    about = f"The variable context is a {kind}, {len(text)} characters long."
    if context is not None:
        about += f" It begins:\n{text[:_PREVIEW]}"
    return f"{prompt}\n\n{about}"


def _outcome(code: str, execution: Execution) -> str:
    """The message that tells what code did."""
    if not code:
        return "There was no code. Write it in a block that begins with ```python, or call FINAL."
    parts = [execution.stdout, execution.stderr]
    if execution.value:
        parts.append(execution.value)
    if execution.restarted:
        parts.append(
            f"{execution.error_type}: the interpreter was replaced, its variables are gone"
        )
    return "\n".join(part.rstrip("\n") for part in parts if part) or "(it printed nothing)"
