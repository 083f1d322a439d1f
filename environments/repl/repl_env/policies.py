"""An example policy: finds the lines that share most words with the question.

It answers with their number, their sum or the number in them: enough to look something up, not
to follow a chain or to compare.
"""

from __future__ import annotations

from typing import Any

from openenv_async.rollouts import Turn
from repl_env.models import REPLAction, REPLObservation

__all__ = ["GrepPolicy"]

_SEARCH = """
import re
words = lambda text: set(re.findall(r"\\w+", text))
lines = context.splitlines()
known = words(context) & words(question)
most = max((len(words(line) & known) for line in lines), default=0)
found = [line for line in lines if len(words(line) & known) == most]
print(*found[:5], sep="\\n")
"""
_ANSWER = """
numbers = [int(w) for line in found for w in re.findall(r"\\d+", line) if w not in known]
if "How many" in question:
    FINAL(len(found))
elif "total" in question:
    FINAL(sum(numbers))
else:
    FINAL(numbers[-1] if numbers else "")
"""


class GrepPolicy:
    """Two steps: search, answer."""

    def __call__(self, observation: REPLObservation | dict[str, Any], turn: Turn) -> REPLAction:
        """The next one."""
        if isinstance(observation, dict):  # of a client without types
            observation = REPLObservation(**observation)
        if turn.t == 0:
            return REPLAction(f"question = {observation.task_prompt!r}\n{_SEARCH}")
        return REPLAction(_ANSWER)
