"""Statements for a certificate: the oracle draws the seed's task itself."""

from __future__ import annotations

from typing import Any, Final

from openenv_async import Certification
from repl_env.models import REPLAction
from repl_env.policies import CHEATS, LOOK, SKILLS, drawn_for, final, guess, oracle
from repl_env.tasks import LENGTH, Split

__all__ = ["certification"]

_COMPUTED: Final = ("count", "distinct", "total")
"""Tasks whose answers are computed, not read."""
_FILES: Final = """
import os
for folder, _, names in os.walk("."):
    for name in names[:20]:
        print(name, open(os.path.join(folder, name), errors="replace").read(2000))
"""


def certification(
    split: Split | None = "train", context_length: int = LENGTH, **params: Any
) -> Certification:
    """Return the statements."""

    def secrets(turn: Any) -> list[str]:
        """Return the answer, unless it stands in the text that is there to be read."""
        task = drawn_for(turn, split, context_length)
        return [task.expected_answer] if task.name in _COMPUTED else []

    return Certification(
        oracle=oracle(split, context_length),
        oracle_return=0.98,
        return_range=(-0.3, 1.0),
        answer=final,
        guess=guess,
        nothing=REPLAction(),
        cheats=CHEATS,
        skills=SKILLS,
        levels={name: {"task": name} for name in ("needle", "busiest", "chain")},
        secrets=secrets,
        split=split,
        probes=[REPLAction(_FILES), REPLAction(LOOK)],
        max_steps=4,
        varying=("total_execution_time",),
    )
