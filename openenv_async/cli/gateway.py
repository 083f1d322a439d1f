"""``openenv-async gateway``: agents of others and the engines behind them, until a signal."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, Literal

import click

from openenv_async.cli import not_installed
from openenv_async.cli.options import (
    ENGINE_KEY_VARIABLE,
    SECONDS,
    address_options,
    certificate_options,
    examples,
    log_options,
    process_options,
    token_option,
)
from openenv_async.cli.output import echo
from openenv_async.endpoints.tokens import find_token

if TYPE_CHECKING:
    from openenv_async.gateway.gateway import Gateway
    from openenv_async.gateway.sessions import Prices

__all__ = ["gateway"]


def _read_engine_key(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return find_token(value, os.environ, ENGINE_KEY_VARIABLE)
    except (OSError, ValueError) as exc:
        raise click.BadParameter(str(exc), ctx, param) from None


def _read_prices(ctx: click.Context, param: click.Parameter, value: str | None) -> Prices | None:
    if value is None:
        return None
    from openenv_async.gateway.sessions import Prices

    try:
        numbers = [float(each) for each in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(0 <= each < math.inf for each in numbers):
        raise click.BadParameter(
            f"{value!r} is not PROMPT,COMPLETION or PROMPT,COMPLETION,CACHED", ctx, param
        )
    return Prices(
        prompt=numbers[0],
        completion=numbers[1],
        cached=numbers[2] if len(numbers) == 3 else None,
    )


@click.command(
    epilog=examples(
        "gateway --engine http://127.0.0.1:8000/v1 --journal calls --token-file token.txt",
        "gateway --engine http://a:8000/v1 --engine http://b:8000/v1 --model qwen3 --port 0 --json",
        "gateway --engine https://models.example/v1 --level text --engine-key-file key.txt",
    )
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    required=True,
    metavar="URL",
    help="Base URL of an inference server; it often ends in /v1. Repeatable.",
)
@click.option("--model", help="Its name there.  [default: the only one that it lists]")
@click.option(
    "--level",
    default="tokens",
    show_default=True,
    type=click.Choice(["tokens", "logprobs", "text"]),
    help="Level of knowledge that each answer must have.",
)
@click.option(
    "--tokens",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "vllm", "sglang", "logprobs", "none"]),
    help="Engine whose fields ask for that.",
)
@click.option(
    "--engine-key-file",
    "api_key",
    type=click.Path(exists=True, dir_okay=False),
    callback=_read_engine_key,
    help=f"File with the engine's key; without it ${ENGINE_KEY_VARIABLE} is taken.",
)
@click.option(
    "--journal",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Folder that keeps the calls; sessions in it go on.  [default: none, in memory]",
)
@click.option(
    "--fsync",
    default="second",
    show_default=True,
    type=click.Choice(["answer", "second", "never"]),
    help="When the journal is synced to the disk.",
)
@click.option(
    "--journal-retention",
    "retention",
    type=SECONDS,
    metavar="SECONDS",
    help="Keep ended sessions in it for so long.  [default: for ever]",
)
@click.option(
    "--journal-max-size",
    "max_journal_size",
    type=click.IntRange(1),
    metavar="BYTES",
    help="Drop ended sessions from it for this size.  [default: none]",
)
@click.option("--repair-journal", is_flag=True, help="Go on with what a damaged journal has left.")
@address_options(8100)
@token_option
@certificate_options("https")
@click.option(
    "--prices",
    metavar="PROMPT,COMPLETION[,CACHED]",
    callback=_read_prices,
    help="Prices of a million tokens, for budgets of cost.",
)
@click.option(
    "--on-leave",
    default="finish",
    show_default=True,
    type=click.Choice(["finish", "cancel"]),
    help="Let the call of a client that left end, or cut it.",
)
@click.option(
    "--system",
    default="anywhere",
    show_default=True,
    type=click.Choice(["anywhere", "first"]),
    help="Places of system messages that the model's template takes.",
)
@click.option("--max-sessions", type=click.IntRange(1), help="Sessions at once.  [default: 65536]")
@click.option(
    "--max-concurrent", type=click.IntRange(1), help="Calls of a session at once.  [default: 64]"
)
@click.option(
    "--max-calls-per-minute",
    type=click.IntRange(1),
    help="Calls of a session within a minute.  [default: any number]",
)
@click.option(
    "--max-body-size",
    type=click.IntRange(1),
    metavar="BYTES",
    help="Size of a request.  [default: 32 MiB]",
)
@click.option(
    "--call-timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="Deadline of a call, all attempts together.  [default: 3600]",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    help="Times that an engine is asked for one call.  [default: 3]",
)
@click.option(
    "--session-ttl",
    type=SECONDS,
    metavar="SECONDS",
    help="End sessions unused for so long; 0 for never.  [default: 86400]",
)
@click.option(
    "--drain",
    default=30.0,
    show_default=True,
    type=SECONDS,
    metavar="SECONDS",
    help="Time that calls are given to end after a signal.",
)
@log_options
@process_options
def gateway(
    engines: tuple[str, ...],
    model: str | None,
    level: str,
    token: str | None,
    max_sessions: int | None,
    max_concurrent: int | None,
    max_calls_per_minute: int | None,
    max_body_size: int | None,
    call_timeout: float | None,
    max_attempts: int | None,
    session_ttl: float | None,
    log_level: str,
    log_format: Literal["text", "json"],
    as_json: bool,
    **settings: Any,
) -> None:
    """Stand between agents and inference engines, and keep every call with its tokens.

    Sessions are opened with the admin token (POST /sessions); each has a key and base URLs, which
    an agent is given in place of those of a provider. SIGTERM or Ctrl-C lets calls that run end
    first. One line tells the address once it listens.
    """
    if token is None:
        raise click.UsageError(
            "the gateway needs a token with which sessions are opened: --token-file or"
            " OPENENV_TOKEN",
            click.get_current_context(),
        )
    from openenv_async.errors import InvalidOption
    from openenv_async.gateway.run import run_gateway
    from openenv_async.gateway.sessions import GatewayLimits
    from openenv_async.telemetry.logs import configure_logging

    configure_logging(log_level, log_format)
    limits: dict[str, Any] = {
        "max_sessions": max_sessions,
        "max_concurrent": max_concurrent,
        "max_calls_per_minute": max_calls_per_minute,
        "max_body_size": max_body_size,
        "call_timeout": call_timeout,
        "max_attempts": max_attempts,
    }
    limits = {name: value for name, value in limits.items() if value is not None}
    if session_ttl is not None:
        limits["session_ttl"] = session_ttl or None
    try:
        run_gateway(
            list(engines),
            model=model,
            level=level,
            admin_token=token,
            limits=GatewayLimits(**limits),
            on_listening=lambda made: _announce(made, engines, as_json),
            **settings,
        )
    except InvalidOption as exc:
        raise click.UsageError(exc.message, click.get_current_context()) from exc
    except ValueError as exc:  # of a certificate
        if hasattr(exc, "message"):  # one of the library's own, told in one line
            raise
        raise click.UsageError(str(exc), click.get_current_context()) from exc
    except OSError as exc:
        if hasattr(exc, "message"):  # one of the library's own, told in one line
            raise
        raise click.ClickException(exc.strerror or str(exc)) from exc
    except ModuleNotFoundError as exc:
        raise click.ClickException(not_installed(exc)) from exc


def _announce(made: Gateway, engines: tuple[str, ...], as_json: bool) -> None:
    [model] = made.models()
    about = {
        "url": made.url,
        "pid": os.getpid(),
        "engines": list(engines),
        "model": model,
        "level": made.level,
        "journal": made.journal_path,
        "sessions": len(made.sessions()),
    }
    if as_json:
        echo(json.dumps(about))
        return
    kept = "calls in memory alone"
    if made.journal_path is not None:
        kept = f"calls kept in {made.journal_path}"
        if about["sessions"]:
            kept += f", {about['sessions']} sessions go on"
    echo(f"gateway at {made.url} over {', '.join(engines)} ({model}, {made.level}), {kept}")
