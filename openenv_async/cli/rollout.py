"""``openenv-async rollout``: play episodes and report on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.again import with_commands
from openenv_async.cli.agents import AgentSetup, agent_options, read_agent
from openenv_async.cli.options import (
    SECONDS,
    examples,
    is_url,
    param_option,
    token_option,
)
from openenv_async.cli.output import echo
from openenv_async.cli.policies import ModelPolicy, policy_options, read_policy
from openenv_async.cli.runs import left_of, run_folder, run_options
from openenv_async.cli.targets import resolved, target_argument
from openenv_async.cli.tasks import read_tasks, task_options

if TYPE_CHECKING:
    from rich.progress import Progress

    from openenv_async.pool import EnvPool, PoolStatistics
    from openenv_async.providers.base import Provider
    from openenv_async.rollouts import RunFolder

__all__ = ["rollout"]


@click.command(
    epilog=examples(
        "rollout echo --episodes 100 --max-steps 10",
        "rollout gymnasium --param id=CartPole-v1 --episodes 500 --seed 0 --out cartpole.parquet",
        "rollout gymnasium --param id=CartPole-v1 --episodes 20 --video videos --video-every 10",
        "rollout http://127.0.0.1:8000 --policy my_module:policy --concurrency 256",
        "rollout echo --provider docker --servers 4 --max-steps 10",
        "rollout echo --policy openai:MODEL@http://127.0.0.1:8000/v1 --out runs.parquet",
        "rollout coding --agent 'codex exec {prompt}' --engine http://127.0.0.1:8000/v1",
        "rollout my_env --tasks train.jsonl --private answer --group-size 8 --out runs.parquet",
    )
)
@target_argument()
@click.option(
    "--episodes",
    type=click.IntRange(1),
    help="Number of episodes.  [default: 100; with --tasks as many as there are]",
)
@click.option(
    "--concurrency", default=64, show_default=True, type=click.IntRange(1), help="Sessions at once."
)
@policy_options
@agent_options
@task_options
@run_options
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Seed of the first episode and the policy.",
)
@click.option("--max-steps", type=click.IntRange(1), help="Truncate episodes after so many steps.")
@click.option("--timeout", type=SECONDS, help="Seconds for one episode; 0: no limit.")
@click.option(
    "--video",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Record episodes as videos in this folder, texts as asciicasts.",
)
@click.option(
    "--video-every",
    type=click.IntRange(1),
    metavar="N",
    help="With --video: only each Nth episode.",
)
@click.option(
    "--policy-timeout", type=SECONDS, help="Seconds for one decision of the policy; 0: no limit."
)
@click.option(
    "--on-mistake",
    type=click.Choice(["tell", "end", "raise"]),
    help="Consequence of a refused action, or of a reply without one: the policy is told, the"
    " episode ends, or the policy has failed.  [default: tell for a language model, else raise]",
)
@click.option(
    "--max-mistakes",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Mistakes in a row that end an episode.",
)
@click.option("--connections", type=click.IntRange(1), help="Connections to share.  [default: 1]")
@click.option(
    "--provider",
    type=click.Choice(["process", "docker", "kubernetes", "ray", "space", "static"]),
    help="Runner of the servers.  [default: static for a URL, else process]",
)
@click.option(
    "--servers", default=1, show_default=True, type=click.IntRange(1), help="Servers to start."
)
@click.option("--workers", "old_servers", type=click.IntRange(1), hidden=True)  # its old name
@click.option("--image", help="Image for docker and kubernetes.  [default: the environment's own]")
@token_option
@param_option
@click.option(
    "--only",
    multiple=True,
    type=click.IntRange(0),
    metavar="NUMBER",
    help="Play only this episode of all, with its own seed and task. Repeatable.",
)
@click.option("--logs", is_flag=True, help="Show what the servers and environments write.")
@click.option("--quiet", is_flag=True, help="Show no progress and no warnings, only the summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def rollout(
    target: str | list[str],
    params: dict[str, Any],
    provider: str | None,
    servers: int,
    old_servers: int | None,
    image: str | None,
    token: str | None,
    **options: Any,
) -> None:
    """Play episodes of TARGET and report on them.

    TARGET is the URL of a server, several URLs, or anything else that can be served: then servers
    are started for it, and ended afterwards. With `--provider docker` it is an environment or an
    image that runs in containers, with `kubernetes` in pods, with `ray` an environment that runs on
    the nodes of a Ray cluster, with `space` the OWNER/NAME of a Hugging Face Space.
    """
    from openenv_async.cli.playing import run

    agent = read_agent(options)
    policy = read_policy(options)
    if agent is not None:
        for name in ("policy_timeout", "on_mistake"):
            if options[name]:
                raise click.BadParameter(
                    "an agent plays by itself", param_hint=f"--{name.replace('_', '-')}"
                )
    _read_video(options, agent is not None)
    options["policy_timeout"] = options["policy_timeout"] or None
    read_tasks(options)
    seed, episodes = options["seed"], options["episodes"]
    if seed is not None and seed + (episodes or 1) > 2**63:
        raise click.BadParameter(
            f"the seeds of {episodes} episodes from there on go beyond 2**63 - 1",
            param_hint="--seed",
        )
    if options["only"] and episodes is not None and max(options["only"]) >= episodes:
        raise click.BadParameter(
            f"the episodes are numbered 0 to {episodes - 1}", param_hint="--only"
        )
    text = target if isinstance(target, str) else ", ".join(target)
    urls = [each for each in ([target] if isinstance(target, str) else target) if is_url(each)]
    if provider is not None and (provider == "static") != bool(urls):
        raise click.BadParameter("a URL is played at as it is: static", param_hint="--provider")
    if provider in _REMOTE and params:
        raise click.BadParameter("a running server has its arguments already", param_hint="--param")
    if provider not in _REMOTE:  # which take what is not a target of this machine
        found = resolved(target, params, token, "rollout")
        usual = _PROVIDERS[found.kind]
        if provider in ("process", "ray") and usual != "process":
            raise click.BadParameter(f"{usual} runs {found.label}", param_hint="--provider")
        provider = provider or usual
        text = text if urls else found.given
    if options["logs"] and provider == "static":
        raise click.BadParameter(
            "a server that runs already writes its log where it was started", param_hint="--logs"
        )
    if image is not None and provider not in ("docker", "kubernetes"):
        raise click.BadParameter("only docker and kubernetes run images", param_hint="--image")
    with run_folder(options) as folder:
        if folder is not None:
            folder.bind(params=params)
            options |= {"out": None, "folder": folder}
        if provider == "static":
            run(_rollout(text, urls, policy, token=token, agent=agent, **options))
        else:
            started = _provider(provider, text, params, image, max(1024, options["concurrency"]))
            run(_in_pool(started, old_servers or servers, text, policy, agent=agent, **options))


def _read_video(options: dict[str, Any], is_agent: bool) -> None:
    """Put a recorder in the place of ``--video`` and ``--video-every``."""
    from openenv_async.rollouts import VideoRecorder

    folder, every = options["video"], options.pop("video_every")
    if folder is None:
        if every is not None:
            raise click.BadParameter("is for --video", param_hint="--video-every")
        return
    if is_agent:
        raise click.BadParameter("an agent takes its steps by itself", param_hint="--video")
    try:
        options["video"] = VideoRecorder(folder, every=every or 1)
    except ModuleNotFoundError as exc:
        raise click.ClickException(str(exc)) from exc


_PROVIDERS = {
    "url": "static",
    "urls": "static",
    "named": "process",
    "image": "docker",
    "space": "space",
}
"""The provider of each kind of target that is text."""
_REMOTE = ("docker", "kubernetes", "space")
"""Providers of targets that this process need not be able to import."""


def _provider(
    name: str, target: str, params: dict[str, Any], image: str | None, max_sessions: int
) -> Provider:
    match name:
        case "docker":
            from openenv_async.pool.sources import image_of
            from openenv_async.providers.docker import DockerProvider

            return DockerProvider(image or image_of(target))
        case "kubernetes":
            from openenv_async.pool.sources import image_of
            from openenv_async.providers.kubernetes import KubernetesProvider

            try:
                return KubernetesProvider(image or image_of(target))
            except ModuleNotFoundError as exc:
                raise click.ClickException(str(exc)) from exc
        case "ray":
            from openenv_async.providers.ray import RayProvider

            try:
                return RayProvider(target, params, max_sessions=max_sessions)
            except ModuleNotFoundError as exc:
                raise click.ClickException(str(exc)) from exc
        case "space":
            from openenv_async.providers.space import SpaceProvider

            return SpaceProvider(target)
        case _:
            from openenv_async.providers.process import ProcessProvider

            # Its code is the user's own: the records may have its tracebacks.
            return ProcessProvider(target, params, max_sessions=max_sessions, arguments=["--debug"])


async def _in_pool(
    provider: Provider,
    servers: int,
    target: str,
    policy: Callable[..., Any] | ModelPolicy | None,
    *,
    concurrency: int,
    connections: int | None,
    logs: bool,
    **options: Any,
) -> None:
    """Start servers and play on them."""
    from openenv_async.cli.following import following
    from openenv_async.cli.progress import progress_bar
    from openenv_async.pool import EnvPool

    with progress_bar(quiet=options["quiet"]) as bar:
        pool = EnvPool(
            provider,
            min_workers=servers,
            max_workers=servers,
            sessions_per_worker=math.ceil(concurrency / servers),
            connections=connections or 1,
            on_progress=_server_bar(bar, servers),
        )
        async with pool, following(pool, bar) if logs else contextlib.nullcontext():
            await _rollout(
                target, pool, policy, bar=bar, concurrency=concurrency, logs=logs, **options
            )


def _server_bar(bar: Progress, servers: int) -> Callable[[PoolStatistics], None]:
    task = bar.add_task("servers", total=servers, rate="", failures="")

    def show(now: PoolStatistics) -> None:
        failed = now.workers_died + now.starts_failed
        bar.update(
            task,
            completed=now.ready,
            rate=f"{now.sessions} sessions",
            failures=f"{failed} failed" if failed else "",
        )

    return show


async def _rollout(
    target: str,
    source: list[str] | EnvPool,
    policy: Callable[..., Any] | ModelPolicy | None,
    *,
    as_json: bool,
    out: Path | None,
    seed: int | None,
    timeout: float | None,
    quiet: bool,
    only: tuple[int, ...],
    logs: bool,
    bar: Progress | None = None,
    token: str | None = None,
    folder: RunFolder | None = None,
    agent: AgentSetup | None = None,
    **options: Any,
) -> None:
    from openenv_async.cli.playing import interruption, output_tails, play, show
    from openenv_async.cli.progress import progress_bar
    from openenv_async.client.server_info import fetch_schema
    from openenv_async.rollouts import RandomPolicy, Summary

    model = policy if isinstance(policy, ModelPolicy) else None
    chosen = None if isinstance(policy, ModelPolicy) else policy
    if agent is None and chosen is None:
        if isinstance(source, list):
            schema = await fetch_schema(source[0], token=token)
        else:
            worker = source.workers[0]
            schema = await fetch_schema(worker.url, token=worker.token)
        chosen = (
            RandomPolicy(schema["action"], seed)
            if model is None
            else model.made(schema["action"], seed)
        )
    summary = Summary(len(set(only)) or options["episodes"])
    interrupted: asyncio.CancelledError | None = None
    async with (
        contextlib.nullcontext() if model is None else contextlib.aclosing(model),
        contextlib.AsyncExitStack() as stack,
    ):
        if model is not None:
            await model.check()
        if agent is not None:
            options["agent"] = await stack.enter_async_context(agent.running())
        shown = bar or stack.enter_context(progress_bar(quiet=quiet))
        try:
            await play(
                source,
                chosen,
                out=out,
                bar=shown,
                title=target,
                quiet=quiet,
                summary=summary,
                seeds=seed,
                timeout=timeout or None,
                token=token,
                only=only or None,
                run=folder,
                **options,
            )
        except asyncio.CancelledError as exc:
            interrupted = exc  # it ends with what there is to tell
        shown.stop()
    with_commands(summary.failure_reasons, sys.argv[1:])
    workers = None if isinstance(source, list) else source.statistics()
    tails = {} if isinstance(source, list) or interrupted else await output_tails(source)
    local = isinstance(source, list) or source.providers[0].name == "process"
    if as_json:
        report = summary.as_dict() | {"file": None if out is None else str(out)}
        report["interrupted"] = interrupted is not None
        report["run"] = None if folder is None else folder.status().as_dict()
        if workers is not None:
            report["workers"] = workers.as_dict()
            report["output"] = tails
        echo(json.dumps(report))
    else:
        table = summary.table(target)
        if out is not None:
            table.add_row("file", str(out))
        if options["video"] is not None:
            table.add_row("videos", str(options["video"].folder))
        if folder is not None:
            status = folder.status()
            table.add_row("run", str(folder.path))
            of = "" if status.wanted is None else f" of {status.wanted:,}"
            table.add_row("finished in all", f"{status.finished:,}{of}")
        if workers is not None and (workers.workers_started > 1 or not local):
            workers.add_to(table)
        # A container's log has its server's own lines too: they matter when something failed.
        tails = {} if logs else tails  # which were shown as they came
        show(table, summary, tails if local or summary.failures else {})
    if interrupted is not None:
        told = interruption(summary, out) if folder is None else f"interrupted: {left_of(folder)}"
        echo(told, err=True)
        raise interrupted
    if summary.episodes and summary.failures == summary.episodes:
        reason = next(iter(summary.errors.values()), "all were cancelled")
        raise click.ClickException(f"no episode is usable: {reason}")
    if folder is not None and folder.status().missing:
        raise click.ClickException(f"{left_of(folder)}")
    if summary.unwritten:
        raise click.ClickException(
            f"{summary.unwritten} of {summary.episodes} episodes could not be written to {out}:"
            f" {summary.unwritten_reason}"
        )
    if summary.unfinished_reason is not None:
        raise click.ClickException(
            f"{out} could not be finished: {summary.unfinished_reason}; its episodes are in"
            f" {out}.parts, where `openenv-async why {out}` and read_trajectories find them"
        )
