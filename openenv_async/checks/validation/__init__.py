"""Validation of an environment: ``openenv-async validate`` and ``await validate(…)``.

Checks of a folder read the manifest, the layout and what the modules define. Checks of behaviour
play on a running server: they tell what the *environment* does, where the conformance suite tells
what a *server* does. Each check is an async function with a docstring that says what is promised.
"""

from openenv_async.checks.registry import Check, CheckFailed, Result, Skipped
from openenv_async.checks.validation.run import CHECKS, validate
from openenv_async.schemas.fit import misfit

__all__ = ["CHECKS", "Check", "CheckFailed", "Result", "Skipped", "misfit", "validate"]
