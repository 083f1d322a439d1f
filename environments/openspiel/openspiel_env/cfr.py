"""Tables that counterfactual regret minimisation makes, for opponents near an equilibrium.

The solver is OpenSpiel's CFR+ (Tammelin 2014); a table is its average policy. It keeps the whole
tree of the game in memory, so it runs in a process of its own with bounds on time and memory: a
game that is too large for it is refused, not begun. Tables that took longer come from a file:

    python -m openspiel_env.cfr "leduc_poker" --iterations 1000 --out leduc.json

This file is also the program of that process: at its top it imports nothing but the standard
library.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyspiel

    from openspiel_env.games import LoadedGame

__all__ = ["CfrTable", "load"]

log = logging.getLogger("openspiel_env.cfr")

_CPU: Final = 20  # seconds
_WALL: Final = 60.0
_MEMORY: Final = 2 << 30  # bytes of address space
_KEPT: Final = 8
"""Tables that a process keeps."""
_solving: Final = threading.Lock()
"""One game is solved at a time: others may ask for the same one."""


class CfrTable:
    """A policy by information state.

    Args:
        rows: by the text of the information state: numbers of moves, and their probabilities.
    """

    def __init__(self, rows: dict[str, list[tuple[int, float]]]) -> None:
        self._rows = {
            state: ([action for action, _ in row], [weight for _, weight in row])
            for state, row in rows.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def choose(self, state: pyspiel.State, player: int, rng: random.Random) -> int:
        """Draw a player's move; any legal one where the table has no row."""
        row = self._rows.get(state.information_state_string(player))
        if row is None:
            legal: list[int] = state.legal_actions(player)
            return rng.choice(legal)
        return rng.choices(*row)[0]


def load(path: str, loaded: LoadedGame, iterations: int) -> CfrTable:
    """Return the table of a file, else one that is made now, once in a process.

    Args:
        path: of a file that this module wrote; empty where there is none.
        loaded: the game.
        iterations: of CFR+, for a table that is made.

    Raises:
        InvalidOption: the file is not a table of this game, or the game is too large.
    """
    from openenv_async.errors import InvalidOption

    game = str(loaded.game)
    if path:
        return _of_file(path, game)
    with _solving:
        table, reason = _solved(game, iterations)
    if table is None:
        raise InvalidOption(
            f"opponent_policy cfr cannot solve {game}: {reason}; take another opponent, or give a"
            " table with cfr_table (python -m openspiel_env.cfr makes one)",
            option="opponent_policy",
        )
    return table


@functools.lru_cache(maxsize=_KEPT)
def _of_file(path: str, game: str) -> CfrTable:
    from openenv_async.errors import InvalidOption

    try:
        made = json.loads(Path(path).read_text())
        whose, rows = made["game"], made["rows"]
        table = CfrTable(rows)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise InvalidOption(
            f"cfr_table {path!r} is not a table of openspiel_env.cfr: {type(exc).__name__}: {exc}",
            option="cfr_table",
        ) from exc
    if whose != game:
        raise InvalidOption(
            f"cfr_table {path!r} is of {whose}, not of {game}: make one of that game",
            option="cfr_table",
        )
    return table


@functools.lru_cache(maxsize=_KEPT)
def _solved(game: str, iterations: int) -> tuple[CfrTable | None, str]:
    """Return the table of a game, or why there is none."""
    command = [sys.executable, "-P", __file__, game, "--iterations", str(iterations), "--bounded"]
    log.info("solving %s: %d iterations of CFR+, at most %d s of CPU time", game, iterations, _CPU)
    begun = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, timeout=_WALL, check=False)
    except subprocess.TimeoutExpired:
        return None, f"{iterations} iterations take longer than {_WALL:g} s"
    if done.returncode == -signal.SIGXCPU:
        return None, f"{iterations} iterations take longer than {_CPU} s of CPU time"
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no memory"]
        return None, f"the solver ended with {done.returncode}: {lines[-1][:200]}"
    table = CfrTable(json.loads(done.stdout)["rows"])
    log.info("solved %s: %d states in %.1f s", game, len(table), time.monotonic() - begun)
    return table, ""


def _main() -> int:
    import pyspiel

    parser = argparse.ArgumentParser(description="Make a CFR+ table of a small game.")
    parser.add_argument("game", help="its name, with parameters in brackets")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    parser.add_argument("--bounded", action="store_true", help="end when it takes too much")
    args = parser.parse_args()
    if args.bounded:
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    game = pyspiel.load_game(args.game)
    solver = pyspiel.CFRPlusSolver(game)
    for _ in range(args.iterations):
        solver.evaluate_and_update_policy()
    rows: dict[str, Any] = solver.tabular_average_policy().policy_table()
    json.dump({"game": str(game), "iterations": args.iterations, "rows": rows}, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
