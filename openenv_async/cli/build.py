"""``openenv-async build``: the image of an environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from openenv_async.cli.options import SECONDS, examples
from openenv_async.cli.output import echo

__all__ = ["build", "build_arg_option", "said"]


def _read_build_args(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> dict[str, str]:
    arguments: dict[str, str] = {}
    for item in value:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{item!r} is not KEY=VALUE", ctx, param)
        arguments[key] = text
    return arguments


build_arg_option = click.option(
    "--build-arg",
    "build_args",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_read_build_args,
    help="Argument of the Dockerfile, such as BASE=IMAGE. Repeatable.",
)


def said(quiet: bool) -> Callable[[str], object]:
    """Return what takes a line of output: it goes to standard error, or is dropped."""
    if quiet:
        return lambda line: None
    return lambda line: echo(line, err=True)


@click.command(
    epilog=examples(
        "build",
        "build ./my_env --tag my-env:1.2",
        "build ./my_env --build-arg BASE=my-registry/base:3 --no-cache",
        "build ./my_env --tag localhost:5000/my-env:1.2 --push",
    )
)
@click.argument(
    "path", default=Path(), type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--tag", metavar="NAME[:TAG]", help="Of the image.  [default: openenv-async-NAME]")
@build_arg_option
@click.option("--no-cache", is_flag=True, help="Build every step anew.")
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Start a container of it and open a session, before it is called built.",
)
@click.option("--push", is_flag=True, help="Push it to the registry that --tag names.")
@click.option(
    "--pip-settings/--no-pip-settings",
    default=None,
    help="Give pip in the build this machine's indexes and CA bundle.  [default: if asked for]",
)
@click.option("--timeout", type=SECONDS, default=3600.0, show_default=True, help="For all of it.")
@click.option("--quiet", "-q", is_flag=True, help="Show no output of the build.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(
    path: Path,
    tag: str | None,
    build_args: dict[str, str],
    no_cache: bool,
    check: bool,
    push: bool,
    pip_settings: bool | None,
    timeout: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build the image of the environment in the folder PATH with the Docker Engine.

    Its openenv.yaml names the Dockerfile; the folder is the context, less what .dockerignore
    names. Output is streamed to standard error. Ctrl-C cancels the build. The base image is built
    first where it is missing, of $OPENENV_BASE, an image with Python (python:3.11-slim).

    Exit codes: 0 built; 1 a step failed, the image does not serve, or no Engine answers; 2 a wrong
    value.
    """
    from openenv_async.building import build_image, check_image, push_image
    from openenv_async.cli.playing import run

    if push and "/" not in (tag or ""):
        raise click.UsageError("--push needs a --tag with a registry, such as HOST:PORT/NAME")

    folder = path.resolve()

    async def main() -> dict[str, object]:
        built = await build_image(
            folder,
            tag=tag,
            build_args=build_args,
            no_cache=no_cache,
            pip_settings=pip_settings,
            on_line=said(quiet),
            timeout=timeout or 86_400.0,
        )
        if check:
            await check_image(built.name)
        result: dict[str, object] = {"image": built.name, "id": built.id, "size": built.size}
        if push:
            result["digest"] = await push_image(built.name, on_line=said(quiet))
        return result

    result = run(main())
    if as_json:
        echo(json.dumps(result))
    else:
        megabytes = int(str(result["size"])) / 1e6
        echo(f"built {result['image']} ({str(result['id'])[7:19]}, {megabytes:.0f} MB)")
        if push:
            echo(f"pushed {result['image']} ({result['digest']})")
