"""``openenv-async rollout``: play episodes and report on them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from openenv_async.cli.options import (
    SECONDS,
    examples,
    import_from_here,
    is_url,
    param_option,
    token_option,
)

__all__ = ["rollout"]


def _read_out(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in (".jsonl", ".parquet"):
        raise click.BadParameter(f"{value.name!r} ends neither in .jsonl nor .parquet", ctx, param)
    return value


def _read_policy(
    ctx: click.Context, param: click.Parameter, value: str
) -> Callable[..., Any] | None:
    """The policy; ``None`` for random, which needs the server's schema."""
    if value == "random":
        return None
    from openenv_async.rollouts import load_policy

    import_from_here()
    try:
        return load_policy(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


@click.command(
    epilog=examples(
        "rollout echo --episodes 100 --max-steps 10",
        "rollout gymnasium --param id=CartPole-v1 --episodes 500 --seed 0 --out cartpole.parquet",
        "rollout http://127.0.0.1:8000 --policy my_module:policy --concurrency 256",
    )
)
@click.argument("target")
@click.option(
    "--episodes", default=100, show_default=True, type=click.IntRange(1), help="How many."
)
@click.option(
    "--concurrency", default=64, show_default=True, type=click.IntRange(1), help="At once."
)
@click.option(
    "--policy",
    default="random",
    show_default=True,
    callback=_read_policy,
    metavar="random|MODULE:CALLABLE",
    help="Chooses the actions.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_read_out,
    help="File for the trajectories, .jsonl or .parquet.",
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the first episode and the policy.")
@click.option("--max-steps", type=click.IntRange(1), help="Truncate episodes after so many steps.")
@click.option("--timeout", type=SECONDS, help="Seconds for one episode; 0: no limit.")
@click.option("--connections", type=click.IntRange(1), help="Connections to share.  [default: 1]")
@token_option
@param_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def rollout(
    target: str, policy: Callable[..., Any] | None, params: dict[str, Any], **options: Any
) -> None:
    """Play episodes of TARGET and report on them.

    TARGET is the URL of a server, or what `serve` takes: then a server is started for it on
    this machine, and ended afterwards.
    """
    from openenv_async.cli.playing import run

    if is_url(target) and params:
        raise click.BadParameter("a running server has its arguments already", param_hint="--param")
    run(_rollout(target, policy, params, **options))


async def _rollout(
    target: str,
    policy: Callable[..., Any] | None,
    params: dict[str, Any],
    *,
    as_json: bool,
    out: Path | None,
    seed: int | None,
    timeout: float | None,
    concurrency: int,
    token: str | None,
    **options: Any,
) -> None:
    from openenv_async.cli.playing import play, progress_bar
    from openenv_async.localserver import LocalServer
    from openenv_async.rollouts import RandomPolicy, fetch_schema

    async with contextlib.AsyncExitStack() as stack:
        url = target
        if not is_url(target):
            room = ("--max-sessions", str(max(1024, concurrency)))
            server = await stack.enter_async_context(LocalServer(target, params, arguments=room))
            url, token = server.url, None
        if policy is None:
            policy = RandomPolicy((await fetch_schema(url, token=token))["action"], seed)
        with progress_bar() as bar:
            summary = await play(
                url,
                policy,
                out=out,
                bar=bar,
                title=target,
                seeds=seed,
                timeout=timeout or None,
                concurrency=concurrency,
                token=token,
                **options,
            )
    if as_json:
        report = summary.as_dict() | {"file": None if out is None else str(out)}
        click.echo(json.dumps(report))
    else:
        from rich.console import Console

        table = summary.table(target)
        if out is not None:
            table.add_row("file", str(out))
        Console().print(table)
    if summary.failures == summary.episodes:
        reason = next(iter(summary.errors.values()), "all were cancelled")
        raise click.ClickException(f"no episode is usable: {reason}")
