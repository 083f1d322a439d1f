"""``openenv-async runs`` and ``export``: what is in a run folder, and its outcomes as one file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import console, echo

if TYPE_CHECKING:
    from rich.table import Table

    from openenv_async.rollouts import RunFolder, RunStatus

__all__ = ["export", "runs"]

_FOLDER = click.Path(path_type=Path)


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
        table.add_row(name, _facts(part["facts"]))
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
    kept = [f"{name}={value}" for name, value in facts.items() if value is not None]
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
    if out.suffix not in (".jsonl", ".parquet"):
        raise click.BadParameter(
            f"{out.name!r} ends neither in .jsonl nor .parquet", param_hint="OUT"
        )
    count = 0
    try:
        with open_writer(out) as writer:
            for key in run.keys:
                if not only or run.result(key) in only:
                    outcome = run.outcome(key)
                    assert outcome is not None
                    writer.write(outcome)
                    count += 1
    except OSError as exc:
        raise click.ClickException(f"{out} cannot be written: {exc.strerror or exc}") from exc
    echo(f"{count:,} outcomes of run {run.id} are in {out}")
