"""Checks of an environment on the command line: which are made, and what they found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from openenv_async.cli.options import Command
from openenv_async.cli.output import clear_status, echo, status

if TYPE_CHECKING:
    from openenv_async.checks.registry import Result

__all__ = ["Findings", "names_option", "quiet_option"]

_COLORS: Final = {"passed": "green", "failed": "red", "skipped": "yellow"}


def names_option(noun: str, known: Callable[[], Mapping[str, Any]]) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for some checks alone, given as ``names``.

    Args:
        noun: of one, which names the option.
        known: gives all, by name.
    """

    def read(
        ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
    ) -> tuple[str, ...] | None:
        for name in names:
            if name not in (there := known()):
                raise click.BadParameter(
                    f"there is no {noun} {name!r}; there are {', '.join(there)}", ctx, param
                )
        return names or None

    return click.option(
        f"--{noun}",
        "names",
        multiple=True,
        callback=read,
        help=f"Only this {noun}. Repeatable.",
    )


quiet_option = click.option("--quiet", is_flag=True, help="Show only what failed.")
"""Decorator that adds ``--quiet``."""


class Findings:
    """Results of checks, shown as they come.

    Args:
        skipped: the word for one that was not made.
        quiet: show only those that failed.
    """

    def __init__(self, skipped: str, quiet: bool) -> None:
        self._words = {"passed": "pass", "failed": "FAIL", "skipped": skipped}
        self._width = max(map(len, self._words.values()))
        self._quiet = quiet
        self._indent = " " * (self._width + 2)

    def show(self, result: Result) -> None:
        """Show one."""
        if self._quiet and result.status != "failed":
            if sys.stderr.isatty():
                status(result.name)
            return
        self.clear()
        word = self._words[result.status].ljust(self._width)
        echo(f"  {result.name}", mark=click.style(word, fg=_COLORS[result.status]))
        if result.reason:
            echo(f"{self._indent}{result.reason}")
        if result.remedy:
            echo(f"{self._indent}do: {result.remedy}")

    def clear(self) -> None:
        """Take away what tells of the check that is being made."""
        if sys.stderr.isatty():
            clear_status()
