"""``openenv-async replay``: drive an environment through recorded episodes again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.options import examples, param_option, token_option
from openenv_async.cli.output import echo
from openenv_async.cli.targets import resolved, target_argument

if TYPE_CHECKING:
    from openenv_async.rollouts import Trajectory
    from openenv_async.targets.resolve import ResolvedTarget

__all__ = ["replay"]


@click.command(
    epilog=examples(
        "replay cartpole.parquet gymnasium --param id=CartPole-v1",
        "replay runs.jsonl http://127.0.0.1:8000 --ignore info --episode 3",
    )
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@target_argument()
@click.option("--episode", "wanted", type=click.IntRange(0), help="Only the episode of this index.")
@click.option(
    "--tolerance", default=0.0, type=click.FloatRange(0.0), help="By which numbers may differ."
)
@click.option(
    "--ignore",
    multiple=True,
    type=click.Choice(["observation", "reward", "terminated", "truncated", "info"]),
    help="A part that is not compared. Repeatable.",
)
@token_option
@param_option
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def replay(
    file: Path, target: str | list[str], params: dict[str, Any], token: str | None, **options: Any
) -> None:
    """Replay the episodes of FILE on TARGET and say where each first differs.

    FILE is what `rollout --out` wrote. TARGET is the URL of a server, or anything else that can be
    served. Episodes are replayed on the servers of several URLs in turn.
    The exit code is 1 when an episode differs. Episodes whose reset failed are left out.
    """
    from openenv_async.cli.playing import run

    if file.suffix not in (".jsonl", ".parquet"):
        raise click.BadParameter(
            f"{file.name!r} ends neither in .jsonl nor .parquet", param_hint="FILE"
        )
    run(_replay(file, resolved(target, params, token, "replay"), **options))


def _episodes(file: Path) -> Iterator[Trajectory]:
    """Yield the episodes of a file; one without trajectories is the user's mistake."""
    from openenv_async.rollouts import read_trajectories

    try:
        yield from read_trajectories(file)
    except ValueError as exc:
        raise click.ClickException(str(exc)) from exc


async def _replay(
    file: Path,
    target: ResolvedTarget,
    *,
    wanted: int | None,
    tolerance: float,
    ignore: tuple[str, ...],
    as_json: bool,
) -> None:
    from openenv_async import GenericEnvClient
    from openenv_async.checks.servers import servers
    from openenv_async.rollouts.replaying import replay as replayed

    report: list[dict[str, Any]] = []
    left_out = 0
    async with contextlib.AsyncExitStack() as stack:
        found = await stack.enter_async_context(servers(target))
        for trajectory in _episodes(file):
            if wanted is not None and trajectory.index != wanted:
                continue
            if trajectory.seed is None:
                left_out += 1
                continue
            server = found[len(report) % len(found)]
            async with GenericEnvClient(server.url, token=server.token) as env:
                differing = await replayed(env, trajectory, tolerance=tolerance, ignore=ignore)
            text = None if differing is None else str(differing)
            report.append(
                {"episode": trajectory.index, "steps": trajectory.steps, "difference": text}
            )
            if not as_json:
                steps = len(trajectory.transitions)
                echo(f"episode {trajectory.index}: {text or f'the same, {steps} steps'}")
    if as_json:
        echo(json.dumps({"episodes": report, "left_out": left_out}))
    elif left_out:
        echo(f"left out, since their reset failed or nothing tells their seed: {left_out}")
    if not report:
        raise click.ClickException(f"{file.name} has no such episode that could be replayed")
    count = sum(row["difference"] is not None for row in report)
    if count:
        raise click.ClickException(f"{count} of {len(report)} episodes differ")
