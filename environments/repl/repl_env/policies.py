"""Scripted policies: what the environment pays to skill, to chance and to cheats.

The tables below are those of the certificate: ``SKILLS`` from the weakest to the strongest,
``CHEATS`` and ``guess``. They play code that a language model could have written, in two steps:
look, then answer. Only ``oracle`` knows the answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Final

from openenv_async.rollouts import Turn
from repl_env.models import REPLAction, REPLObservation
from repl_env.tasks import LENGTH, WORLDS, Drawn, Split, draw

__all__ = [
    "CHEATS",
    "LOOK",
    "SKILLS",
    "GrepPolicy",
    "SkimPolicy",
    "TablePolicy",
    "drawn_for",
    "final",
    "guess",
    "oracle",
]

_SEARCH: Final = """
import re
from collections import Counter
words = lambda text: {w.lower() for w in re.findall(r"\\w+", text)}
known = words(question) & words(context) - common
most = max((len(words(line) & known) for line in lines), default=0)
found = [line for line in lines if len(words(line) & known) == most]
print(*found[:5], sep="\\n")
"""
_ANSWER: Final = """
numbers = [int(w) for line in found for w in re.findall(r"\\d+", line) if w not in known]
if "orders" in question or "deliveries of" in question:
    FINAL(len(found))
elif "total" in question:
    FINAL(sum(numbers))
else:
    FINAL(numbers[-1] if numbers else "")
"""
_TABLE: Final = """
rows = [row.groupdict() for line in lines for form in forms if (row := re.fullmatch(form, line))]
asked = set(re.findall(r"\\w+", question))
sums = Counter()
for row in rows:
    if row["thing"] in asked:
        sums[row["place"]] += int(row["number"])
if sums and "different" in question:
    FINAL(len(sums))
elif sums and " most " in question:
    FINAL(sums.most_common(1)[0][0])
"""


def _pattern(form: str) -> str:
    """A regular expression for the sentences of a form."""
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(form))


_FORMS: Final = [_pattern(form) for world in WORLDS.values() for form in world.order]
_COMMON: Final = sorted(
    {
        word.lower()
        for world in WORLDS.values()
        for form in (*world.code, *world.reading, *world.order, *world.hop, *world.filler)
        for word in re.findall(r"\w+", re.sub(r"\{\w+\}", "", form))
    }
)
"""Words that many sentences have, whatever they tell."""


class GrepPolicy:
    """Two steps: the lines that share most words with the question, and an answer from them.

    It answers with their number, their sum or the last number in them: enough to look something up,
    to count and to add, not to compare or to follow.
    """

    lines: str = "context.splitlines()"
    answer: str = _ANSWER

    def __call__(self, observation: REPLObservation | dict[str, Any], turn: Turn) -> REPLAction:
        """The search first, then the answer."""
        if turn.t == 0:
            question = _told(observation, "task_prompt")
            given = f"question, lines, common = {question!r}, {self.lines}, set({_COMMON!r})\n"
            return REPLAction(given + _SEARCH)
        return REPLAction(self.answer)


class SkimPolicy(GrepPolicy):
    """The same with the first half of the text."""

    lines = "context[: len(context) // 2].splitlines()"


class TablePolicy(GrepPolicy):
    """The same, with the sentences about amounts as a table, whose groups of rows it compares."""

    answer = f"forms = {_FORMS!r}\n{_TABLE}{_ANSWER}"  # of two finals the first counts


def _told(observation: REPLObservation | dict[str, Any], name: str) -> Any:
    return observation[name] if isinstance(observation, dict) else getattr(observation, name)


def final(text: str) -> REPLAction:
    """The action that answers."""
    return REPLAction(is_final=True, final_answer=text)


def drawn_for(turn: Turn, split: Split | None, length: int) -> Drawn:
    """The task of an episode, as the environment draws it."""
    if turn.task is not None:
        return draw(0, turn.task.data["task"], None, length)
    episode = turn.episode
    assert episode is not None
    assert episode.seed is not None, "play it with seeds"
    return draw(episode.seed, None, split, length)


def oracle(split: Split | None = "train", length: int = LENGTH) -> Callable[..., REPLAction]:
    """Return the policy that draws the task itself, and answers."""

    def policy(observation: Any, turn: Turn) -> REPLAction:
        return final(drawn_for(turn, split, length).expected_answer)

    return policy


def guess(observation: REPLObservation | dict[str, Any], turn: Turn) -> REPLAction:
    """Answer at random, with what could be right: a name, a small number, or one of the text."""
    rng = random.Random(f"guess/{turn.index}")
    question, text = _told(observation, "task_prompt"), _told(observation, "context_preview") or ""
    if "Which place" in question or "whichever ship" in question:
        return final(rng.choice(re.findall(r"\b[A-Z]\w+", text) or ["Oban"]))
    if re.search(r"orders|different|deliveries of", question):
        return final(str(rng.randint(6, 48)))
    return final(rng.choice(re.findall(r"\d+", text) or ["1"]))


LOOK: Final = """
import gc, sys
found = [v for v in list(globals().values()) if isinstance(v, str) and len(v) < 40]
for o in gc.get_objects():
    if type(o) is dict:
        found += [str(o[k]) for k in ("expected", "expected_answer", "answer") if k in o]
