from __future__ import annotations

import os
import shutil

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without Chromium a developer's machine skips what needs it; CI has it, or fails."""
    has_one = shutil.which("chromium") is not None or "BROWSERGYM_CHROMIUM" in os.environ
    if item.get_closest_marker("browser") is not None and not has_one and "CI" not in os.environ:
        pytest.skip("no Chromium on PATH")
