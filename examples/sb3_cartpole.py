"""Train PPO on CartPole: environments in a server process of their own, or locally.

    python examples/sb3_cartpole.py            # environments in another process
    python examples/sb3_cartpole.py --local    # Stable-Baselines3's own vector environment

Both solve it (a mean return of at least 475 over 20 episodes) from the same seed and save a plot
of the returns. ``--smoke`` trains just long enough to show that everything works.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from openenv_async.integrations.sb3 import OpenEnvVecEnv

SOLVED = 475.0


class Returns(BaseCallback):
    """A record of the return of every training episode and the step at which it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.steps.append(self.num_timesteps)
                self.returns.append(info["episode"]["r"])
        return True


def make(count: int, seed: int, local: bool) -> VecEnv:
    if local:
        return make_vec_env("CartPole-v1", count, seed=seed)
    # A running server's URL in place of the name works as well.
    env = OpenEnvVecEnv("gymnasium-inline", count, params={"id": "CartPole-v1"})
    env.seed(seed)
    return env


def plot(returns: Returns, title: str, path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(returns.steps, returns.returns, ".", markersize=2, alpha=0.4, label="episode")
    width = min(50, len(returns.returns))
    if width:
        mean = np.convolve(returns.returns, np.ones(width) / width, mode="valid")
        axes.plot(returns.steps[width - 1 :], mean, label=f"mean of {width}")
    axes.axhline(SOLVED, linestyle=":", color="grey", label="solved")
    axes.set(xlabel="environment steps", ylabel="return", title=title)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", action="store_true", help="environments in this process")
    parser.add_argument("--steps", type=int, default=100_000, help="training steps at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="PNG file of the returns")
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    steps = 512 if options.smoke else options.steps
    where = "local" if options.local else "served"
    torch.set_num_threads(1)

    begun = time.perf_counter()
    env = make(8, options.seed, options.local)
    returns = Returns()
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gae_lambda=0.8,
        gamma=0.98,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=options.seed,
        device="cpu",
    )
    try:
        model.learn(steps, callback=returns)
        trained = time.perf_counter() - begun
        episodes = 2 if options.smoke else 20
        mean, deviation = evaluate_policy(model, env, n_eval_episodes=episodes)
    finally:
        env.close()
    path = options.plot or Path(f"sb3_cartpole_{where}.png")
    plot(returns, f"PPO on CartPole-v1, {where}", path)
    print(f"{where}: {steps} steps in {trained:.1f} s of wall clock")
    print(f"mean return over {episodes} episodes: {mean:.1f} ± {deviation:.1f}; plot: {path}")
    return 0 if options.smoke or float(np.mean(mean)) >= SOLVED else 1


if __name__ == "__main__":
    sys.exit(main())
