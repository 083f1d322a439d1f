"""The recipe of a worker: it pickles, its engine has no deadlines and no bounds of its own."""

from __future__ import annotations

import pickle
import sys
from dataclasses import fields
from typing import Any

import pytest

from openenv_async import Environment
from openenv_async.engine.executors.pipe import MAX_PIPE_MESSAGE
from openenv_async.engine.executors.recipe import WorkerRecipe, make_recipe
from openenv_async.engine.options import EngineOptions
from openenv_async.errors import OperationUnsupported
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import BenchEnvironment
from openenv_async.types import Limits, Timeouts

SPEC = EnvironmentSpec(BenchEnvironment, params={"obs_bytes": 3})


def unpacked(options: EngineOptions) -> tuple[dict[str, Any], WorkerRecipe]:
    preparation, pickled = pickle.loads(make_recipe(SPEC, options))
    recipe = pickle.loads(pickled)
    assert isinstance(recipe, WorkerRecipe)
    return preparation, recipe


def test_it_says_what_to_make() -> None:
    _, recipe = unpacked(EngineOptions())
    assert recipe.env is BenchEnvironment
    assert recipe.params == {"obs_bytes": 3}
    assert recipe.name == SPEC.name
    assert recipe.types == (
        SPEC.types["action"],
        SPEC.types["observation"],
        SPEC.types["state"],
    )


def test_a_worker_watches_no_clock_and_refuses_nothing() -> None:
    options = EngineOptions(
        workers=3, max_waiting=7, min_free_memory=9, timeouts=Timeouts(step=1.0), debug=True
    )
    _, recipe = unpacked(options)
    inner = recipe.options
    assert all(getattr(inner.timeouts, field.name) is None for field in fields(Timeouts))
    assert (inner.workers, inner.max_waiting, inner.min_free_memory) == (None, 0, 0)
    assert inner.limits.max_message_size == MAX_PIPE_MESSAGE
    for name in (
        *("chunk_size", "max_channels", "max_frames", "max_containers"),
        *("max_bad_frames", "max_unsent_size"),
    ):
        assert getattr(inner.limits, name) == sys.maxsize, name
    assert inner.limits.max_error_size == Limits().max_error_size
    assert inner.debug
    assert inner.max_sessions == options.max_sessions


@pytest.mark.parametrize(
    ("sessions", "workers", "shared", "each"),
    [(10, None, False, 1), (10, 2, True, 5), (10, 3, True, 4), (2, 4, True, 1)],
)
def test_sessions_are_spread_over_workers(
    sessions: int, workers: int | None, shared: bool, each: int
) -> None:
    _, recipe = unpacked(EngineOptions(max_sessions=sessions, workers=workers))
    assert (recipe.shared, recipe.sessions) == (shared, each)


def test_the_preparation_carries_no_secret_and_runs_no_main_module() -> None:
    preparation, _ = unpacked(EngineOptions())
    assert not {"authkey", "init_main_from_name", "init_main_from_path"} & preparation.keys()
    assert preparation["sys_path"]


def test_a_class_of_the_main_module_brings_that_module(monkeypatch: pytest.MonkeyPatch) -> None:
    main: Any = sys.modules["__main__"]
    monkeypatch.setattr(main, "BenchEnvironment", BenchEnvironment, raising=False)
    monkeypatch.setattr(BenchEnvironment, "__module__", "__main__")
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", "/srv/app/main.py", raising=False)
    preparation, pickled = pickle.loads(make_recipe(SPEC, EngineOptions()))
    assert preparation["init_main_from_path"] == "/srv/app/main.py"
    assert b"__main__" in pickled


def test_what_cannot_be_imported_elsewhere_is_refused() -> None:
    class Local(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        def reset(self) -> dict[str, Any]:
            return {}

        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {}

    with pytest.raises(OperationUnsupported, match="must be an importable class or function"):
        make_recipe(EnvironmentSpec(Local), EngineOptions())
