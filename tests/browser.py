"""Debian's Chromium for tests of pages: one browser for a module, and axe's verdict on a page.

A picture of each page that is looked at goes to the folder ``OPENENV_SCREENSHOTS`` names, if any.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.peers import ensure_npm_peer

__all__ = ["LOOKS", "browser", "opened", "pictured", "serious_faults"]

LOOKS: Final = {
    "wide": (1360, 860, "light"),
    "wide-dark": (1360, 860, "dark"),
    "narrow": (380, 800, "light"),
    "narrow-dark": (380, 800, "dark"),
}
"""Width, height and colours of the windows in which pages are looked at."""
_AXE: Final = "axe-core@4.10.3"
_TIMEOUT: Final = 15_000


@contextmanager
def browser() -> Iterator[Any]:
    """Have a headless browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no chromium on the PATH")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield made
        finally:
            made.close()


@contextmanager
def opened(made: Any, url: str, look: str = "wide") -> Iterator[Any]:
    """Have a page open in a window of its own; errors on its console fail the test."""
    width, height, colours = LOOKS[look]
    context = made.new_context(
        viewport={"width": width, "height": height}, color_scheme=colours, reduced_motion="reduce"
    )
    context.set_default_timeout(_TIMEOUT)
    said: list[str] = []
    try:
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda each: said.append(each.text) if each.type == "error" else None)
        page.goto(url)
        yield page
    finally:
        context.close()
    assert said == []


def pictured(page: Any, name: str) -> None:
    """Keep a picture of a page, where somebody wants to look at them."""
    if folder := os.environ.get("OPENENV_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def serious_faults(page: Any) -> list[str]:
    """Return the faults of accessibility that axe calls serious or critical, with their places."""
    page.evaluate(_axe())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}"
        f" {fault['nodes'][0]['failureSummary'][:300]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


@functools.cache
def _axe() -> str:
    programs = Path(ensure_npm_peer("axe", _AXE))
    return (programs.parent / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
