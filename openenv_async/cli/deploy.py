"""``openenv-async deploy``: the files by which servers are run in production."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openenv_async.building.deployment import KINDS, SETTINGS, write_deployment
from openenv_async.cli.options import examples
from openenv_async.cli.output import echo
from openenv_async.errors import InvalidOption

__all__ = ["deploy"]


def _read_settings(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    settings = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r} is not NAME=VALUE", ctx, param)
        settings[name] = value
    return settings


@click.command(
    epilog=examples(
        "deploy nginx --set prefix=/envs --set server_name=env.example",
        "deploy systemd --out units --set target=gymnasium --set port=8010",
        "deploy kubernetes --set name=coding --set image=registry.example/coding-env:1.4",
    )
)
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that gets them.  [default: one named KIND]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_settings,
    help="Setting; "
    + "; ".join(f"{name}: {about} ({default})" for name, (default, about) in SETTINGS.items())
    + ". Repeatable.",
)
def deploy(kind: str, out: Path | None, settings: dict[str, Any]) -> None:
    """Write the files that run a server in production: KIND says how.

    nginx and caddy: a reverse proxy with a prefix. systemd: a service of a Linux machine.
    compose: a container. kubernetes: pods with Services, probes, a drain and a disruption budget.
    prometheus: a scrape configuration and alerts. grafana: a dashboard. Each file begins with the
    commands that put it to use. Nothing that exists is overwritten.

    Exit codes: 0 written; 2 a wrong value, or a file exists.
    """
    try:
        files = write_deployment(kind, Path(kind) if out is None else out, settings)
    except InvalidOption as exc:
        raise click.UsageError(exc.message, click.get_current_context()) from exc
    for path in files:
        echo(str(path))
