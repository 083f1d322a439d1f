"""``openenv-async replay``: drive an environment through recorded episodes again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.options import examples, param_option, token_option
from openenv_async.cli.output import echo
from openenv_async.cli.recorded import recorded_episodes
from openenv_async.cli.targets import resolved, target_argument
from openenv_async.cli.tasks import read_recorded_tasks, replayed_task_options

if TYPE_CHECKING:
    from openenv_async.targets.resolve import ResolvedTarget
    from openenv_async.types import Task

__all__ = ["replay"]


@click.command(
    epilog=examples(
        "replay cartpole.parquet gymnasium --param id=CartPole-v1",
        "replay runs.jsonl http://127.0.0.1:8000 --ignore info --episode 3",
        "replay runs.parquet my_env --tasks train.jsonl --private answer",
    )
)
@click.argument("file", metavar="FILE|FOLDER", type=click.Path(exists=True, path_type=Path))
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
@replayed_task_options
@token_option
@param_option
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def replay(
    file: Path, target: str | list[str], params: dict[str, Any], token: str | None, **options: Any
) -> None:
    """Replay recorded episodes on TARGET and say where each first differs.

    FILE or FOLDER is what `rollout --out` wrote. TARGET is the URL of a server, or anything else
    that can be served. Episodes are replayed on the servers of several URLs in turn, with the
    recorded seed and options of reset. Private columns of tasks are in no record: give them by
    `--tasks` and `--private`. The exit code is 1 when an episode differs. Episodes whose reset
    failed are left out.
    """
    from openenv_async.cli.playing import run

    if file.is_file() and file.suffix not in (".jsonl", ".parquet"):
        raise click.BadParameter(
            f"{file.name!r} ends neither in .jsonl nor .parquet", param_hint="FILE"
        )
    tasks = read_recorded_tasks(options)
    run(_replay(file, resolved(target, params, token, "replay"), tasks, **options))


async def _replay(
    file: Path,
    target: ResolvedTarget,
    tasks: Mapping[str, Task],
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
        for trajectory in recorded_episodes(file):
            if wanted is not None and trajectory.index != wanted:
                continue
            if trajectory.seed is None:
                left_out += 1
                continue
            server = found[len(report) % len(found)]
            async with GenericEnvClient(server.url, token=server.token) as env:
                differing = await replayed(
                    env,
                    trajectory,
                    tolerance=tolerance,
                    ignore=ignore,
                    reset_options=_task_options_of(trajectory.task_id, tasks),
                )
            text = None if differing is None else str(differing)
            report.append(
                {"episode": trajectory.index, "steps": trajectory.steps, "difference": text}
            )
            if not as_json:
                same = f"the same, {trajectory.steps} steps"
                echo(f"episode {trajectory.index}: {text or same}")
    if as_json:
        echo(json.dumps({"episodes": report, "left_out": left_out}))
    elif left_out:
        echo(f"left out, since their reset failed or nothing tells their seed: {left_out}")
    if not report:
        raise click.ClickException(f"{file.name} has no such episode that could be replayed")
    count = sum(row["difference"] is not None for row in report)
    if count:
        raise click.ClickException(f"{count} of {len(report)} episodes differ")


def _task_options_of(task: str | None, tasks: Mapping[str, Task]) -> dict[str, Any] | None:
    """Return the options of reset of a recorded task, private columns included.

    Raises:
        click.BadParameter: there are tasks, and it is not one of them.
    """
    if task is None or not tasks:
        return None
    if task not in tasks:
        raise click.BadParameter(f"the task {task!r} is not there", param_hint="--tasks")
    return tasks[task].reset_options
