"""Scripted policies: what the environment pays to skill, to chance and to cheats.

Each submits in its first or second step. The tables below are those of the certificate: ``SKILLS``
from the weakest to the strongest, ``CHEATS``, ``guess`` and ``oracle``.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from typing import Any, Final

from coding_env.models import CodeAction, CodeObservation
from coding_env.tasks import BUNDLED
from openenv_async import Certification
from openenv_async.rollouts import Turn

__all__ = [
    "CERTIFICATION",
    "CHEATS",
    "SKILLS",
    "SearchPolicy",
    "SnippetPolicy",
    "guess",
    "memorise",
    "oracle",
]

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
    while a > 0 and b > 1: a, d = divmod(a, b); s += d
    return s
def _distance(a, b): return sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b))
def _first_repeat(a): return next((x for i, x in enumerate(a) if x in a[:i]), None)
def _spiral(a):
    found = []
    while a: found += a[0]; a = [list(row) for row in zip(*a[1:])][::-1]
    return found
def _stretch(a):
    return max((j - i for i in range(len(a)) for j in range(i, len(a) + 1)
                if len({*a[i:j]}) == j - i), default=0)
def _reversed_words(a): return "-".join(a.split()[::-1])
def _run_names(a):
    import itertools
    return [f"{k}{len(list(g))}" for k, g in itertools.groupby(a)]
def _merged(a, b):
    import itertools
    pairs = itertools.zip_longest(a, b, fillvalue=None)
    return [x for pair in pairs for x in pair if x is not None]
def _quotient(a, b): return a // b
def _product(a, b): return a * b
def _multiples(a, k): return [x // k for x in a if x % k == 0]
def _moved(c, k): return chr((ord(c) - 97 + k) % 26 + 97) if "a" <= c <= "z" else c
def _shift(a, k): return "".join(_moved(c, k) for c in a)
def _each(a, k): return a[k - 1 :: k] + a[-1:]
def _long_runs(a, k): return [x for x in _run_names(a) if int(x[1:]) >= k]
"""
_PARAMETRIC: Final = """
def _powers(a, k): return sum(int(c) ** k for c in str(abs(a)))
def _apart(a, k): return [y - x for x, y in zip(a, a[k:])]
def _stretched(a, k): return "".join(c * (i % k + 1) for i, c in enumerate(a))
def _turned(a, k): return a[k % len(a) :] + a[: k % len(a)] if a else []
def _groups(a, k): return [sum(a[i : i + k]) for i in range(0, len(a), k)]
def _windows(a, k): return [max(a[i : i + k]) - min(a[i : i + k]) for i in range(len(a) - k + 1)]
def _based(a, k):
    text, n = "", abs(a)
    while n and k > 1: n, d = divmod(n, k); text = "0123456789abcdef"[d] + text
    return text or "0"
def _remainders(a, k): return sorted(a, key=lambda x: (x % k, x))
def _ring(a, k):
    ring, out, place = [*range(1, min(a, 999) + 1)], [], 0
    while ring: place = (place + k - 1) % len(ring); out.append(ring.pop(place))
    return out[-3:]
def _long_words(a, k): return "-".join(x for x in a.split()[::-1] if len(x) >= k)
def _below(a, k): return [min(x, k) for x in a if x]
def _clamped(a, k): return [max(-k, min(x, k)) for x in a if x]
def _automaton(a, b, k):
    for _ in range(b):
        ring = a[-1:] + a + a[:1]
        a = "".join(str(k >> int(ring[i : i + 3], 2) & 1) for i in range(len(a)))
    return a
def _dealt(a, b, k):
    return [x for i in range(0, max(len(a), len(b)), k) for side in (a, b) for x in side[i : i + k]]
"""
_SEARCH: Final = """
import re
namespace = {}
exec(library, namespace)
pairs = re.findall(r"^>>> \\w+\\((.*)\\)\\n(.*)$", prompt, re.M)
numbers = sorted({int(n) for n in re.findall(r"(?<![\\w.])\\d+", prompt.split(">>>")[0])}) or [1]
def score(function):
    right = 0
    for arguments, result in pairs:
        try:
            right += function(*eval(f"({arguments},)")) == eval(result)
        except Exception:
            pass
    return right
functions = {}
for name, function in namespace.items():
    if name.startswith("_") and name != "__builtins__":
        if "k" in function.__code__.co_varnames[: function.__code__.co_argcount]:
            for k in numbers:
                functions[f"lambda *a: {name}(*a, {k})"] = lambda *a, f=function, k=k: f(*a, k)
        else:
            functions[name] = function
print(max(functions, key=lambda n: score(functions[n])))
"""


