"""Step for step beside FinRL's own environments; see ``scripts/side_by_side.py``."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest
from finrl_env.environment import FinRLEnvironment
from finrl_env.finrl_backend import available

from openenv_async.errors import InvalidOption

if importlib.util.find_spec("pandas") is None:
    pytest.skip("pandas is not installed", allow_module_level=True)

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "side_by_side.py"))


@pytest.mark.skipif(not available(), reason="FinRL is not installed")
@pytest.mark.parametrize("case", SCRIPT["CASES"])
def test_states_rewards_and_values_are_finrls(case: str) -> None:
    found = SCRIPT["compare"](case, 60, seed=4)
    assert found.pop("steps") == 60
    assert all(apart < 1e-6 for apart in found.values()), found


def test_what_finrl_has_not_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"action_mode": "weights"}, "action_mode shares and allocation"),
        ({"short": True}, "buy_cost_pct and sell_cost_pct"),
        ({"execution": "next_open"}, "buy_cost_pct and sell_cost_pct"),
        ({"reward": "log_return"}, "reward value"),
        ({"action_mode": "allocation", "reward": "portfolio_value"}, "buy_cost_pct=0"),
    ]
    for options, message in cases:
        with pytest.raises(InvalidOption, match=message):
            FinRLEnvironment(backend="finrl", **options)
