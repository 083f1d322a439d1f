"""Learn tic-tac-toe against a random opponent: MaskablePPO, or PPO that knows of no masks.

    python examples/sb3_tic_tac_toe.py               # MaskablePPO: no move is refused
    python examples/sb3_tic_tac_toe.py --unmasked    # PPO: a refused move ends its game, a loss

The environment is the ``openspiel`` of this project, in a server process of its own. The masked
one wins or draws at least 90 of 100 games; the other runs to its end, and its mistakes are
counted. ``--smoke`` trains just long enough to show that everything works.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Any

import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from openenv_async.integrations.sb3 import OpenEnvVecEnv

GOOD = 0.9
RESULTS = {1.0: "won", 0.0: "drawn", -1.0: "lost"}


def make(count: int, seed: int) -> OpenEnvVecEnv:
    """Return games against a player that draws its moves."""
    game = {"game_name": "tic_tac_toe", "opponent_policy": "random"}
    # A running server's URL in place of the name works as well.
    env = OpenEnvVecEnv("openspiel", count, params=game, observation_field="info_state")
    env.seed(seed)
    return env


def evaluate(model: BaseAlgorithm, env: OpenEnvVecEnv, games: int) -> Counter[str]:
    """Play at least so many whole games, the best move each time; count how they ended."""
    ended: Counter[str] = Counter()
    options: dict[str, Any] = {"deterministic": True}
    observations: Any = env.reset()
    while ended.total() < games:
        if isinstance(model, MaskablePPO):
            options["action_masks"] = get_action_masks(env)
        actions, _ = model.predict(observations, **options)
        observations, _, _, infos = env.step(actions)
        ended.update(RESULTS[info["episode"]["r"]] for info in infos if "episode" in info)
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unmasked", action="store_true", help="PPO, which knows of no masks")
    parser.add_argument("--steps", type=int, default=60_000, help="training steps at most")
    parser.add_argument("--games", type=int, default=1000, help="games of the evaluation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    steps, games = (1024, 32) if options.smoke else (options.steps, options.games)
    torch.set_num_threads(1)

    begun = time.perf_counter()
    env = make(16, options.seed)
    kind = PPO if options.unmasked else MaskablePPO
    model = kind(
        "MlpPolicy",
        env,
        n_steps=64,
        batch_size=256,
        n_epochs=6,
        gamma=0.99,
        ent_coef=0.01,
        learning_rate=lambda left: 1e-3 * left,
        seed=options.seed,
        device="cpu",
    )
    try:
        model.learn(steps)
        trained, mistakes = time.perf_counter() - begun, env.mistakes
        ended = evaluate(model, env, games)
        wrong = env.mistakes - mistakes
    finally:
        env.close()
    share = (ended["won"] + ended["drawn"]) / ended.total()
    name = kind.__name__
    print(f"{name}: {model.num_timesteps} steps in {trained:.1f} s, {mistakes} moves refused")
    print(
        f"{ended.total()} games: {ended['won']} won, {ended['drawn']} drawn, {ended['lost']} lost,"
        f" {share:.1%} not lost; {wrong} moves refused"
    )
    return 0 if options.smoke or options.unmasked or share >= GOOD else 1


if __name__ == "__main__":
    sys.exit(main())