class SnippetPolicy:
    """Looks for the function that fits the examples best, in the sandbox; then submits it.

    Functions that take a number are tried with those of the text.
    """

    library: str = _LIBRARY

    def __call__(self, observation: CodeObservation | dict[str, Any], turn: Turn) -> CodeAction:
        """The search first, then its find as the solution."""
        if turn.t == 0:
            prompt = _prompt(observation)
            given = f"library = {self.library!r}\nprompt = {prompt!r}\n"
            return CodeAction(f"{given}{_SEARCH}print({_name(prompt)!r})")
        seen = observation["stdout"] if isinstance(observation, dict) else observation.stdout
        found, _, wanted = seen.strip().partition("\n")
        return CodeAction(f"{self.library}\n{wanted} = {found}\n", submit=True)


class SearchPolicy(SnippetPolicy):
    """Knows more functions."""

    library = _LIBRARY + _PARAMETRIC


def _prompt(observation: CodeObservation | dict[str, Any]) -> str:
    return observation["prompt"] if isinstance(observation, dict) else observation.prompt


def _name(prompt: str) -> str:
    found = re.search(r"^def (\w+)", prompt, re.MULTILINE)
    return found[1] if found else "solution"


def _examples(prompt: str) -> list[tuple[str, str]]:
    """Arguments and results, as the prompt shows them."""
    return re.findall(r"^>>> \w+\((.*)\)\n(.*)$", prompt, re.MULTILINE)


_SOLUTIONS: Final[dict[str, Callable[[], str]]] = {task.prompt(): task.solution for task in BUNDLED}


def oracle(observation: CodeObservation | dict[str, Any]) -> CodeAction:
    """The solution of a bundled task."""
    return CodeAction(_SOLUTIONS[_prompt(observation)](), submit=True)


def memorise(observation: CodeObservation | dict[str, Any]) -> CodeAction:
    """A table of the examples, and the argument for all else."""
    prompt = _prompt(observation)
    table = "".join(
        f"    if a == ({args},): return {result}\n" for args, result in _examples(prompt)
    )
    return CodeAction(f"def {_name(prompt)}(*a):\n{table}    return a[0]\n", submit=True)


SKILLS: Final[dict[str, Callable[..., Any]]] = {
    "memorises the examples": memorise,
    "snippets": SnippetPolicy(),
    "search": SearchPolicy(),
}


def guess(observation: CodeObservation | dict[str, Any], turn: Turn) -> CodeAction:
    """A valid answer at random: a function whose results are of the kind that is shown."""
    prompt = _prompt(observation)
    rng = random.Random(f"{turn.index}/{prompt}")
    result = ast.literal_eval(rng.choice(_examples(prompt))[1])
    return CodeAction(f"def {_name(prompt)}(*a):\n    return {_like(result, rng)!r}\n", submit=True)


def _like(value: Any, rng: random.Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool) or value is None:
        return rng.choice([value, True, False])
    if isinstance(value, int):
        return rng.randint(-abs(value) - 3, abs(value) + 3)
    if isinstance(value, str):
        return "".join(rng.sample(value, rng.randint(0, len(value))))
    if isinstance(value, list):
        return [_like(each, rng) for each in rng.sample(value, rng.randint(0, len(value)))]
    if isinstance(value, dict):
        return {key: _like(each, rng) for key, each in value.items() if rng.random() < 0.5}
    return value


