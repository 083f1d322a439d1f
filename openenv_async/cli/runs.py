"""``openenv-async runs`` and ``export``, and the options of ``rollout`` for run folders."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import console, echo

if TYPE_CHECKING:
    from rich.table import Table

    from openenv_async.rollouts import RunFolder, RunStatus

__all__ = ["export", "left_of", "run_folder", "run_options", "runs"]

_FOLDER = click.Path(path_type=Path)
_FILES: Final = (".jsonl", ".parquet")
_LONG: Final = 60
"""Characters of one fact that are shown."""

Command = TypeVar("Command", bound=Callable[..., Any])


# -- options of rollout ---------------------------------------------------------------------------


def run_options(command: Command) -> Command:
    """Add the options that say where outcomes go, and how a run goes on."""
    for decorate in reversed(
        (
            click.option(
                "--out",
                type=click.Path(path_type=Path),
                callback=_read_out,
                help="Place of the outcomes: a run's folder, a name without a suffix; or a file,"
                " .jsonl or .parquet, which is replaced if it is there.",
            ),
            click.option(
                "--resume", is_flag=True, help="Go on with the run in --out: play what is missing."
            ),
            click.option(
                "--retry-failed",
                is_flag=True,
                help="With --resume: play again also what has a result that is not to be used.",
            ),
            click.option(
                "--force",
                is_flag=True,
                help="With --resume: go on with another environment, policy or settings.",
            ),
            click.option(
                "--max-attempts",
                type=click.IntRange(1),
                help="Attempts without a result before a run abandons an episode.  [default: 3]",
            ),
        )
    ):
        command = decorate(command)
    return command


def _read_out(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a name that is neither that of a file of trajectories nor that of a folder."""
    if value is None or value.is_dir() or not value.suffix:
        return value
    if value.suffix not in _FILES:
        raise click.BadParameter(
            f"{value.name!r} ends neither in .jsonl nor .parquet, and a run's folder has no suffix",
            ctx,
            param,
        )
    return value


@contextlib.contextmanager
def run_folder(options: dict[str, Any]) -> Iterator[RunFolder | None]:
    """Have the run folder of ``--out`` open; ``None`` if it is a file or not there.

    Args:
        options: of the command; those of ``run_options`` but ``out`` are taken out.

    Raises:
        click.BadParameter: an option belongs to runs, and there is none.
        RunError: the run cannot be begun, or not be gone on with.
    """
    from openenv_async.rollouts import RunFolder

    out: Path | None = options["out"]
    resume, most = options.pop("resume"), options.pop("max_attempts")
    chosen = {name: options.pop(name) for name in ("retry_failed", "force")}
    if out is None or (out.suffix in _FILES and not out.is_dir()):
        for name, given in {"resume": resume, **chosen, "max_attempts": most}.items():
            if given:
                option = f"--{name.replace('_', '-')}"
                raise click.BadParameter(
                    "only a run goes on: give --out FOLDER, a name without a suffix"
                    if out is None
                    else f"{out.name} is only a file, and only a run goes on: give --out FOLDER, a"
                    " name without a suffix; `export` makes a file of it afterwards",
                    param_hint=option,
                )
        yield None
        return
    if not resume and any(chosen.values()):
        raise click.BadParameter("it belongs to --resume", param_hint="--retry-failed, --force")
    command = ["openenv-async", *sys.argv[1:]]
    folder = (
        RunFolder.open(out, command=command, max_attempts=most, **chosen)
        if resume
        else RunFolder.create(
            out, command=command, **({} if most is None else {"max_attempts": most})
        )
    )
    with folder:
        yield folder


def left_of(folder: RunFolder) -> str:
    """Return the lines that tell where a run is, what is missing, and the command to go on."""
    from openenv_async.endpoints.redaction import redacted_command

    status = folder.status()
    of = "" if status.wanted is None else f" of {status.wanted:,}"
    lines = f"the run in {folder.path} has {status.finished:,}{of} outcomes"
    if status.missing == 0:
        return lines
    again = ["openenv-async", *redacted_command(sys.argv[1:])]
    if "--resume" not in again:
        again.append("--resume")
    return f"{lines}; to go on: {shlex.join(again)}"


