"""Environments whose episodes fail in the ways that the command line has to report."""

from __future__ import annotations

import sys
from typing import Any

from openenv_async import Environment, StepResult

print("the module is imported")  # what a server's own line must be told from

Dict = dict[str, Any]


class OneInTen(Environment[Dict, Dict, Dict]):
    """The step of every tenth seed raises; everything prints."""

    isolation = "inline"

    def reset(self, seed: int = 0) -> Dict:
        self.seed = seed
        return {"seed": seed}

    def step(self, action: Dict) -> StepResult[Dict]:
        print("playing", self.seed)  # what is to be found again
        if self.seed % 10 == 3:
            raise RuntimeError(f"cannot go on with {self.seed}")
        return StepResult({"seed": self.seed}, 1.0, terminated=True)


class Chatty(OneInTen):
    """Prints more than any pipe holds, with and without line ends."""

    def step(self, action: Dict) -> StepResult[Dict]:
        sys.stdout.write("x" * 300_000)
        sys.stdout.write("line\n" * 60_000)
        sys.stdout.write(f"the last of {self.seed}\n")
        return StepResult({"seed": self.seed}, 1.0, terminated=True)


class OneInThree(OneInTen):
    """Draws its own seeds; fails with those that 3 divides."""

    def step(self, action: Dict) -> StepResult[Dict]:
        if self.seed % 3 == 0:
            raise RuntimeError(f"cannot go on with {self.seed}")
        return StepResult({"seed": self.seed}, 1.0, terminated=True)


class Tasked(OneInTen):
    """Fails with the seventh task."""

    def reset(self, seed: int = 0, which: int = 0) -> Dict:
        self.which = which
        return {"which": which}

    def step(self, action: Dict) -> StepResult[Dict]:
        if self.which == 6:
            raise RuntimeError("cannot go on with this task")
        return StepResult({}, 1.0, terminated=True)
