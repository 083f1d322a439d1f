"""The file of environments that are served together."""

from __future__ import annotations

from pathlib import Path

import pytest

from openenv_async import EngineOptions, Timeouts
from openenv_async.errors import InvalidOption
from openenv_async.targets.config import from_file

GOOD = """
environments:
  blob: {target: "tests.behaviours.environments:Blob"}
  slow:
    target: tests.behaviours.environments:Counted
    params: {steps: 2}
    max_sessions: 3
    timeouts: {step: 20, idle: 0}
  cart: {target: CartPole-v1, vector: 4}
"""


def test_each_has_its_settings(tmp_path: Path) -> None:
    (tmp_path / "envs.yaml").write_text(GOOD)
    found = from_file(tmp_path / "envs.yaml")
    assert list(found) == ["blob", "slow", "cart"]
    usual = EngineOptions(max_sessions=7, timeouts=Timeouts(reset=9.0))
    assert found["blob"].options(usual) == usual
    options = found["slow"].options(usual)
    assert (options.max_sessions, options.timeouts.reset) == (3, 9.0)
    assert (options.timeouts.step, options.timeouts.idle) == (20.0, None)
    assert found["slow"].spec.params == {"steps": 2}
    assert found["cart"].spec.is_vector


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("environments: {a: {target: echo, max_session: 1}}", "`max_session` - at `$.environments"),
        ("environments: {a: {}}", "required field `target`"),
        ("environments: {a: {target: echo, workers: 0}}", ">= 1"),
        ("environment: {}", "unknown field `environment`"),
        ("environments: {a: {target: echo, timeouts: {step: -1}}}", ">= 0"),
        ("environments: [", "config.yaml: "),
        ("", "config.yaml: "),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InvalidOption) as caught:
        from_file(path)
    assert part in caught.value.message


def test_a_deadline_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("environments: {a: {target: echo, timeouts: {steps: 1}}}")
    with pytest.raises(InvalidOption, match="no deadline is called 'steps'"):
        from_file(tmp_path / "a.yaml")["a"].options(EngineOptions())
