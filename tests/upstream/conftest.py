"""Upstream's own environment, made once for the tests that talk to the real thing."""

from __future__ import annotations

import os
import subprocess

import pytest

from benchmarks.compare import ensure_upstream_python


@pytest.fixture(scope="session")
def upstream_python() -> str:
    """An interpreter that has upstream, made once; ``UPSTREAM_PYTHON`` names another one."""
    try:
        return ensure_upstream_python(os.environ.get("UPSTREAM_PYTHON"))
    except (OSError, subprocess.CalledProcessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"upstream cannot be installed here: {exc}")
