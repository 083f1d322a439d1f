"""The rows of a batch: how a prompt names an episode, and how TRL takes what was played."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openenv_async.rollouts.groups import InvalidActions, is_kept
from openenv_async.types import Outcome

__all__ = ["Row", "columns_of", "episode_rows", "reset_from_json", "same_seed"]


def reset_from_json(prompt: Any) -> dict[str, Any]:
    """The arguments of ``reset`` that a row of ``episode_rows`` carries in its prompt."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    options = json.loads(text)
    if not isinstance(options, dict):
        raise ValueError(f"a prompt of episode_rows is a JSON object, got {text!r}")
    return options


def episode_rows(episodes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a dataset whose prompts name episodes: their arguments of ``reset``, ``seed`` too.

    For environments that bring their own prompt; TRL hands a ``rollout_func`` nothing else of a
    row than the prompt.
    """
    return [
        {"prompt": [{"role": "user", "content": json.dumps(dict(each), sort_keys=True)}]}
        for each in episodes
    ]


def same_seed(prompt: Any) -> dict[str, Any]:
    """One seed per prompt, so that a group plays one episode."""
    return {"seed": zlib.crc32(json.dumps(prompt, sort_keys=True, default=repr).encode())}


@dataclass
class Row:
    """One rollout of the batch: its tokens, as sampled."""

    prompt: Any
    prompt_ids: list[int] = field(default_factory=list)
    completion_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    counted: bool = True
    nonsense: bool = False
    outcome: Outcome | None = None

    def restart(self) -> None:
        self.prompt_ids, self.completion_ids, self.logprobs, self.mask = [], [], [], []
        self.nonsense = False

    def add(self, ids: Sequence[int], logprobs: Sequence[float] | None, mask: int) -> None:
        self.completion_ids += ids
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs
        self.mask += [mask] * len(ids)


def columns_of(
    rows: Sequence[Row], filler: int, invalid_actions: InvalidActions | None = None
) -> dict[str, Any]:
    """The rows as TRL takes them; one that has no tokens gets one, masked."""
    counted = all(row.counted for row in rows)
    columns: dict[str, Any] = {
        name: []
        for name in (
            *("prompt_ids", "completion_ids", "logprobs", "env_mask"),
            *("env_reward", "env_status", "env_failed", "env_steps", "env_mistakes"),
        )
    }
    for row in rows:
        outcome = row.outcome
        assert outcome is not None  # collect gives one for each
        value = outcome.episode_return
        # An infinite return would make every advantage of its group NaN.
        kept = is_kept(outcome, invalid_actions)
        failed = not kept or (value is not None and not math.isfinite(value))
        ids, logprobs, mask = row.completion_ids, row.logprobs, row.mask
        if not ids:
            failed, ids, logprobs = True, [filler], [0.0]
        columns["prompt_ids"].append(row.prompt_ids or [filler])
        columns["completion_ids"].append(ids)
        columns["logprobs"].append(logprobs)
        columns["env_mask"].append([0] * len(ids) if failed else mask)
        columns["env_reward"].append(None if failed else value)
        columns["env_status"].append(str(outcome.status))
        columns["env_failed"].append(failed)
        columns["env_steps"].append(outcome.steps)
        columns["env_mistakes"].append(outcome.mistakes)
    if not counted:
        columns["logprobs"] = None
    return columns
