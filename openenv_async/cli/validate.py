"""``openenv-async validate``: the checks of an environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.findings import Findings, names_option, quiet_option
from openenv_async.cli.options import (
    SECONDS,
    examples,
    param_option,
    token_option,
)
from openenv_async.cli.output import echo
from openenv_async.cli.targets import resolved, target_argument

if TYPE_CHECKING:
    from openenv_async.checks.registry import Result

__all__ = ["validate"]

_WORDS = {"passed": "pass", "failed": "fail", "skipped": "skip"}


def _checks() -> Mapping[str, Any]:
    from openenv_async.checks.validation import CHECKS

    return CHECKS


@click.command(
    epilog=examples(
        "validate ./my_env",
        "validate echo --json",
        "validate gymnasium --param id=Blackjack-v1",
        "validate http://127.0.0.1:8000 --check equal_seeds_give_equal_episodes",
        "validate . --varying elapsed --timeout 60",
    )
)
@target_argument(default=".")
@names_option("check", _checks)
@click.option(
    "--timeout", default=10.0, show_default=True, type=SECONDS, help="Seconds for one call."
)
@click.option(
    "--varying",
    multiple=True,
    metavar="FIELD",
    help="A field that differs between equal episodes, such as a duration. Repeatable.",
)
@click.option(
    "--max-observation-size",
    default=16 * 1024 * 1024,
    type=click.IntRange(1),
    metavar="BYTES",
    help="Of the largest observation.  [default: 16 MiB]",
)
@click.option(
    "--sessions",
    default=16,
    show_default=True,
    type=click.IntRange(2, 512),
    help="Sessions at once in the check of load.",
)
@token_option
@param_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@quiet_option
def validate(
    target: str | list[str],
    names: tuple[str, ...] | None,
    token: str | None,
    params: dict[str, Any],
    as_json: bool,
    quiet: bool,
    timeout: float,
    **options: Any,
) -> None:
    """Check the environment TARGET: its folder, and what it does when it is served.

    TARGET is a folder with an openenv.yaml (by default this one), an installed name, module:Class,
    an image, a Space, or the URL of a server or several, upstream's included. Each check has a
    name and says what was found and what to do.

    Exit codes: 0 nothing failed; 1 a check failed, or no server answers; 2 a wrong value.
    """
    from openenv_async.checks.validation import validate as check_all
    from openenv_async.cli.playing import run

    findings = Findings("skip", quiet)
    results = run(
        check_all(
            resolved(target, params, token, "validate"),
            names=names,
            timeout=timeout or 10.0,
            on_result=None if as_json else findings.show,
            **options,
        )
    )
    failed = sum(result.status == "failed" for result in results)
    if as_json:
        echo(json.dumps([_plain(result) for result in results], indent=2))
    else:
        findings.clear()
        skipped = sum(result.status == "skipped" for result in results)
        passed = len(results) - failed - skipped
        echo(f"{passed} passed, {failed} failed, {skipped} skipped")
    if failed:
        click.get_current_context().exit(1)


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "result": _WORDS[result.status],
        "reason": result.reason,
        "remedy": result.remedy,
    }
