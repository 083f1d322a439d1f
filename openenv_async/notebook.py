"""Small pieces of HTML for notebooks: tables that are readable without a style sheet.

Everything that comes from an environment, a model or a file is escaped and cut.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["brief", "facts", "grid", "progress"]

_MOST: Final = 200
"""Characters of a value that are shown."""


def brief(value: Any, most: int = _MOST) -> str:
    """Return a value as a text of at most ``most`` characters; an array as its type and shape."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None and shape:
        return f"{dtype} {list(shape)}"
    try:
        # A text can be of any length, its repr is made of the part that is shown.
        text = value[: most + 1] if isinstance(value, str) else repr(value)
    except Exception as exc:  # of the author's own __repr__
        text = f"<{type(value).__name__}, whose repr raises {type(exc).__name__}>"
    return text if len(text) <= most else text[: most - 1] + "…"


def facts(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """Return a table of names and values; a value of ``None`` leaves its row out."""
    cells = "".join(
        f'<tr><th align="left">{_escaped(name)}</th><td align="left">{_escaped(value)}</td></tr>'
        for name, value in rows
        if value is not None
    )
    return f"<table><caption>{_escaped(title)}</caption>{cells}</table>"


def grid(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table with a row of headings."""
    head = "".join(f'<th align="left">{_escaped(each)}</th>' for each in headings)
    body = "".join(
        "<tr>" + "".join(f'<td align="left">{_escaped(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{_escaped(title)}</caption><tr>{head}</tr>{body}</table>"


def progress(title: str, done: int, total: int | None, told: str) -> str:
    """Return a bar with a text beside it."""
    share = "" if total is None else f' value="{min(done, total)}" max="{max(total, 1)}"'
    of = "" if total is None else f" of {total:,}"
    return (
        f"<div>{_escaped(title)} <progress{share}></progress>"
        f" {done:,}{of} episodes{_escaped(f', {told}' if told else '')}</div>"
    )


def _escaped(value: Any) -> str:
    return html.escape("" if value is None else str(value))
