"""Tables of counterfactual regret minimisation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyspiel
import pytest
from openspiel_env import cfr
from openspiel_env.environment import OpenSpielEnvironment
from openspiel_env.games import load_game

from openenv_async.errors import InvalidOption


def test_a_table_is_near_an_equilibrium() -> None:
    """Its choices are those of OpenSpiel's solver, and a best reply gains little against them."""
    loaded = load_game("kuhn_poker", "", 0)
    table = cfr.load("", loaded, 200)
    assert len(table) == 12
    policy = pyspiel.TabularPolicy(
        {state: list(zip(*row, strict=True)) for state, row in table._rows.items()}
    )
    assert pyspiel.exploitability(loaded.game, policy) < 0.01
    assert cfr.load("", loaded, 200) is table


def test_a_table_of_a_file_plays_its_own_game_only(tmp_path: Path) -> None:
    path = tmp_path / "kuhn.json"
    command = [sys.executable, "-m", "openspiel_env.cfr", "kuhn_poker", "--iterations", "3"]
    subprocess.run([*command, "--out", str(path)], check=True)
    assert json.loads(path.read_text())["iterations"] == 3
    options: dict[str, Any] = {"opponent_policy": "cfr", "cfr_table": str(path)}
    env = OpenSpielEnvironment(game_name="kuhn_poker", **options)
    env.reset(seed=0)
    with pytest.raises(InvalidOption, match=r"is of kuhn_poker\(\), not of leduc_poker"):
        OpenSpielEnvironment(game_name="leduc_poker", **options)
    for broken in ("", "[]", "{}", '{"game": "kuhn_poker()", "rows": [1]}'):
        other = tmp_path / f"broken{len(broken)}.json"
        other.write_text(broken)
        with pytest.raises(InvalidOption, match=r"is not a table of openspiel_env\.cfr"):
            OpenSpielEnvironment(game_name="kuhn_poker", **options | {"cfr_table": str(other)})


def test_a_game_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_game("leduc_poker", "", 0)
    monkeypatch.setattr(cfr, "_WALL", 0.01)
    with pytest.raises(InvalidOption, match=r"cannot solve leduc_poker.*take longer than"):
        cfr.load("", loaded, 7)
