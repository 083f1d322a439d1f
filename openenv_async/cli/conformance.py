"""``openenv-async conformance``: the checks of a server."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.options import examples, param_option, token_option
from openenv_async.cli.output import clear_status, console, echo
from openenv_async.cli.output import status as show_status
from openenv_async.cli.targets import resolved, target_argument

if TYPE_CHECKING:
    from openenv_async.checks.conformance import Result

__all__ = ["conformance"]


@click.command(
    epilog=examples(
        "conformance http://127.0.0.1:8000",
        "conformance openenv_async.testing:ConformanceEnvironment",
        "conformance http://127.0.0.1:8000 --transport 'native json' --json",
    )
)
@target_argument()
@token_option
@param_option
@click.option(
    "--transport",
    "transports",
    multiple=True,
    help="Only this one of native msgpack, native json, http, upstream, upstream json-rpc,"
    " mcp 2025-11-25, mcp 2026-07-28, stateless http. Repeatable.",
)
@click.option("--door", "doors", multiple=True, hidden=True)  # its old name
@click.option("--check", "names", multiple=True, help="Only this check. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--verbose", is_flag=True, help="Show what passed and was skipped, too.")
def conformance(
    target: str | list[str],
    params: dict[str, Any],
    token: str | None,
    transports: tuple[str, ...],
    doors: tuple[str, ...],
    names: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Check that the server of TARGET keeps the protocol, over every transport.

    TARGET is the URL of a server, or of several, or anything else that can be served: then a
    server is started for it, and ended afterwards.

    A server of openenv_async.testing:ConformanceEnvironment is put through all checks, any
    other through those that need no help of the environment. The exit code is 1 if one fails.
    """
    from openenv_async.checks import conformance as suite
    from openenv_async.checks.transports import network_transports
    from openenv_async.cli.playing import run

    known = [transport.name for transport in network_transports("")]
    for name in (*transports, *doors):
        if name not in known:
            raise click.BadParameter(f"is one of {', '.join(known)}", param_hint="--transport")
    for name in names:
        if name not in suite.CHECKS:
            raise click.BadParameter(f"there is no check {name!r}", param_hint="--check")
    results = run(
        suite.run(
            resolved(target, params, token, "conformance"),
            transports=(*transports, *doors) or None,
            names=names or None,
            on_result=None if as_json else _show_progress,
        )
    )
    if as_json:
        echo(json.dumps([_plain(result) for result in results], indent=2))
    else:
        _print(results, verbose)
    if any(result.status == "failed" for result in results):
        click.get_current_context().exit(1)


def _plain(result: Result) -> dict[str, str]:
    """Return a result as JSON has it, with the key that it has had since the first version."""
    return {
        "name": result.name,
        "door": result.subject,
        "status": result.status,
        "reason": result.reason,
        "remedy": result.remedy,
    }


def _show_progress(result: Result) -> None:
    if sys.stderr.isatty():
        show_status(f"{result.subject}: {result.name}")


def _print(results: list[Result], verbose: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    if sys.stderr.isatty():
        clear_status()
    shown_on = console()
    summary = Table("transport", "passed", "failed", "skipped", box=None)
    for transport in dict.fromkeys(each.subject for each in results):
        count = Counter(result.status for result in results if result.subject == transport)
        failed = Text(str(count["failed"]), style="red" if count["failed"] else "")
        summary.add_row(transport, str(count["passed"]), failed, str(count["skipped"]))
    shown = [r for r in results if verbose or r.status == "failed"]
    if shown:
        table = Table("transport", "check", "result", "found", "look at")
        colors = {"passed": "green", "failed": "red", "skipped": "dim"}
        for result in shown:
            status = Text(result.status, style=colors[result.status])
            table.add_row(
                result.subject,
                result.name.replace("_", " "),
                status,
                result.reason,
                result.remedy,
            )
        shown_on.print(table)
    shown_on.print(summary)
