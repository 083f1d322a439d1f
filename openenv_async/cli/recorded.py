"""The episodes that a file or the folder of a run has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from openenv_async.rollouts import Trajectory

__all__ = ["PARTS", "recorded_episodes"]

PARTS: Final = ".parts"
"""End of the name of the folder in which a Parquet file is written."""


def recorded_episodes(path: Path) -> Iterator[Trajectory]:
    """Yield the episodes of a file or a folder.

    Raises:
        ClickException: there are none to be read.
    """
    from openenv_async.rollouts import Trajectory, read_trajectories

    if path.name.endswith(f".parquet{PARTS}"):  # what a crash leaves beside the file
        path = path.with_name(path.name.removesuffix(PARTS))
    if path.is_dir():
        from openenv_async.rollouts.run_folder import RunFolder

        with RunFolder.view(path) as run:
            for outcome in run.outcomes():
                record = outcome.trajectory
                if record is None:  # the run was not recorded: it has the ends alone
                    record = Trajectory(outcome.index)
                    record.begin(outcome.episode)
                    record.finish(outcome)
                yield record
        return
    if not path.exists() and not path.with_name(path.name + PARTS).is_dir():
        raise click.BadParameter(f"there is no {path}", param_hint="FILE|FOLDER")
    try:
        yield from read_trajectories(path)
    except (ValueError, OSError) as exc:
        raise click.ClickException(f"{path} cannot be read: {exc}") from exc
