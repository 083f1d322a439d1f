"""``openenv-async serve``: one environment, until a signal."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from openenv_async.cli import not_installed
from openenv_async.cli.options import (
    SECONDS,
    address_options,
    admin_token_option,
    agent_token_option,
    certificate_options,
    complete_target,
    examples,
    import_from_here,
    log_options,
    param_option,
    process_options,
    timeout_options,
    token_option,
)
from openenv_async.cli.output import echo
from openenv_async.environment import AGENT_ACCESS

if TYPE_CHECKING:
    from openenv_async.engine import EngineOptions
    from openenv_async.server.reload import Wanted, WantedEnvironment
    from openenv_async.spec import EnvironmentSpec
    from openenv_async.targets.config import ServedEnvironment, ServerConfig

__all__ = ["serve"]

_NAMED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*=")


@click.command(
    epilog=examples(
        "serve echo",
        "serve gymnasium --param id=CartPole-v1 --param max_episode_steps=100",
        "serve gymnasium --param id=CartPole-v1 --vector 64",
        "serve my_package.environment:MyEnvironment --port 0 --json",
        "serve ./my_env --max-sessions 256 --step-timeout 5",
        "serve 'mcp:mcp-server-filesystem {folder}' --param max_steps=30",
        "serve echo --host 0.0.0.0 --token-file token.txt --ssl-certfile cert.pem",
        "serve echo coding mine=./my_env",
        "serve --config environments.yaml",
    )
)
@click.argument("target", nargs=-1, metavar="TARGET...", shell_complete=complete_target)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="YAML or TOML file of environments with their settings, and of named tokens.",
)
@address_options(8000)
@click.option("--max-sessions", type=click.IntRange(1), help="Sessions at once.  [default: 1024]")
@click.option(
    "--max-waiting", type=click.IntRange(0), help="Sessions that may wait for one.  [default: 0]"
)
@click.option("--workers", type=click.IntRange(1), help="Processes that share the environments.")
@click.option("--max-threads", type=click.IntRange(1), help="Threads for sync environments.")
@click.option(
    "--vector",
    type=click.IntRange(1),
    metavar="N",
    help="Let a session be a vector of N of the Gymnasium environment.",
)
@param_option
@timeout_options
@token_option
@admin_token_option
@agent_token_option
@click.option(
    "--allow-origin",
    "allowed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Web pages of https://HOST[:PORT] may connect; * allows any. Repeatable.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Answer requests for this host without a token; * for any. Repeatable.",
)
@click.option(
    "--agent-access",
    multiple=True,
    type=click.Choice(AGENT_ACCESS),
    help="Let agents that play over MCP see or set this. Repeatable.",
)
@click.option(
    "--agent-idle-timeout",
    default=600.0,
    show_default=True,
    type=SECONDS,
    metavar="SECONDS",
    help="End sessions that agents play over MCP when unused for so long; 0 for never.",
)
@click.option(
    "--stateless-http",
    is_flag=True,
    default=None,
    help="Give HTTP calls that name no session an environment each, as OpenEnv does.",
)
@click.option(
    "--mode",
    type=click.Choice(["simulation", "production"]),
    help="production: no HTTP routes that play.  [default: simulation]",
)
@click.option("--insecure", is_flag=True, help="Let other machines connect without a token.")
@certificate_options("https and wss")
@click.option(
    "--min-free-memory",
    type=click.IntRange(0),
    metavar="BYTES",
    help="Memory below which nothing new is opened; 0: never refuse.  [default: 64 MiB]",
)
@log_options
@click.option("--debug", is_flag=True, help="Send tracebacks of the environment to clients.")
@process_options
@click.option(
    "--local/--no-local",
    default=True,
    show_default=True,
    help="Serve clients on this machine over a Unix socket too, on Linux.",
)
@click.option(
    "--drain",
    type=SECONDS,
    metavar="SECONDS",
    help="Let episodes end within so long after a SIGTERM, and begin no other.  [default: 0]",
)
@click.option(
    "--owner-lease",
    type=click.FloatRange(0, min_open=True),
    envvar="OPENENV_OWNER_LEASE",
    metavar="SECONDS",
    help="Stop when nobody with the token showed up for so long.  [default: never]",
)
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
def serve(
    target: tuple[str, ...],
    config: str | None,
    host: str,
    port: int,
    vector: int | None,
    params: dict[str, Any],
    debug: bool,
    as_json: bool,
    uvloop: bool | None,
    drain: float | None,
    owner_lease: float | None,
    until_stdin_closes: bool,
    token: str | None,
    admin_token: str | None,
    agent_token: str | None,
    allowed_origins: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    agent_access: tuple[str, ...],
    agent_idle_timeout: float,
    stateless_http: bool | None,
    mode: str | None,
    insecure: bool,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    local: bool,
    log_level: str,
    log_format: Literal["text", "json"],
    **settings: Any,
) -> None:
    """Serve the environments TARGET until SIGTERM or Ctrl-C.

    Several are served at http://HOST:PORT/NAME each: their own names, or NAME=TARGET.

    TARGET is the name of an installed environment, module:Class, the id of a registered
    Gymnasium environment such as CartPole-v1, a folder with an openenv.yaml, or of a scheme,
    such as mcp:COMMAND or mcp:URL for an MCP server. The class is an Environment or a
    gymnasium.Env. One line tells the address once it listens.
    """
    from openenv_async.server.run import run_server
    from openenv_async.telemetry.logs import configure_logging

    import_from_here()
    configure_logging(log_level, log_format)
    found = _config(config)
    served = {
        **({"drain_seconds": drain} if drain else {}),
        **_access(found, target, token, admin_token),
        "allowed_origins": allowed_origins,
        "allowed_hosts": allowed_hosts,
        "agent_access": agent_access,
        "agent_token": agent_token,
        "agent_idle_timeout": agent_idle_timeout or None,
        "stateless_http": stateless_http,
        "mode": mode,
        "local": local,
    }
    env: Any
    if len(target) == 1 and not found.environments:
        env = _spec(target[0], params, vector)
        options = _options(settings, debug, env.max_sessions)
        names = None
        if config is not None:
            env = _one_of_file(env, options, config, served)
            served = {}
    else:
        if params or vector is not None:
            raise click.UsageError("--param and --vector are for one: write them into --config")
        usual = functools.partial(_options, settings, debug)
        options = usual(None)
        env = _several(target, config, found, usual, served)
        names = [*env.state.openenv.servers]
        served = {}
    with _told(host, port):
        run_server(
            env,
            host=host,
            port=port,
            options=options,
            on_listening=lambda url: _announce(env, names, url, as_json),
            uvloop=uvloop,
            until_stdin_closes=until_stdin_closes,
            drain=drain or None,
            owner_lease=owner_lease,
            insecure=insecure,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            uvicorn_settings={"log_level": log_level, "log_config": None},
            **served,
        )


def _several(
    targets: Sequence[str],
    config: str | None,
    read: ServerConfig,
    usual: Callable[[int | None], EngineOptions],
    served: Mapping[str, Any],
) -> Any:
    """Return an application of several environments.

    Args:
        targets: of the command line, each perhaps with a name of its own.
        config: path of a file of more.
        read: what that file says.
        usual: makes the options of one, apart from its own, of the sessions that it asks for.
        served: what all have in common.
    """
    from openenv_async.errors import InvalidOption
    from openenv_async.server.reload import Reload
    from openenv_async.server.several import create_app_of_several
    from openenv_async.targets.config import ServedEnvironment

    named: dict[str, ServedEnvironment] = {}
    for target in targets:
        name, _, rest = target.partition("=") if _NAMED.match(target) else ("", "", target)
        each = ServedEnvironment(target=rest)
        name = name or each.spec.name
        if name in named or name in read.environments:
            raise click.UsageError(
                f"two environments are served as {name}: give one of them a name, NAME={rest}"
            )
        named[name] = each
    found = {**read.environments, **named}
    if not found:
        raise click.UsageError("Missing argument 'TARGET': name one, or a file of them (--config)")
    specs = {name: each.spec for name, each in found.items()}
    options = {name: each.options(usual(each.spec.max_sessions)) for name, each in found.items()}
    try:
        labels = {name: each.labels for name, each in found.items()}
        app = create_app_of_several(specs, options, labels=labels, **served)
    except InvalidOption as exc:
        raise click.BadParameter(exc.message, param_hint="TARGET") from exc
    if config is not None:
        several = app.state.openenv
        several.wanted = {name: _wanted(each, usual) for name, each in found.items()}
        several.reload = Reload(several, lambda: _read_again(config, named, usual, served))
    return app


def _one_of_file(
    spec: EnvironmentSpec, options: EngineOptions, config: str, served: Mapping[str, Any]
) -> Any:
    """Return an application of one environment, whose tokens are a file's."""
    from openenv_async.server.app import create_app
    from openenv_async.server.reload import Reload

    app = create_app(spec, options=options, **served)
    server = app.state.openenv
    server.reload = Reload(server, lambda: _read_again(config, {}, lambda _: options, served))
    return app


