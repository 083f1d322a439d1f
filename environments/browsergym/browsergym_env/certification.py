"""Statements for a certificate: of one MiniWoB++ task that rules solve."""

from __future__ import annotations

from typing import Any, Final

from browsergym_env.models import BrowserGymAction
from browsergym_env.policy import random_clicks, rules
from openenv_async import Certification

__all__ = ["certification"]

_TASK: Final = "login-user"
_STEPS: Final = 4


def certification(task_name: str | None = None, **params: Any) -> Certification:
    """Return the statements."""
    return Certification(
        oracle=rules,
        return_range=(0.0, 1.0),
        guess=random_clicks,
        nothing=BrowserGymAction("noop()"),
        constants=[BrowserGymAction("click('11')"), BrowserGymAction("scroll(0, 10)")],
        skills={"clicks_at_random": random_clicks, "follows_rules": rules},
        probes=(),
        params={"task_name": _TASK, "max_steps": _STEPS},
        reset_options={"observe": ["axtree"], "reward": "binary"},
    )
