"""The file of environments that are served together, and of named tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openenv_async import EngineOptions, Timeouts
from openenv_async.engine.callers import Quota
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
    isolation: process
    labels: {tier: classic}
  cart: {target: CartPole-v1, vector: 4}
"""
DIGEST = f"sha256:{'0a' * 32}"


def test_each_has_its_settings(tmp_path: Path) -> None:
    (tmp_path / "envs.yaml").write_text(GOOD)
    found = from_file(tmp_path / "envs.yaml").environments
    assert list(found) == ["blob", "slow", "cart"]
    usual = EngineOptions(max_sessions=7, timeouts=Timeouts(reset=9.0))
    assert found["blob"].options(usual) == usual
    options = found["slow"].options(usual)
    assert (options.max_sessions, options.timeouts.reset) == (3, 9.0)
    assert (options.timeouts.step, options.timeouts.idle) == (20.0, None)
    assert found["slow"].spec.params == {"steps": 2}
    assert found["slow"].spec.contract.isolation == "process"
    assert found["cart"].spec.is_vector


def test_the_same_in_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        f"""[environments.blob]
        target = "tests.behaviours.environments:Blob"
        [tokens.red]
        digest = ["{DIGEST}", "sha256:{"0b" * 32}"]
        environments = ["blob"]
        max_sessions = 4
        steps_per_second = 10
        burst = 20
        expires = 2027-01-31
        labels = {{group = "a"}}
        """
    )
    config = from_file(tmp_path / "a.toml")
    ((caller, digests),) = config.callers(config.environments)
    assert digests == [b"\x0a" * 32, b"\x0b" * 32]
    assert caller.quota == Quota(4, 10, 20)
    assert (caller.name, caller.is_admin) == ("red", False)
    assert caller.environments == frozenset({"blob"})
    assert caller.expires_at == 1801353600
    assert caller.labels == {"group": "a"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "environments: {a: {target: echo, max_session: 1}}",
            "environments.a: there is no key 'max_session' (did you mean max_sessions?)",
        ),
        ("environments: {a: {}}", "required field `target`"),
        ("environments: {a: {target: echo, workers: 0}}", ">= 1"),
        ("environment: {}", "there is no key 'environment' (did you mean environments?)"),
        ("environments: {a: {target: echo, timeouts: {step: -1}}}", ">= 0"),
        ("environments: {a: {target: echo, isolation: cell}}", "Invalid enum value 'cell'"),
        ("environments: {a: {target: echo, labels: {token: x}}}", "'token' cannot be one"),
        ("environments: [", "config.yaml: "),
        ("", "config.yaml: it must be a map"),
        (f"tokens: {{a: {{digest: '{DIGEST}', quota: 1}}}}", "tokens.a: there is no key 'quota'"),
        ("tokens: {a: {digest: sesame}}", "tokens.a.digest: it must be sha256:"),
        (f"tokens: {{a: {{digest: '{DIGEST}'}}, b: {{digest: '{DIGEST}'}}}}", "also that of 'a'"),
        (f"tokens: {{a: {{digest: '{DIGEST}', burst: 5}}}}", "belongs to steps_per_second"),
        (f"tokens: {{a: {{digest: '{DIGEST}', expires: soon}}}}", "tokens.a.expires: it must be"),
        (f"tokens: {{a: {{digest: '{DIGEST}', environments: [ech]}}}}", "(did you mean echo?)"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InvalidOption) as caught:
        from_file(path).callers({"echo": None})
    assert part in caught.value.message
    assert "sesame" not in caught.value.message


def test_a_deadline_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("environments: {a: {target: echo, timeouts: {steps: 1}}}")
    with pytest.raises(InvalidOption, match=r"no deadline is called 'steps' \(did you mean step"):
        from_file(tmp_path / "a.yaml").environments["a"].options(EngineOptions())


@pytest.mark.parametrize(
    ("target", "isolation", "reason"),
    [("CountedAsync", "thread", "is async"), ("Blob", "inline", None)],
)
def test_an_isolation_that_cannot_be(
    tmp_path: Path, target: str, isolation: str, reason: Any
) -> None:
    path = tmp_path / "a.yaml"
    where = f"tests.behaviours.environments:{target}"
    path.write_text(f"environments: {{a: {{target: '{where}', isolation: {isolation}}}}}")
    each = from_file(path).environments["a"]
    if reason is None:
        assert each.spec.contract.isolation == isolation
    else:
        with pytest.raises(InvalidOption, match=reason):
            _ = each.spec
