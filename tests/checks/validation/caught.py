"""Environments that break one promise each, caught by the check of that promise."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from openenv_async import serve
from openenv_async.checks.registry import Result
from openenv_async.checks.validation import CHECKS, validate
from tests.checks.validation.broken import BROKEN

__all__ = ["MODULE", "broken_in", "is_caught", "names_of"]

MODULE = "tests.checks.validation.broken"
IN_A_PROCESS = {"closing_releases", "slow_calls_delay_nobody", "private_columns_stay_private"}


def names_of(module: ModuleType) -> set[str]:
    """Return the names of a module's checks."""
    return {name for name, check in CHECKS.items() if check.call.__module__ == module.__name__}


def broken_in(module: ModuleType) -> pytest.MarkDecorator:
    """Parametrize a test with the environments that a module's checks catch."""
    caught = [cls for cls, name in BROKEN.items() if name in names_of(module)]
    return pytest.mark.parametrize("cls", caught, ids=lambda cls: cls.__name__)


async def is_caught(cls: Any) -> Result:
    """Validate an environment by the check that it breaks, which must fail."""
    name = BROKEN[cls]
    options: dict[str, Any] = {"names": [name], "max_observation_size": 100_000}
    if cls.__name__ in ("HangsInReset", "GoesOnAfterItsDeadline"):
        options["timeout"] = 0.5
    if name in IN_A_PROCESS:
        results = await validate(f"{MODULE}:{cls.__name__}", **options)
    else:
        async with serve(cls) as url:
            results = await validate(url, **options)
    result = results[-1]
    assert result.name == name
    assert result.status == "failed", result
    assert result.reason
    assert result.remedy == CHECKS[name].remedy
    return result
