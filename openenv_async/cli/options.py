"""Options and values that several commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from openenv_async.endpoints.tokens import (
    ADMIN_TOKEN_VARIABLE,
    AGENT_TOKEN_VARIABLE,
    TOKEN_VARIABLE,
    find_token,
)
from openenv_async.types import MAX_SECONDS, Timeouts

__all__ = [
    "ENGINE_KEY_VARIABLE",
    "SECONDS",
    "address_options",
    "admin_token_option",
    "agent_token_option",
    "certificate_options",
    "complete_target",
    "examples",
    "import_from_here",
    "is_url",
    "log_options",
    "param_option",
    "process_options",
    "timeout_options",
    "token_option",
]

ENGINE_KEY_VARIABLE = "OPENENV_ENGINE_KEY"
"""Environment variable with the key of a gateway's engine."""

Command = TypeVar("Command", bound=Callable[..., Any])


class _Seconds(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.5 on
    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = 0.0 if value == "none" else float(value)
        except ValueError:
            seconds = float("nan")
        if not 0 <= seconds <= MAX_SECONDS:
            self.fail(f"{value!r} is not a number of seconds from 0 to {MAX_SECONDS:g}", param, ctx)
        return seconds


SECONDS = _Seconds()
"""A duration; 0 is for options that can be switched off."""


def param_option(command: Command) -> Command:
    """Add the option ``--param``, given as ``params``."""
    decorate = click.option(
        "--param",
        "params",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_read_params,
        help="Constructor argument of the environment; JSON, else text. Repeatable.",
    )
    return decorate(command)


def token_option(command: Command) -> Command:
    """Add the option ``--token-file``; ``token`` is given the token, or ``None``.

    There is no ``--token``: every user of the machine can read command lines.
    """
    return _token_file("token", TOKEN_VARIABLE, "the access token")(command)


def agent_token_option(command: Command) -> Command:
    """Add the option ``--agent-token-file``; ``agent_token`` is given it, or ``None``."""
    return _token_file("agent_token", AGENT_TOKEN_VARIABLE, "a token for MCP alone")(command)


def admin_token_option(command: Command) -> Command:
    """Add the option ``--admin-token-file``; ``admin_token`` is given it, or ``None``."""
    holds = "the token that alone may drain"
    return _token_file("admin_token", ADMIN_TOKEN_VARIABLE, holds)(command)


def _token_file(name: str, variable: str, holds: str) -> Callable[[Command], Command]:
    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        try:
            return find_token(value, os.environ, variable)
        except (OSError, ValueError) as exc:
            raise click.BadParameter(str(exc), ctx, param) from None

    return click.option(
        f"--{name.replace('_', '-')}-file",
        name,
        type=click.Path(exists=True, dir_okay=False),
        callback=read,
        help=f"File with {holds}; without it ${variable} is taken.",
    )


def _with(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def address_options(port: int) -> Callable[[Command], Command]:
    """Return a decorator that adds ``--host`` and ``--port``, whose default is given."""
    return _with(
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="Address to listen at."
        ),
        click.option(
            "--port",
            default=port,
            show_default=True,
            type=click.IntRange(0, 65535),
            help="Port to listen at; 0 takes a free one.",
        ),
    )


def certificate_options(schemes: str) -> Callable[[Command], Command]:
    """Return a decorator that adds ``--ssl-certfile`` and ``--ssl-keyfile``.

    Args:
        schemes: of the URLs that are served with them.
    """
    return _with(
        click.option(
            "--ssl-certfile",
            type=click.Path(exists=True, dir_okay=False),
            help=f"Certificate chain in PEM format: serve {schemes}.",
        ),
        click.option(
            "--ssl-keyfile",
            type=click.Path(exists=True, dir_okay=False),
            help="Its private key, where the certificate's file does not have it.",
        ),
    )


log_options = _with(
    click.option(
        "--log-level",
        default="warning",
        show_default=True,
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Level of what is logged, on standard error.",
    ),
    click.option(
        "--log-format",
        default="text",
        show_default=True,
        type=click.Choice(["text", "json"]),
        help="Lines of text or of JSON.",
    ),
)
"""Decorator that adds ``--log-level`` and ``--log-format``."""

process_options = _with(
    click.option("--json", "as_json", is_flag=True, help="Announce the address as a line of JSON."),
    click.option(
        "--uvloop/--no-uvloop",
        default=None,
        help="Event loop to run on.  [default: where it exists]",
    ),
)
"""Decorator that adds ``--json``, given as ``as_json``, and ``--uvloop``."""


def timeout_options(command: Command) -> Command:
    """Add an option per field of ``Timeouts`` that a server has, such as ``--step-timeout``."""
    for name, default in reversed(_server_timeouts()):
        shown = "none" if default is None else f"{default:g}"
        decorate = click.option(
            f"--{name}-timeout",
            type=SECONDS,
            envvar=f"OPENENV_TIMEOUT_{name.upper()}",
            metavar="SECONDS",
            help=f"As Timeouts.{name}; 0 for none.  [default: {shown}]",
        )
        command = decorate(command)
    return command


def _server_timeouts() -> list[tuple[str, float | None]]:
    return [(name, value) for name, value in asdict(Timeouts()).items() if name != "connect"]


def _read_params(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for item in value:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{item!r} is not KEY=VALUE", ctx, param)
        try:
            params[key] = json.loads(text)
        except ValueError:
            params[key] = text
    return params


def examples(*lines: str) -> str:
    """Return an epilog of examples, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  openenv-async {line}" for line in lines)


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Return names of installed environments, and folders, for shells that complete TARGET."""
    from click.shell_completion import CompletionItem

    from openenv_async.targets.discovery import installed

    names = [CompletionItem(name) for name in installed() if name.startswith(incomplete)]
    if not incomplete or "/" in incomplete or incomplete.startswith((".", "~")) or not names:
        names.append(CompletionItem(incomplete, type="dir"))
    return names


def import_from_here() -> None:
    """Let ``module:Class`` name modules of the current folder, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def is_url(target: str) -> bool:
    """Return whether a target is the address of a server."""
    return target.startswith(("http://", "https://", "ws://", "wss://"))
