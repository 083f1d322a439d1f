"""Does an environment keep what it promises? ``openenv-async validate`` and ``await validate(…)``.

Two kinds of checks. Those of a folder read the manifest, the layout and what the modules define.
Those of behaviour play on a running server: they tell what the *environment* does, where the
conformance suite tells what a *server* does. Each check is an async function with a docstring
that says what is promised; see ``registry``.
"""

from openenv_async.checks.registry import CheckFailed, Result, Skipped
from openenv_async.checks.validation.registry import CHECKS, Check
from openenv_async.checks.validation.run import validate
from openenv_async.schemas.fit import misfit

__all__ = ["CHECKS", "Check", "CheckFailed", "Result", "Skipped", "misfit", "validate"]
