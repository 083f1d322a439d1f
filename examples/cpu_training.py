"""Common parts of the GRPO examples: training in minutes on a CPU, and telling how it went.

Nothing here knows of environments.
"""

from __future__ import annotations

import argparse
import os
from statistics import fmean
from typing import Any

import torch
from transformers import set_seed
from trl import GRPOConfig


def parser(about: str, *, steps: int, tokens: int, learning_rate: float) -> Any:
    """Options of the command line that every example has, with its own defaults."""
    made = argparse.ArgumentParser(description=about.partition("\n")[0])
    made.add_argument("--steps", type=int, default=steps)
    made.add_argument("--tokens", type=int, default=tokens, help="of a completion, tools included")
    made.add_argument("--learning-rate", type=float, default=learning_rate)
    made.add_argument("--threads", type=int, default=os.cpu_count())
    made.add_argument("--smoke", action="store_true", help="2 steps of a tiny model")
    return made


def prepare(args: argparse.Namespace, seed: int) -> None:
    """Threads and seed, before the model is made."""
    torch.set_num_threads(args.threads)
    set_seed(seed)


def config(
    args: argparse.Namespace, folder: str, *, seed: int, batch: int, generations: int, **more: Any
) -> Any:
    """The trainer's settings: plain GRPO, nothing saved, every step logged; and ``more``."""
    return GRPOConfig(
        output_dir=folder,
        seed=seed,
        max_steps=args.steps,
        per_device_train_batch_size=batch,
        num_generations=generations,
        max_completion_length=args.tokens,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        beta=0.0,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        **more,
    )


def logged(trainer: Any) -> list[dict[str, float]]:
    """Return a trainer's log of each step; ``reward`` is the mean of its episodes."""
    return [entry for entry in trainer.state.log_history if "reward" in entry]


def tenths(rewards: list[float]) -> tuple[float, float]:
    """The mean reward over the first and the last tenth of the steps."""
    few = max(1, len(rewards) // 10)
    return fmean(rewards[:few]), fmean(rewards[-few:])
