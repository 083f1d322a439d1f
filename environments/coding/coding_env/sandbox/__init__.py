"""A sandbox for Python that nobody has read.

Each interpreter is a CPython process that was forked from a small zygote and has dropped its rights
for good: a seccomp filter, Landlock, limits, no capabilities, a folder of its own.
"""

from __future__ import annotations

from coding_env.sandbox.limits import Limits
from coding_env.sandbox.sandbox import Execution, Sandbox

__all__ = ["Execution", "Limits", "Sandbox"]