def _config(path: str | None) -> ServerConfig:
    from openenv_async.errors import InvalidOption
    from openenv_async.targets.config import ServerConfig, from_file

    try:
        return ServerConfig() if path is None else from_file(path)
    except InvalidOption as exc:
        raise click.BadParameter(exc.message, param_hint="--config") from exc


def _access(
    read: ServerConfig, targets: Sequence[str], token: str | None, admin_token: str | None
) -> dict[str, Any]:
    """Return whose tokens are good: those of the command line, or those of the file."""
    from openenv_async.errors import InvalidOption
    from openenv_async.server.callers import Callers

    if not read.tokens:
        return {"token": token, "admin_token": admin_token}
    if token is not None or admin_token is not None:
        raise click.UsageError(
            "tokens come from the file or from --token-file, --admin-token-file and their"
            " variables, not from both: leave one of them out"
        )
    callers = Callers()
    try:
        callers.hold(read.callers({} if targets else read.environments))
    except InvalidOption as exc:
        raise click.BadParameter(exc.message, param_hint="--config") from exc
    return {"callers": callers}


def _wanted(
    each: ServedEnvironment, usual: Callable[[int | None], EngineOptions]
) -> WantedEnvironment:
    """Return an environment as a reload compares it."""
    from openenv_async.server.reload import WantedEnvironment

    def options(spec: EnvironmentSpec) -> EngineOptions:
        return each.options(usual(spec.max_sessions))

    return WantedEnvironment(each.fixed(), lambda: each.spec, options, each.labels, each.live())


