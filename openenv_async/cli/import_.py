"""``openenv-async import``: an environment's folder for tasks of another project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openenv_async.building.importing import KINDS, import_environment
from openenv_async.cli.options import examples, param_option
from openenv_async.cli.output import echo
from openenv_async.errors import CallerError

__all__ = ["import_"]


@click.command(
    "import",
    epilog=examples(
        "import harbor ../terminal-bench -o ./terminal_env",
        "import harbor ./tasks -o ./tasks_env --param skip_unsupported=true",
    ),
)
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("source")
@click.option(
    "-o",
    "--out",
    "into",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder that is made; its name is that of the package.",
)
@param_option
def import_(kind: str, source: str, into: Path, params: dict[str, Any]) -> None:
    """Make an environment's folder of SOURCE, which another project's environments are made of.

    KIND says what SOURCE is. harbor: a folder of Harbor (terminal-bench) tasks, or of one. ors: the
    URL of an environment of an Open Reward server. verifiers: MODULE or MODULE:NAME of a taskset.

    The folder has the environment with the arguments that --param gives, client, models, manifest,
    project file, README and Dockerfile, and a copy of the tasks. It validates, builds and is pushed
    as any other. Nothing that exists is overwritten.

    Exit codes: 0 made; 2 there is nothing that can be played at SOURCE, or the folder exists.
    """
    try:
        import_environment(kind, source, into, params)
    except CallerError as exc:
        raise click.UsageError(exc.message, click.get_current_context()) from exc
    text = str(into)
    path = text if into.is_absolute() or text.startswith(".") else f"./{text}"
    echo(f"{into}: made. Next:")
    for command in (f"openenv-async validate {path}", f"openenv-async serve {path}"):
        echo(f"  {command}")
