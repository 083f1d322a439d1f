"""The commands' only ways to write on a terminal.

All that an environment, a model, a server or a file said is passed through ``printable``, and
nothing of it is taken for markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from openenv_async.telemetry.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["clear_status", "console", "echo", "status"]


def echo(text: Any = "", *, err: bool = False, nl: bool = True, mark: str = "") -> None:
    """Print text, which may have several lines.

    Args:
        text: shown as it is, control characters as their escapes.
        err: print on standard error.
        nl: end the line.
        mark: stands before it, with its own style (``click.style``).
    """
    click.echo(mark + printable(text, lines=True), err=err, nl=nl)


def status(text: str) -> None:
    """Show text in place of the last line of standard error."""
    click.echo(f"\r\x1b[K{printable(text)}", err=True, nl=False)


def clear_status() -> None:
    """Take the text of ``status`` away."""
    click.echo("\r\x1b[K", err=True, nl=False)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console of rich to which every text, cells and titles of tables too, is plain.

    Args:
        stderr: print on standard error.
        width: columns; ``None``: those of the terminal.
    """
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text, lines=True), **options)

    return PlainConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)