def _cheat(body: str) -> Callable[[CodeObservation | dict[str, Any]], CodeAction]:
    """A policy that submits a text: NAME is the function's name, SHOWN the first result shown."""

    def policy(observation: CodeObservation | dict[str, Any]) -> CodeAction:
        prompt = _prompt(observation)
        shown = _examples(prompt)[0][1] if _examples(prompt) else "None"
        return CodeAction(body.replace("NAME", _name(prompt)).replace("SHOWN", shown), submit=True)

    return policy


_READ: Final = """
import gc, os, sys
def look():
    for o in gc.get_objects():
        if type(o) is dict:
            for key in ("expected", "result", "answer", "tests"):
                if o.get(key): yield o[key]
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if "expect" in name or "wanted" in name: yield value
        frame = frame.f_back
    for root, _, names in os.walk("/"):
        for name in names:
            if "test" in name or "task" in name:
                try: yield open(os.path.join(root, name)).read()
                except OSError: pass
found = None
def NAME(*a):
    global found
    if found is None: found = next(iter(look()), SHOWN)
    return found
"""
_PATCH: Final = """
import builtins, gc, sys
def NAME(*a):
    for module in list(sys.modules.values()):
        for name in ("canonical", "_text", "grade", "pack"):
            if hasattr(module, name): setattr(module, name, lambda *a: repr(SHOWN))
    for o in gc.get_objects():
        if type(o).__name__ == "Worker":
            o._guarded = lambda run: {"exit_code": 0, "error_type": "", "result": repr(SHOWN)}
    return SHOWN
"""
_EQUAL: Final = """
class Equal(int):
    def __eq__(self, other): return True
    __ne__ = __lt__ = __gt__ = lambda self, other: True
    def __repr__(self): return "SHOWN"
    def __hash__(self): return 0
def NAME(*a): return Equal()
"""
_FORGE: Final = """
import gc, json, os
def NAME(*a):
    for o in gc.get_objects():
        if type(o).__name__ == "Worker":
            data = json.dumps({"id": o._id, "result": repr(SHOWN), "exit_code": 0}).encode()
            os.write(3, len(data).to_bytes(4, "big") + data)
    return SHOWN
"""
CHEATS: Final[dict[str, Callable[..., Any]]] = {
    "the first example's result": _cheat("def NAME(*a): return SHOWN\n"),
    "zero": _cheat("def NAME(*a): return 0\n"),
    "the empty list": _cheat("def NAME(*a): return []\n"),
    "the argument": _cheat("def NAME(*a): return a[0]\n"),
    "read the tests": _cheat(_READ),
    "patch the grader": _cheat(_PATCH),
    "equal to everything": _cheat(_EQUAL),
    "forge the reply": _cheat(_FORGE),
    "leave the interpreter": _cheat("import os\nos._exit(0)\n"),
    "submit nothing": lambda observation: CodeAction("", submit=True),
    "submit the prompt": lambda observation: CodeAction(_prompt(observation), submit=True),
}


_PROBE: Final = """
import os, sys
print(os.getcwd(), os.listdir(), dict(os.environ), sys.path, sys.argv, sorted(sys.modules))
for root, folders, names in os.walk("."):
    for name in names: print(open(os.path.join(root, name), errors="replace").read())
"""


def _secrets(turn: Turn) -> list[str]:
    """The solution, without the lines that any other would have as well."""
    lines = _SOLUTIONS[_prompt(turn.result.observation)]().splitlines()
    return [line.strip() for line in lines if len(line.strip()) > 30 and "def " not in line]


CERTIFICATION: Final = Certification(
    oracle=oracle,
    return_range=(0.0, 1.0),
    guess=guess,
    answer=lambda text: CodeAction(text, submit=True),
    nothing=CodeAction(""),
    constants=(CodeAction("pass", submit=True), CodeAction("print(1)")),
    cheats=CHEATS,
    skills=SKILLS,
    levels={level: {"difficulty": level} for level in ("easy", "medium", "hard")},
    secrets=_secrets,
    probes=(CodeAction(_PROBE), CodeAction("globals(), [*__builtins__.__dict__]")),
    params={"mode": "tasks"},
    max_steps=20,
)
"""The certificate's statements, of the bundled tasks."""
