"""``openenv-async init``: a new environment from a template."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from openenv_async.building.scaffold import TEMPLATES, scaffold
from openenv_async.cli.options import examples
from openenv_async.cli.output import echo
from openenv_async.errors import InvalidOption

__all__ = ["init"]


@click.command(
    epilog=examples(
        "init my_env",
        "init shop_env --template tools",
        "init pole_env --template gymnasium --into ../environments",
    )
)
@click.argument("name")
@click.option(
    "--template",
    default="minimal",
    show_default=True,
    type=click.Choice(list(TEMPLATES)),
    help="; ".join(f"{name}: {about}" for name, about in TEMPLATES.items()) + ".",
)
@click.option(
    "--into",
    default=Path(),
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that gets the new one.  [default: this one]",
)
def init(name: str, template: str, into: Path) -> None:
    """Make the folder NAME: a new environment that runs, passes its tests and validates.

    It has models, environment, client, application, manifest, Dockerfile, project file, README
    and tests. Nothing that exists is overwritten.

    Exit codes: 0 made; 2 the name will not do, or the folder exists.
    """
    try:
        files = scaffold(name, template=template, into=into)
    except InvalidOption as exc:
        raise click.UsageError(exc.message, click.get_current_context()) from exc
    folder = into / name
    echo(f"{folder}: {len(files)} files. Next:")
    for command in (
        f"cd {shlex.quote(str(folder))}",
        "python -m pip install -e '.[dev]'",
        "python -m pytest",
        "openenv-async validate .",
        "openenv-async play .",
        "openenv-async build .",
        "openenv-async serve .",
    ):
        echo(f"  {command}")
