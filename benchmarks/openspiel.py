"""The cost of a move of OpenSpiel: in process beside bare pyspiel, served beside before.

``python -m benchmarks.openspiel``: the environment plays a game in process, once with one client
for both players and once against random play. Bare pyspiel does for each move what its player
needs: tensor, legal moves, a random choice, the move. Resets are included on both sides. Figures
are CPU time, the least of several rounds in turns.

``python -m benchmarks.openspiel --base c39159a``: tic-tac-toe over a WebSocket, steps of 64 games
at once, with both revisions one right after the other, each with its own server and client, in
turns of who goes first. This revision plays once as 64 sessions and once as one session of
``OpenSpielVectorEnvironment``. Printed are the median ratios of steps/s, with their range, and
the CPU time of a step at both ends.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pyspiel
from openspiel_env import OpenSpielAction
from openspiel_env.environment import OpenSpielEnvironment

from benchmarks.revisions import checked_out

ROOT: Final = Path(__file__).parent.parent
PLAYER: Final = ROOT / "benchmarks" / "openspiel_player.py"
GAMES: Final = ("tic_tac_toe", "connect_four", "kuhn_poker")


def bare(name: str, episodes: int) -> float:
    """CPU seconds of a move of bare pyspiel."""
    game, rng, moves = pyspiel.load_game(name), random.Random(0), 0
    informed = game.get_type().provides_information_state_tensor
    begun = time.process_time()
    for _ in range(episodes):
        state = game.new_initial_state()
        while not state.is_terminal():
            if state.is_chance_node():
                outcomes, weights = zip(*state.chance_outcomes(), strict=True)
                state.apply_action(rng.choices(outcomes, weights)[0])
                continue
            player = state.current_player()
            if informed:
                state.information_state_tensor(player)
            else:
                state.observation_tensor(player)
            state.apply_action(rng.choice(state.legal_actions(player)))
            moves += 1
        state.returns()
    return (time.process_time() - begun) / moves


def in_process(name: str, opponent: str, episodes: int) -> float:
    """CPU seconds of a move of the environment, of any player."""
    env = OpenSpielEnvironment(game_name=name, opponent_policy=opponent)
    rng, moves = random.Random(0), 0
    dealt = {"kuhn_poker": 2}.get(name, 0)
    begun = time.process_time()
    for seed in range(episodes):
        result = env.reset(seed=seed)
        while not result.done:
            result = env.step(OpenSpielAction(rng.choice(result.observation.legal_actions)))
        moves += env.state().moves - dealt
    return (time.process_time() - begun) / moves


def beside_pyspiel(episodes: int, rounds: int) -> None:
    print("game | bare pyspiel, µs a move | both players | against random play")
    for name in GAMES:
        least = [float("inf")] * 3
        for _ in range(rounds):
            taken = (
                bare(name, episodes),
                in_process(name, "self", episodes),
                in_process(name, "random", episodes),
            )
            least = [min(pair) for pair in zip(least, taken, strict=True)]
        own, both, one = (1e6 * each for each in least)
        print(f"{name} | {own:.2f} | {both:.2f} ({both / own:.2f} times) | {one:.2f}", end="")
        print(f" ({one / own:.2f} times)", flush=True)


def played(tree: Path, form: str, games: int, seconds: float) -> dict[str, float]:
    """Figures of one run of ``openspiel_player.py`` with a revision of the project."""
    folders = [tree, tree / "environments" / "openspiel"]
    done = subprocess.run(
        [sys.executable, str(PLAYER), form, str(games), str(seconds)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def beside_revision(revision: str, pairs: int, games: int, seconds: float) -> None:
    ratios: dict[str, list[float]] = {"sessions": [], "vector": []}
    with checked_out(revision) as tree:
        for number in range(pairs):
            runs = [("before", tree, "sessions"), ("sessions", ROOT, "sessions")]
            runs.append(("vector", ROOT, "vector"))
            found = {}
            for label, root, form in runs if number % 2 == 0 else runs[::-1]:
                found[label] = played(root, form, games, seconds)
            for form, kept in ratios.items():
                kept.append(found[form]["rate"] / found["before"]["rate"])
            for label, figures in found.items():
                print(
                    f"{number + 1} {label}: {figures['rate']:,.0f} steps/s, CPU of a step"
                    f" {figures['client']:.1f} µs client, {figures['server']:.1f} µs server",
                    flush=True,
                )
    for form, kept in ratios.items():
        print(
            f"{form}: {statistics.median(kept):.2f} times {revision}"
            f" ({min(kept):.2f} to {max(kept):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="an earlier revision to play beside")
    parser.add_argument("--episodes", type=int, default=300, help="of a round in process")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--games", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    if args.base:
        beside_revision(args.base, args.pairs, args.games, args.seconds)
    else:
        beside_pyspiel(args.episodes, args.rounds)


if __name__ == "__main__":
    main()
