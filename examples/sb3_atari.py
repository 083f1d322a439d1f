"""Train PPO on an Atari game whose emulators run in a server process of their own.

    python examples/sb3_atari.py --game breakout --steps 1000000
    python examples/sb3_atari.py --smoke

Needs the ``atari`` environment and the extra ``sb3``. The time of a million steps is a matter of
the machine's graphics card; ``--smoke`` shows on any that everything works.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from openenv_async.integrations.sb3 import OpenEnvVecEnv


class GameScores(BaseCallback):
    """The unclipped scores of whole games; an episode is one life of them."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[float] = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self.finished += [info["game_score"] for info in infos if info.get("game_over")]
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--game", default="pong")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", help="file for the trained model")
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    if options.smoke:
        options.steps, options.envs = 64, 2
        torch.set_num_threads(1)

    # The settings of the literature: a picture of 84 × 84 in four frames, rewards by their sign,
    # an episode for each life of a game.
    settings = {
        "game_name": options.game,
        "obs_type": "resized",
        "frame_stack": 4,
        "noop_max": 30,
        "terminal_on_life_loss": True,
        "fire_reset": True,
        "clip_reward": True,
    }
    env = OpenEnvVecEnv(
        "atari", options.envs, params=settings, observation_field="screen", action_field="action_id"
    )
    env.seed(options.seed)
    begun = time.perf_counter()
    try:
        model = PPO(
            "CnnPolicy",
            env,
            n_steps=16 if options.smoke else 128,
            batch_size=32 if options.smoke else 256,
            n_epochs=1 if options.smoke else 4,
            learning_rate=2.5e-4,
            clip_range=0.1,
            ent_coef=0.01,
            seed=options.seed,
            verbose=0 if options.smoke else 1,
        )
        scores = GameScores()
        model.learn(options.steps, callback=scores)
    finally:
        env.close()
    print(f"{options.game}: {model.num_timesteps} steps in {time.perf_counter() - begun:.1f} s")
    if last := scores.finished[-100:]:
        print(f"score of the last {len(last)} games: {sum(last) / len(last):.1f}")
    if options.save:
        model.save(options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