# -- commands -------------------------------------------------------------------------------------


@click.command(epilog=examples("runs friday", "runs friday --json"))
@click.argument("folder", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def runs(folder: Path, as_json: bool) -> None:
    """Show how far the run in FOLDER has come, also while it runs.

    FOLDER is what `rollout --out FOLDER` made. The exit code is 1 when there is no run.
    """
    from openenv_async.rollouts import RunFolder

    run = RunFolder.view(folder)
    status = run.status()
    if as_json:
        manifest = {name: run.manifest.get(name) for name in ("created", "command", "versions")}
        parts = run.manifest.get("parts", {})
        changes = run.manifest.get("changes", [])
        echo(json.dumps(status.as_dict() | manifest | {"parts": parts, "changes": changes}))
        return
    console().print(_table(run, status))
    if status.missing:
        echo(f"{status.missing:,} episodes are missing: {resume_hint(folder)}")


def resume_hint(folder: Path) -> str:
    """Return what to do so that a run goes on."""
    return f"give the command that began it again, with --out {folder} --resume"


def _table(run: RunFolder, status: RunStatus) -> Table:
    from rich.table import Table

    table = Table(title=str(run.path), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("run", status.id or "its manifest cannot be read")
    created = run.manifest.get("created")
    if isinstance(created, int | float):
        table.add_row("begun", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created)))
    for name, part in run.manifest.get("parts", {}).items():
        if part["facts"]:
            table.add_row(name, _facts(part["facts"]))
    for change in run.manifest.get("changes", []):
        if isinstance(change, dict) and isinstance(at := change.get("at"), int | float):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
            table.add_row("changed by --force", f"{change.get('part')}, {when}")
    wanted = "" if status.wanted is None else f" of {status.wanted:,}"
    table.add_row("finished", f"{status.finished:,}{wanted}")
    for name, count in status.results.items():
        table.add_row(f"  {name}", f"{count:,}")
    for name, count in status.statuses.items():
        table.add_row(name, f"{count:,}")
    if status.lost_attempts:
        table.add_row("attempts without a result", f"{status.lost_attempts:,}")
    if status.cut_attempts:
        table.add_row("attempts that were cut", f"{status.cut_attempts:,}")
    table.add_row("size", f"{status.bytes / 1e6:,.1f} MB")
    return table


def _facts(facts: Mapping[str, Any]) -> str:
    kept = []
    for name, value in facts.items():
        if value is not None:
            text = str(value)
            if len(text) > _LONG:  # such as the schemas of a model's tools; --json has them
                text = f"{text[: _LONG - 1]}…"
            kept.append(f"{name}={text}")
    return ", ".join(kept)


@click.command(
    epilog=examples("export friday friday.parquet", "export friday good.jsonl --only good")
)
@click.argument("folder", type=_FOLDER)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["good", "degraded", "unusable", "abandoned"]),
    help="A class of results. Repeatable.  [default: all]",
)
def export(folder: Path, out: Path, only: tuple[str, ...]) -> None:
    """Write the outcomes of the run in FOLDER to the file OUT, .jsonl or .parquet.

    A file that is there is replaced. It works while the run is going on, and when its manifest is
    broken.
    """
    from openenv_async.rollouts import RunFolder, open_writer

    run = RunFolder.view(folder)
    if out.suffix not in _FILES:
        raise click.BadParameter(
            f"{out.name!r} ends neither in .jsonl nor .parquet", param_hint="OUT"
        )
    if out.resolve().parent == run.path.resolve():
        raise click.BadParameter(
            f"{folder} is the run's own folder, whose files it would replace: give another place",
            param_hint="OUT",
        )
    count, header = 0, {"run": run.id or None}
    if command := run.manifest.get("command"):
        header["command"] = command  # that of the episodes, which `why` tells how to play again
    try:
        with open_writer(out, header=header) as writer:
            for key in run.keys:
                if not only or run.result(key) in only:
                    outcome = run.outcome(key)
                    assert outcome is not None
                    writer.write(outcome)
                    count += 1
    except OSError as exc:
        raise click.ClickException(f"{out} cannot be written: {exc.strerror or exc}") from exc
    echo(f"{count:,} outcomes of run {run.id} are in {out}")
