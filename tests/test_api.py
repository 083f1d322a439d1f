"""The public names, and what importing the package costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import openenv_async

HEAVY = {"numpy", "uvicorn", "websockets", "pydantic", "aiohttp", "fastapi"}


@pytest.mark.parametrize("name", openenv_async.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(openenv_async, name) is not None
    assert name in dir(openenv_async)


def test_public_names_are_sorted_and_unique() -> None:
    assert openenv_async.__all__ == sorted(set(openenv_async.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'openenv_async' has no attribute 'nothing'"):
        openenv_async.nothing  # noqa: B018 # the access is the test


def loaded(code: str) -> set[str]:
    """Top-level modules after ``code``, in an interpreter of its own."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not HEAVY & loaded("import openenv_async")


@pytest.mark.parametrize(
    "name", ["Environment", "StepResult", "Outcome", "Limits", "Timeouts", "OpenEnvError"]
)
def test_types_load_nothing_heavy(name: str) -> None:
    assert not HEAVY & loaded(f"from openenv_async import {name}")


@pytest.mark.parametrize("name", ["models", "arrays", "protocol"])
def test_names_of_packages_are_what_their_all_says(name: str) -> None:
    package = importlib.import_module(f"openenv_async.{name}")
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for public in module.__all__:
            assert hasattr(module, public)


@pytest.mark.parametrize(
    "name",
    ["Action", "GenericAction", "MCPToolClient", "Observation", "State", "create_fastapi_app"],
)
def test_names_of_upstream_say_where_they_are(name: str) -> None:
    with pytest.raises(ImportError, match=f"from openenv_async.compat.upstream import {name}"):
        getattr(openenv_async, name)
    assert getattr(importlib.import_module("openenv_async.compat.upstream"), name) is not None
