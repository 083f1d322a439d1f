"""``openenv-async serve``: one environment, until a signal."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from openenv_async.cli.options import examples, import_from_here, param_option, timeout_options

__all__ = ["serve"]


@click.command(
    epilog=examples(
        "serve echo",
        "serve gymnasium --param id=CartPole-v1 --param max_episode_steps=100",
        "serve my_package.environment:MyEnvironment --port 0 --json",
        "serve ./my_env --max-sessions 256 --step-timeout 5",
    )
)
@click.argument("target")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Where to listen; 0 takes a free port.",
)
@click.option("--max-sessions", type=click.IntRange(1), help="Sessions at once.  [default: 1024]")
@click.option(
    "--max-waiting", type=click.IntRange(0), help="Sessions that may wait for one.  [default: 0]"
)
@click.option("--workers", type=click.IntRange(0), help="Processes that share the environments.")
@click.option("--max-threads", type=click.IntRange(1), help="Threads for sync environments.")
@param_option
@timeout_options
@click.option("--debug", is_flag=True, help="Send tracebacks of the environment to clients.")
@click.option("--json", "as_json", is_flag=True, help="Announce the address as a line of JSON.")
@click.option(
    "--uvloop/--no-uvloop", default=None, help="Event loop to run on.  [default: if installed]"
)
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
def serve(
    target: str,
    host: str,
    port: int,
    params: dict[str, Any],
    debug: bool,
    as_json: bool,
    uvloop: bool | None,
    until_stdin_closes: bool,
    **settings: Any,
) -> None:
    """Serve the environment TARGET until SIGTERM or Ctrl-C.

    TARGET is the name of an installed environment, module:Class, or a folder with an
    openenv.yaml. One line tells the address once it listens.
    """
    from openenv_async.discovery import find_target
    from openenv_async.engine import EngineOptions
    from openenv_async.serving import run_server
    from openenv_async.types import Timeouts

    import_from_here()
    given = {name: value for name, value in settings.items() if value is not None}
    timeouts = {
        name.removesuffix("_timeout"): given.pop(name) or None
        for name in list(given)
        if name.endswith("_timeout")
    }
    options = EngineOptions(timeouts=Timeouts(**timeouts), debug=debug, **given)
    try:
        spec = find_target(target, params)
    except TypeError as exc:
        raise click.BadParameter(str(exc), param_hint="TARGET") from exc
    spec.schema  # noqa: B018  # fails now if the arguments make no sense

    def announce(url: str) -> None:
        if as_json:
            about = {
                "url": url,
                "pid": os.getpid(),
                "environment": spec.name,
                "version": spec.version,
            }
            click.echo(json.dumps(about))
        else:
            click.echo(f"{spec.name} {spec.version} at {url}")

    try:
        run_server(
            spec,
            host=host,
            port=port,
            options=options,
            on_listening=announce,
            uvloop=uvloop,
            until_stdin_closes=until_stdin_closes,
        )
    except OSError as exc:
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {exc.strerror or exc}"
        ) from exc
    except ModuleNotFoundError as exc:
        raise click.ClickException(f"{exc.name} is not installed") from exc