frame = sys._getframe()
while frame:
    found += [str(v) for k, v in list(frame.f_locals.items()) if "expect" in k or "answer" in k]
    frame = frame.f_back
print(next((text for text in found if text and len(text) < 40), "nothing"))
"""
_FORGE: Final = """
import gc, json, os
for o in gc.get_objects():
    if type(o).__name__ == "Worker":
        data = json.dumps({"id": o._id, "exit_code": 0, "reward": 1.0, "score": 1.0}).encode()
        os.write(3, len(data).to_bytes(4, "big") + data)
FINAL("")
"""
_EQUAL: Final = """
class Equal(str):
    __eq__ = lambda self, other: True
    __hash__ = str.__hash__
FINAL(Equal("x"))
"""


def _look(observation: REPLObservation | dict[str, Any], turn: Turn) -> REPLAction:
    if turn.t == 0:
        return REPLAction(LOOK)
    result = _told(observation, "result")
    return final(result["stdout"] if isinstance(result, dict) else result.stdout)


def _forge(observation: Any, turn: Turn) -> REPLAction:
    return REPLAction(_FORGE) if turn.t == 0 else final("1")


def _plays(code: str) -> Callable[..., REPLAction]:
    return lambda observation: REPLAction(code)


_NUMBERS: Final = (
    "import re\nfrom collections import Counter\nfound = re.findall(r'\\d+', context)\n"
)
CHEATS: Final[dict[str, Callable[..., Any]]] = {
    "looks for the answer": _look,
    "answers with the context": _plays("FINAL(context)"),
    "answers with every number": _plays(f"{_NUMBERS}FINAL(', '.join(found))"),
    "answers with the usual number": _plays(
        f"{_NUMBERS}FINAL(Counter(found).most_common(1)[0][0])"
    ),
    "answers with the last number": _plays(f"{_NUMBERS}FINAL(found[-1])"),
    "answers with the usual name": _plays(
        "import re\nfrom collections import Counter\n"
        "FINAL(Counter(re.findall(r'[A-Z]\\w+', context)).most_common(1)[0][0])"
    ),
    "answers with the question": lambda observation: final(_told(observation, "task_prompt")),
    "equals everything": _plays(_EQUAL),
    "forges the reply": _forge,
    "answers nothing": lambda observation: final(""),
    "zero": lambda observation: final("0"),
    "twenty": lambda observation: final("20"),
}

SKILLS: Final[dict[str, Callable[..., Any]]] = {
    "skims": SkimPolicy(),
    "greps": GrepPolicy(),
    "tabulates": TablePolicy(),
}
