"""Failed episodes are left out of every reward function of TRL's trainers.

TRL adds up what its reward functions give and takes ``None`` for nothing: a row is left out of its
group's baseline only if every function gave ``None``. A second function that scores whatever a
broken environment left would bring the row back, with 0 for the environment's part.

Rules:

- ``_calculate_rewards`` of TRL's trainers is wrapped, once per process, when an adapter is made or
  called: in what it returns the rows of failed episodes are NaN throughout. TRL gives adapters no
  other place from which all of its reward functions can be seen.
- A row failed if its ``rollout_func`` said so (``env_failed``), if its environment did
  (``environments``), or if the environment that was to score it did (``make_reward_func``).
- A row with an infinite reward is left out as well: it would make its whole group NaN.
- If TRL has no such method, ``usable_only`` around each other function does the same.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

__all__ = ["failed_rows", "mask_failures", "masks"]

log = logging.getLogger("openenv_async.integrations.trl")

_TRAINERS: Final = {
    "trl.trainer.grpo_trainer": "GRPOTrainer",
    "trl.trainer.rloo_trainer": "RLOOTrainer",
}
_METHOD: Final = "_calculate_rewards"


def failed_rows(
    count: int, failed: Sequence[Any] | None, environments: Sequence[Any] | None
) -> list[bool]:
    """Which of ``count`` rows are of episodes that failed.

    Args:
        count: of the rows.
        failed: what a ``rollout_func`` said of each; ``None`` without one.
        environments: the instances of an ``environment_factory``; ``None`` without one.
    """
    rows = [False] * count if failed is None else [bool(each) for each in failed]
    for number, environment in enumerate(environments or ()):
        rows[number] = rows[number] or bool(getattr(environment, "_unusable", False))
    return rows


def mask_failures() -> None:
    """Have TRL's trainers, as far as they are imported, leave failed rows out; idempotent."""
    for module, name in _TRAINERS.items():
        trainer = getattr(sys.modules.get(module), name, None)
        if trainer is None or masks(trainer):
            continue
        method = trainer.__dict__.get(_METHOD)
        if method is None:
            log.warning(
                "this release of TRL has no %s.%s: wrap every other reward function in"
                " usable_only, so that failed episodes are left out",
                name,
                _METHOD,
            )
            continue
        setattr(trainer, _METHOD, _masking(method))


def masks(trainer: type) -> bool:
    """Tell whether a trainer's class leaves failed rows out."""
    return any(
        getattr(base.__dict__.get(_METHOD), "leaves_out_failures", False)
        for base in trainer.__mro__
    )


def _masking(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def calculate(
        self: Any,
        inputs: Sequence[Mapping[str, Any]],
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *others: Any,
        **named: Any,
    ) -> Any:
        rewards = method(self, inputs, prompts, completions, *others, **named)
        failed = failed_rows(
            len(prompts),
            [row.get("env_failed") for row in inputs],
            getattr(self, "environments", None),
        )
        for function in self.reward_funcs:
            scorer = getattr(function, "scorer", None)
            for number, bad in enumerate(() if scorer is None else scorer.failed_of(completions)):
                failed[number] = failed[number] or bad
        return _left_out(self, rewards, failed)

    calculate.leaves_out_failures = True  # type: ignore[attr-defined]  # read by masks
    return calculate


def _left_out(trainer: Any, rewards: Any, failed: list[bool]) -> Any:
    """The rewards [rows of all processes, functions] without those rows."""
    import torch

    mask = torch.tensor(failed, device=rewards.device)
    if len(rewards) != len(failed):
        mask = trainer.accelerator.gather(mask)
    mask |= torch.isinf(rewards).any(dim=1)
    return rewards.masked_fill(mask.unsqueeze(1), torch.nan)
