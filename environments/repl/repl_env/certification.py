"""Statements for a certificate: the oracle draws the seed's task itself."""

from __future__ import annotations

import random
import re
from typing import Any, Final

from openenv_async import Certification
from repl_env.models import REPLAction
from repl_env.policies import GrepPolicy
from repl_env.tasks import Drawn, draw

__all__ = ["certification"]

_COMPUTED: Final = ("count", "total")
"""Tasks whose answers are computed, not read."""
_LOOK: Final = """
import gc
found = [v for v in list(globals().values()) if isinstance(v, str) and len(v) < 40]
print(found, [k for k in globals() if "answer" in k or "expected" in k])
"""
_FILES: Final = """
import os
for folder, _, names in os.walk("."):
    for name in names[:20]:
        print(name, open(os.path.join(folder, name), errors="replace").read(2000))
"""


def certification(split: str | None = "train", **params: Any) -> Certification:
    """Return the statements."""

    def drawn(turn: Any) -> Drawn:
        return draw(turn.episode.seed, None, split)  # type: ignore[arg-type]  # one of its own

    def oracle(observation: Any, turn: Any) -> REPLAction:
        return _final(drawn(turn).expected_answer)

    def secrets(turn: Any) -> list[str]:
        """Return the answer, unless it stands in the text that is there to be read."""
        task = drawn(turn)
        return [task.expected_answer] if task.name in _COMPUTED else []

    return Certification(
        oracle=oracle,
        oracle_return=0.98,
        return_range=(-0.3, 1.0),
        answer=_final,
        guess=_guess,
        nothing=REPLAction(),
        cheats={
            "looks_for_the_answer": _look,
            "answers_with_the_context": lambda observation: REPLAction("FINAL(context)"),
            "answers_with_every_number": lambda observation: REPLAction(
                "import re\nFINAL(', '.join(re.findall(r'\\d+', context)))"
            ),
        },
        skills={"guesses": _guess, "greps": GrepPolicy(), "knows": oracle},
        levels={name: {"task": name} for name in ("needle", "total", "chain")},
        secrets=secrets,
        params={"split": None},
        probes=[REPLAction(_FILES), REPLAction(_LOOK)],
        max_steps=4,
        varying=("total_execution_time",),
    )


def _final(text: str) -> REPLAction:
    return REPLAction(is_final=True, final_answer=text)


def _guess(observation: Any, turn: Any) -> REPLAction:
    """Answer with a number that the beginning of the text has."""
    numbers = re.findall(r"\d+", observation["context_preview"] or "") or ["1"]
    return _final(random.Random(f"guess/{turn.index}").choice(numbers))


def _look(observation: Any, turn: Any) -> REPLAction:
    if turn.t == 0:
        return REPLAction(_LOOK)
    return _final(observation["result"]["stdout"])
