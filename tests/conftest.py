"""Settings of the whole suite, and the choice of core tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

# A shared two-core machine makes single examples slow now and then; nothing here tests speed.
settings.register_profile("suite", deadline=None)
settings.register_profile("core", deadline=None, max_examples=20)
settings.load_profile("suite")

NOT_CORE: Final = (
    # TRL, Stable-Baselines3, data sets: torch and what stands on it
    "integrations",
    "rollouts/test_datasets.py",
    "rollouts/test_record.py",
    "targets/test_entry_points.py",
    # a Ray cluster
    "providers/test_ray.py",
    # whole programs and servers, played from outside: minutes
    "behaviours",
    "benchmarking",
    "checks",
    "cli",
    "docs",
    "upstream",
    "test_mistakes.py",
    "test_openenv_project.py",
    "test_survival.py",
    # type checkers
    "typing",
    # thousands of orders of events, of frames or of mutations, each played through
    "client/test_races.py",
    "engine/test_races.py",
    "pool/test_races.py",
    "rollouts/test_races.py",
    "protocol/test_fuzz.py",
    "test_mutants.py",
    # worker processes and servers by the dozen
    "engine/executors/test_worker.py",
    "engine/test_client_server.py",
    "providers/docker",
    "server/test_uvicorn_protocols.py",
    "targets/test_auto.py",
    "engine/test_failures_told.py",
    "engine/test_isolation.py",
    "engine/test_isolation_processes.py",
    "engine/test_openings.py",
    "engine/test_raised.py",
    "engine/test_shared_workers.py",
    "server/test_hostile.py",
)
"""Files and folders that ``--core`` leaves out: what is left tests each room by itself."""
NOT_CORE_MARKERS: Final = frozenset({"heavy", "docker", "browser"})

INHERITED: Final = ("HOME", "PATH", "PYTHONPATH", "TMPDIR")
"""Variables by which a test could change what the processes of every later test do."""
_VARIABLES: Final = pytest.StashKey[dict[str, str | None]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--core",
        action="store_true",
        help="only tests that need no Docker, browser, torch or Ray, in under two minutes",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--core"):
        settings.load_profile("core")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--core"):
        return None
    inside = collection_path.relative_to(Path(__file__).parent).as_posix()
    return True if inside in NOT_CORE else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--core"):
        return
    core: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        marked = not NOT_CORE_MARKERS.isdisjoint(mark.name for mark in item.iter_markers())
        (others if marked else core).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = core


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays() -> None:
    """Keep every collection of garbage from walking all modules and tests that are loaded.

    A whole run holds millions of objects, and walking them takes longer than most tests.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_VARIABLES] = _inherited()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    assert _inherited() == item.stash[_VARIABLES], "the test leaves variables to all after it"


def _inherited() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in INHERITED}