def _read_again(
    config: str,
    named: Mapping[str, ServedEnvironment],
    usual: Callable[[int | None], EngineOptions],
    served: Mapping[str, Any],
) -> Wanted:
    """Return what a file wants now.

    Args:
        config: its path.
        named: environments of the command line, which stay.
        usual: makes the options of one, apart from its own.
        served: what all have in common; a token among it keeps those of the file out.
    """
    from openenv_async.server.reload import Wanted
    from openenv_async.targets.config import from_file

    read = from_file(config)
    found = {**read.environments, **named}
    callers = read.callers(found) if served.get("token") is None else None
    return Wanted({name: _wanted(each, usual) for name, each in found.items()}, callers)


def _options(settings: Mapping[str, Any], debug: bool, max_sessions: int | None) -> EngineOptions:
    """The engine's options: those that were given, 0 seconds for no deadline.

    Args:
        settings: from the command line.
        debug: send tracebacks.
        max_sessions: what the environment asks for.
    """
    from openenv_async.engine import EngineOptions
    from openenv_async.types import Timeouts

    given = {name: value for name, value in settings.items() if value is not None}
    timeouts = {
        name.removesuffix("_timeout"): given.pop(name) or None
        for name in list(given)
        if name.endswith("_timeout")
    }
    if max_sessions is not None:
        given.setdefault("max_sessions", max_sessions)
    return EngineOptions(timeouts=Timeouts(**timeouts), debug=debug, **given)


def _spec(target: str, params: dict[str, Any], vector: int | None) -> EnvironmentSpec:
    from openenv_async.targets.discovery import find_target

    try:
        if vector is None:
            spec = find_target(target, params, run_apps=True)
        else:  # some of the arguments are those of vectors alone
            spec = _vectorized(find_target(target), vector, params)
        spec.check()
    except TypeError as exc:
        raise click.BadParameter(str(exc), param_hint="TARGET") from exc
    return spec


def _vectorized(spec: EnvironmentSpec, count: int, params: dict[str, Any]) -> EnvironmentSpec:
    from openenv_async.errors import InvalidOption

    try:
        return spec.vectorized(count, params)
    except InvalidOption as exc:
        raise click.BadParameter(exc.message, param_hint="--vector") from exc


def _announce(env: Any, names: list[str] | None, url: str, as_json: bool) -> None:
    if as_json:
        about: dict[str, Any] = {"url": url, "pid": os.getpid()}
        if names is None:
            about |= {"environment": env.name, "version": env.version}
        else:
            about["environments"] = {name: f"{url}/{name}" for name in names}
        echo(json.dumps(about))
    elif names is None:
        echo(f"{env.name} {env.version} at {url}")
    else:
        echo("\n".join(f"{name} at {url}/{name}" for name in names))


@contextlib.contextmanager
def _told(host: str, port: int) -> Iterator[None]:
    """Return the reason why a server cannot run, as the command line says it."""
    from openenv_async.errors import OpenEnvError

    try:
        yield
    except ValueError as exc:
        raise click.UsageError(str(exc), click.get_current_context()) from exc
    except OpenEnvError as exc:  # what is served cannot be
        raise click.UsageError(exc.message, click.get_current_context()) from exc
    except OSError as exc:
        raise click.ClickException(
            exc.strerror or f"cannot listen on {host}:{port}: {exc}"
        ) from exc
    except ModuleNotFoundError as exc:
        raise click.ClickException(not_installed(exc)) from exc
