"""An environment whose module prints when it is imported."""

from __future__ import annotations

import sys

from tests.targets.environments import Tiny

print("here I am", file=sys.stderr, flush=True)  # noqa: T201 - this is what it is for


class Loud(Tiny):
    """The environment ``Tiny``, of a module that prints."""
