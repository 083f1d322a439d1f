"""An example policy: a library of small functions, tried on the examples that the prompt shows.

It solves nothing that is not in its library: a floor for what a model has to beat.
"""

from __future__ import annotations

import re
from typing import Any, Final

from coding_env.models import CodeAction, CodeObservation
from openenv_async.rollouts import Turn

__all__ = ["SnippetPolicy"]

_LIBRARY: Final = """
def _sorted(a): return sorted(a)
def _same(a): return a
def _length(a): return len(a)
def _reversed(a): return a[::-1]
def _total(a): return sum(a)
def _largest(a): return max(a)
def _distinct(a): return len(set(a))
def _vowels(a): return sum(c in "aeiouAEIOU" for c in a)
def _palindrome(a):
    a = [c.lower() for c in a if c.isalnum()]
    return a == a[::-1]
def _runs(a):
    import itertools
    return [[k, len(list(g))] for k, g in itertools.groupby(a)]
def _cumulative(a):
    import itertools
    return list(itertools.accumulate(a))
def _cumulative_max(a):
    import itertools
    return list(itertools.accumulate(a, max))
def _flat(a): return [x for row in a for x in row]
def _digits(a, b):
    s = 0
    while a: a, d = divmod(a, b); s += d
    return s
def _distance(a, b): return sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b))
def _quotient(a, b): return a // b
def _product(a, b): return a * b
"""
_SEARCH: Final = """
import re
namespace = {}
exec(library, namespace)
pairs = re.findall(r"^>>> \\w+\\((.*)\\)\\n(.*)$", prompt, re.M)
def score(function):
    right = 0
    for arguments, result in pairs:
        try:
            right += function(*eval(f"({arguments},)")) == eval(result)
        except Exception:
            pass
    return right
names = [n for n in namespace if n.startswith("_") and n != "__builtins__"]
print(max(names, key=lambda n: score(namespace[n])))
"""


class SnippetPolicy:
    """Looks for the function that fits the examples best, in the sandbox; then submits it."""

    def __init__(self) -> None:
        self.library = _LIBRARY

    def __call__(self, observation: CodeObservation | dict[str, Any], turn: Turn) -> CodeAction:
        """The search first, then its find as the solution."""
        if isinstance(observation, dict):  # of a client without types
            observation = CodeObservation(**observation)
        if turn.t == 0:
            self_contained = f"library = {self.library!r}\nprompt = {observation.prompt!r}\n"
            name = re.search(r"^def (\w+)", observation.prompt, re.MULTILINE)
            wanted = name[1] if name else ""
            return CodeAction(f"{self_contained}{_SEARCH}print({wanted!r})")
        found, _, wanted = observation.stdout.strip().partition("\n")
        return CodeAction(f"{self.library}\n{wanted} = {found}\n", submit=True)
