"""Options of an engine are checked when they are made, and messages name the option."""

from __future__ import annotations

import math
from typing import Any

import pytest

from openenv_async.engine.options import EngineOptions
from openenv_async.types import Limits, Timeouts


def made(**settings: Any) -> EngineOptions:
    return EngineOptions(**settings)


def test_the_defaults_are_accepted() -> None:
    options = EngineOptions()
    assert options.timeouts == Timeouts()
    assert options.limits == Limits()
    assert (options.max_sessions, options.max_waiting) == (1024, 0)
    assert options.workers is None
    assert options.max_threads is None
    assert options.interrupt_grace == 0.5
    assert options.worker_silence == 5.0
    assert options.close_grace == 10.0
    assert options.min_free_memory == 64 * 1024 * 1024
    assert options.debug is False


@pytest.mark.parametrize(
    "good",
    [
        {"max_sessions": 1},
        {"max_waiting": 0},
        {"workers": 1},
        {"max_threads": 1},
        {"min_free_memory": 0},
        {"interrupt_grace": 0},
        {"worker_silence": 0.5},
        {"close_grace": 3},
    ],
)
def test_the_least_is_accepted(good: dict[str, Any]) -> None:
    [(name, value)] = good.items()
    assert getattr(made(**good), name) == value


@pytest.mark.parametrize("name", ["max_sessions", "max_waiting", "min_free_memory"])
@pytest.mark.parametrize("value", [None, "8", 1.0, True])
def test_a_count_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        made(**{name: value})


@pytest.mark.parametrize("name", ["workers", "max_threads"])
@pytest.mark.parametrize("value", ["8", 1.0, False])
def test_a_count_that_may_be_missing_is_an_integer_otherwise(name: str, value: Any) -> None:
    assert getattr(made(**{name: None}), name) is None
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        made(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_sessions", 0),
        ("max_waiting", -1),
        ("workers", 0),
        ("max_threads", 0),
        ("min_free_memory", -1),
    ],
)
def test_a_count_has_a_least_value(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        made(**{name: value})


@pytest.mark.parametrize("name", ["interrupt_grace", "worker_silence", "close_grace"])
@pytest.mark.parametrize("value", [None, "1", True, -0.1, math.inf, math.nan])
def test_a_duration_is_a_number_of_seconds(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number of seconds"):
        made(**{name: value})


@pytest.mark.parametrize(("name", "kind"), [("timeouts", "a Timeouts"), ("limits", "a Limits")])
def test_timeouts_and_limits_are_objects(name: str, kind: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be {kind}"):
        made(**{name: {"step": 1}})
