"""The MiniWoB++ tasks: their names, a split, and where their pages are."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
from pathlib import Path
from typing import Final

from openenv_async.errors import EnvironmentStartFailed, InvalidOption

__all__ = ["BENCHMARK", "TASKS", "TEST_TASKS", "TRAIN_TASKS", "pages_folder", "resolve"]

BENCHMARK: Final = "miniwob"

TRAIN_TASKS: Final[tuple[str, ...]] = (
    "ascending-numbers", "bisect-angle", "book-flight", "book-flight-nodelay", "button-delay",
    "chase-circle", "choose-date", "choose-date-easy", "choose-date-medium",
    "choose-date-nodelay", "choose-list", "click-button", "click-button-sequence",
    "click-checkboxes", "click-checkboxes-large", "click-checkboxes-soft",
    "click-checkboxes-transfer", "click-collapsible", "click-collapsible-2",
    "click-collapsible-2-nodelay", "click-collapsible-nodelay", "click-color", "click-dialog",
    "click-dialog-2", "click-link", "click-menu", "click-menu-2", "click-pie",
    "click-pie-nodelay", "click-scroll-list", "click-shades", "click-shape", "click-test",
    "click-test-2", "click-test-transfer", "copy-paste", "copy-paste-2", "count-shape",
    "count-sides", "drag-box", "drag-circle", "drag-cube", "drag-items", "drag-items-grid",
    "drag-single-shape", "drag-shapes", "drag-shapes-2", "draw-circle", "draw-line",
    "email-inbox", "email-inbox-delete", "email-inbox-forward", "email-inbox-forward-nl",
    "email-inbox-forward-nl-turk", "email-inbox-important", "email-inbox-nl-turk",
    "email-inbox-noscroll", "email-inbox-reply", "email-inbox-star-reply", "enter-date",
    "enter-text", "enter-text-2", "enter-text-dynamic", "enter-time", "find-greatest",
    "find-midpoint", "focus-text", "focus-text-2", "form-sequence", "form-sequence-2",
    "form-sequence-3", "generate-number", "grid-coordinate", "highlight-text", "highlight-text-2",
    "hot-cold", "hover-shape", "identify-shape", "login-user", "login-user-popup", "moving-items",
    "navigate-tree", "number-checkboxes", "odd-or-even", "order-food", "read-table",
    "read-table-2", "right-angle", "scroll-text", "scroll-text-2", "search-engine", "simon-says",
    "simple-arithmetic", "social-media", "social-media-all", "social-media-some", "stock-market",
    "text-editor", "text-transform", "use-autocomplete", "use-autocomplete-nodelay", "use-slider",
    "use-slider-2",
)  # fmt: skip
"""Tasks to learn from."""

TEST_TASKS: Final[tuple[str, ...]] = (
    "buy-ticket", "circle-center", "click-option", "click-tab", "click-tab-2", "click-tab-2-easy",
    "click-tab-2-hard", "click-tab-2-medium", "click-widget", "daily-calendar",
    "drag-sort-numbers", "enter-password", "find-word", "guess-number", "multi-layouts",
    "multi-orderings", "phone-book", "resize-textarea", "sign-agreement", "simple-algebra",
    "terminal", "tic-tac-toe", "unicode-test", "use-colorwheel", "use-colorwheel-2",
    "use-spinner", "visual-addition",
)  # fmt: skip
"""Tasks to measure with: whole families of tasks, none of which has a relative to learn from."""

TASKS: Final[tuple[str, ...]] = tuple(sorted(TRAIN_TASKS + TEST_TASKS))
"""Every task."""

_KNOWN: Final = frozenset(TASKS)


def resolve(name: str) -> str:
    """A task's own name; ``miniwob.NAME`` and ``browsergym/miniwob.NAME`` are understood.

    Raises:
        InvalidOption: there is no such task; the message names the nearest.
    """
    short = name.rsplit("/", 1)[-1].removeprefix(f"{BENCHMARK}.")
    if short in _KNOWN:
        return short
    near = difflib.get_close_matches(short, TASKS, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "browsergym_env.TASKS lists them all"
    raise InvalidOption(f"MiniWoB has no task {name!r}; {hint}", option="task_name")


@functools.cache
def pages_folder() -> Path:
    """The folder of ``miniwob`` and ``core``: of ``MINIWOB_URL``, else of the package.

    The package is found without importing it, since its own import pulls in Selenium.

    Raises:
        EnvironmentStartFailed: there are no pages, or ``MINIWOB_URL`` is not a ``file://`` address.
    """
    given = os.environ.get("MINIWOB_URL")
    if given:
        if not given.startswith("file://"):
            raise EnvironmentStartFailed(
                f"MINIWOB_URL is {given!r}: pages are read from files, give file:///…/miniwob/"
            )
        folder = Path(given.removeprefix("file://")).parent
    else:
        spec = importlib.util.find_spec("miniwob")
        if spec is None or not spec.submodule_search_locations:
            raise EnvironmentStartFailed("the package miniwob is missing: pip install miniwob")
        folder = Path(next(iter(spec.submodule_search_locations))) / "html"
    if not (folder / "core" / "core.js").is_file():
        raise EnvironmentStartFailed(f"{folder} has no core/core.js: it has no MiniWoB pages")
    return folder
