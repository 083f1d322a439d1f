"""``openenv-async demo``: thousands of episodes in a few seconds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import console

if TYPE_CHECKING:
    from openenv_async.providers.local_server import LocalServer

__all__ = ["demo"]

_SEED: Final = 0
_RUNS: Final = (("Blackjack-v1", 2000), ("CartPole-v1", 200))


@click.command(epilog=examples("demo", "demo --out my-folder --concurrency 64"))
@click.option(
    "--out",
    default=Path("demo-output"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the trajectories.",
)
@click.option(
    "--concurrency", default=256, show_default=True, type=click.IntRange(1), help="At once."
)
def demo(out: Path, concurrency: int) -> None:
    """Play 2,000 games of Blackjack and 200 of CartPole, 256 at a time.

    Starts the Gymnasium environment as a server on this machine, plays with random actions,
    writes the trajectories and prints what came of it.
    """
    from openenv_async.cli.playing import run

    run(_demo(out, concurrency))


async def _demo(out: Path, concurrency: int) -> None:
    from openenv_async.cli.playing import play
    from openenv_async.cli.progress import progress_bar
    from openenv_async.client.server_info import fetch_schema
    from openenv_async.providers.local_server import LocalServer
    from openenv_async.rollouts import RandomPolicy
    from openenv_async.targets.discovery import find_entry

    find_entry("gymnasium")  # a clear word when it is not installed
    shown_on = console()
    begun = time.perf_counter()
    # Steps of these two take microseconds: less than handing them to a thread would.
    servers = [LocalServer("gymnasium-inline", {"id": id}) for id, _ in _RUNS]
    try:
        await _start(servers)
        for server, (id, episodes) in zip(servers, _RUNS, strict=True):
            policy = RandomPolicy((await fetch_schema(server.url))["action"], _SEED)
            file = out / f"{id}.jsonl"
            with progress_bar() as bar:
                summary = await play(
                    server.url,
                    policy,
                    episodes=episodes,
                    concurrency=concurrency,
                    seeds=_SEED,
                    out=file,
                    bar=bar,
                    title=id,
                )
            table = summary.table(f"{id}, {min(concurrency, episodes)} at a time")
            table.add_row("file", str(file))
            shown_on.print(table)
    finally:
        for server in servers:
            await server.aclose()
    shown_on.print(f"Done in {time.perf_counter() - begun:.1f} s. The trajectories are in {out}/")


async def _start(servers: list[LocalServer]) -> None:
    """Start them at the same time; raises what the first of them raised."""
    started = await asyncio.gather(
        *(server.__aenter__() for server in servers), return_exceptions=True
    )
    for result in started:
        if isinstance(result, BaseException):
            raise result
