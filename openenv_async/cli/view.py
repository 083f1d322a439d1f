"""``openenv-async view``: look at runs on a local page, in one HTML file, or in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import console, echo

if TYPE_CHECKING:
    from openenv_async.viewer import EpisodeSource

__all__ = ["view"]

_LISTED: Final = 20


@click.command(
    epilog=examples(
        "view friday",
        "view friday saturday.parquet",
        "view friday --html friday.html",
        "view friday --terminal --episode 17",
    )
)
@click.argument(
    "paths", metavar="RUN|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, help="Port.  [default: a free one]"
)
@click.option("--no-open", is_flag=True, help="Print the page's address, and open no browser.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write one HTML file that needs no server, and end.",
)
@click.option("--terminal", is_flag=True, help="Print tables, and end.")
@click.option(
    "--episode", type=int, help="With --terminal: the story of the episode with this number."
)
@click.option(
    "--rows",
    type=click.IntRange(0),
    default=_LISTED,
    show_default=True,
    help="With --terminal: the last episodes that are listed.",
)
def view(
    paths: tuple[Path, ...],
    port: int,
    no_open: bool,
    html: Path | None,
    terminal: bool,
    episode: int | None,
    rows: int,
) -> None:
    """Look at the episodes of runs and files: curves, groups, each episode; two runs compared.

    RUN is the folder that `rollout --out FOLDER` made, also while it is written; FILE a file of
    trajectories (.jsonl, .parquet), of a gateway's rows, or the folder of its journal. The page is
    on this machine alone, at an address that nobody guesses, until Ctrl-C.
    """
    if episode is not None and not terminal:
        raise click.BadParameter("it belongs to --terminal", param_hint="--episode")
    if html is not None and terminal:
        raise click.BadParameter("give it or --terminal, not both", param_hint="--html")
    from openenv_async.errors import InvalidOption
    from openenv_async.viewer import open_source

    with contextlib.ExitStack() as stack:
        sources = []
        for path in paths:
            try:
                sources.append(open_source(path))
            except InvalidOption as exc:
                raise click.BadParameter(exc.message, param_hint="RUN|FILE") from exc
            stack.callback(sources[-1].close)
        if html is not None:
            _write(sources, html)
        elif terminal:
            _print(sources, episode, rows)
        else:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(_serve(sources, port, no_open))


def _write(sources: Sequence[EpisodeSource], out: Path) -> None:
    from openenv_async.viewer import write_html

    try:
        written = write_html(sources, out)
    except OSError as exc:
        raise click.ClickException(f"{out} cannot be written: {exc.strerror or exc}") from exc
    without = f", {written.without_steps:,} of them without steps" if written.without_steps else ""
    echo(f"{written.episodes:,} episodes{without} are in {out} ({written.size / 1e6:,.1f} MB)")
    _tell_notices(sources)


def _print(sources: Sequence[EpisodeSource], episode: int | None, rows: int) -> None:
    from openenv_async.viewer.terminal import episode_table, summary_table

    for source in sources:
        source.refresh()
    if episode is not None:
        _print_episode(sources, episode)
        return
    shown_on = console()
    shown_on.print(summary_table(sources))
    places = [
        (number, row) for number, source in enumerate(sources) for row in range(len(source.columns))
    ]
    if rows and places:
        shown_on.print(episode_table(sources, places[-rows:]))
        echo(f"one of them: openenv-async view {sources[0].path} --terminal --episode NUMBER")
    _tell_notices(sources)


def _print_episode(sources: Sequence[EpisodeSource], wanted: int) -> None:
    from openenv_async.cli.why import episode_story
    from openenv_async.rollouts.files import trajectory_of

    for source in sources:
        indexes = source.columns.column("index")
        found = [row for row in range(len(indexes)) if indexes[row] == wanted]
        if found:
            try:
                for line in episode_story(trajectory_of(source.line(found[-1]))):
                    echo(line)
            except (ValueError, TypeError, KeyError, AttributeError) as exc:
                raise click.ClickException(
                    f"episode {wanted} of {source.name} has no whole record: {exc}"
                ) from exc
            return
    raise click.BadParameter(
        f"there is no episode {wanted} in {', '.join(source.name for source in sources)}",
        param_hint="--episode",
    )


def _tell_notices(sources: Sequence[EpisodeSource]) -> None:
    for source in sources:
        for notice in source.notices:
            echo(f"{source.name}: {notice}", err=True)


async def _serve(sources: Sequence[EpisodeSource], port: int, no_open: bool) -> None:
    from openenv_async.viewer import ViewerServer

    try:
        server = ViewerServer(sources, port=port)
    except OSError as exc:
        raise click.ClickException(
            f"port {port} cannot be had: {exc.strerror or exc}; leave --port out for a free one"
        ) from exc
    async with server:
        echo(f"the page is at {server.url} until Ctrl-C")
        if not no_open:
            await asyncio.to_thread(webbrowser.open, server.url)
        await server.ended()
