"""``openenv-async ps``, ``gc`` and ``logs``: the containers that runs have, or left behind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import console, echo
from openenv_async.errors import TargetNotFound

if TYPE_CHECKING:
    from openenv_async.providers.docker.client import DockerClient
    from openenv_async.providers.docker.sweep import Kept

__all__ = ["gc", "logs", "ps"]

T = TypeVar("T")

engine_option = click.option(
    "--engine",
    metavar="URL",
    help="Address of the Docker Engine.  [default: as the docker command finds it]",
)
_STATES = {"alive": "runs", "gone": "is gone", "elsewhere": "is elsewhere"}


@click.command(epilog=examples("ps", "ps --json"))
@engine_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a container.")
def ps(engine: str | None, as_json: bool) -> None:
    """List the containers of all runs, and whether their owners still live."""
    for kept in (found := _ask(engine, _kept)):
        if as_json:
            echo(json.dumps(_facts(kept)))
    if as_json:
        return
    if not found:
        echo("no containers")
        return
    _table(found)


@click.command(epilog=examples("gc", "gc --dry-run", "gc --run 0d5a… --yes"))
@engine_option
@click.option("--dry-run", is_flag=True, help="Say what would be removed, remove nothing.")
@click.option("--run", metavar="ID", help="Remove those of one run, whose owner may live (see ps).")
@click.option("--all", "everything", is_flag=True, help="Remove those of every run.")
@click.option("--yes", is_flag=True, help="Do not ask before removing what an owner still uses.")
def gc(engine: str | None, dry_run: bool, run: str | None, everything: bool, yes: bool) -> None:
    """Remove the containers whose owners are gone.

    Also those whose time is over and whose owner cannot be looked up from here. Owners that live
    lose nothing unless asked for by --run or --all.
    """
    found = _ask(engine, _kept)
    if run is not None:
        chosen = [kept for kept in found if kept.owner.run.startswith(run)]
        if len({kept.owner.run for kept in chosen}) > 1:
            raise click.UsageError(f"{run} begins the ids of several runs: write more of it")
    elif everything:
        chosen = found
    else:
        chosen = [kept for kept in found if kept.is_orphan or kept.is_expired]
    if dry_run:
        for kept in chosen:
            echo(f"would remove {kept.name} ({kept.image}, its owner {_owner(kept)})")
        return
    others = sum(kept.owner_state != "gone" and not kept.is_expired for kept in chosen)
    if others and not yes:
        click.confirm(f"{others} of {len(chosen)} may be in use. Remove them?", abort=True)

    async def remove(connected: DockerClient) -> None:
        await asyncio.gather(*(connected.remove(kept.id, timeout=60.0) for kept in chosen))

    _ask(engine, remove)
    echo(f"removed {len(chosen)} of {len(found)} containers")


@click.command(epilog=examples("logs openenv-3f", "logs openenv-3f --tail 200"))
@click.argument("name")
@engine_option
@click.option("--tail", default=100, show_default=True, type=click.IntRange(1), help="Lines.")
def logs(name: str, engine: str | None, tail: int) -> None:
    """Show the last lines of the container NAME, or of the one whose name or id begins so."""

    async def read(connected: DockerClient) -> str:
        found = [
            kept
            for kept in await _kept(connected)
            if kept.name.startswith(name) or kept.id.startswith(name)
        ]
        if not found:
            raise TargetNotFound(f"no container of ours is called {name}: see openenv-async ps")
        if len(found) > 1:
            raise TargetNotFound(f"{name} begins {len(found)} names: write more of it")
        return await connected.log_tail(found[0].id, lines=tail, timeout=30.0)

    echo(_ask(engine, read))


def _ask(url: str | None, question: Callable[[DockerClient], Awaitable[T]]) -> T:
    from openenv_async.providers.docker.client import DockerClient

    async def ask() -> T:
        # Secrets of other processes are not known here: nothing can be taken out.
        connected = DockerClient(url or None, max_calls=16, redact=str)
        try:
            return await question(connected)
        finally:
            await connected.aclose()

    return asyncio.run(ask())


async def _kept(engine: DockerClient) -> list[Kept]:
    from openenv_async.providers.docker.sweep import kept_containers

    return await kept_containers(engine)


def _owner(kept: Kept) -> str:
    return _STATES[kept.owner_state]


def _facts(kept: Kept) -> dict[str, Any]:
    return {
        "name": kept.name,
        "id": kept.id,
        "image": kept.image,
        "state": kept.state,
        "created": kept.created,
        "expires": None if kept.expires == float("inf") else kept.expires,
        "run": kept.owner.run,
        "owner_pid": kept.owner.pid,
        "owner": kept.owner_state,
        "orphan": kept.is_orphan,
    }


def _table(found: list[Kept]) -> None:
    from rich.table import Table

    table = Table("name", "image", "state", "age", "run", "owner", box=None)
    now = time.time()
    for kept in found:
        owner = f"{kept.owner.pid} {_owner(kept)}"
        age = f"{max(0.0, now - kept.created):.0f} s"
        table.add_row(kept.name, kept.image, kept.state, age, kept.owner.run[:12], owner)
    console(width=None if console().is_terminal else 160).print(table)
