"""The command line that plays one episode of a rollout again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from openenv_async.cli.output import echo
from openenv_async.endpoints.redaction import redacted_command

if TYPE_CHECKING:
    from openenv_async.rollouts import Failure

__all__ = ["play_again", "show_commands", "with_commands"]

_SHOWN: Final = 8
"""Failures whose commands are shown."""
_FLAGS: Final = frozenset(
    {"--resume", "--json", "--quiet", "--logs", "--retry-failed", "--force"}
)  # fmt: skip
_WITH_VALUE: Final = frozenset({"--out", "--only", "--max-attempts"})
"""Options that belong to the run, not to what an episode of it is."""


def play_again(
    arguments: Sequence[str], index: int, seed: int | None = None, program: str = "openenv-async"
) -> str:
    """Return the command that plays an episode again, without secrets.

    Args:
        arguments: of the command that played it, without the program's name.
        index: number of the episode.
        seed: of its reset, which the command may not have.
        program: its name.
    """
    kept = list(_without(arguments, _FLAGS, _WITH_VALUE))
    names = {argument.partition("=")[0] for argument in kept}
    if seed is None or "--seed" in names:
        kept += ["--only", str(index)]
    elif names & {"--tasks", "--group-size"}:  # it has a place, and the seeds count from the first
        first = seed - index // _group_size(kept)
        kept += ["--seed", str(first)] if first >= 0 else []  # else the task's own seed
        kept += ["--only", str(index)]
    else:
        kept = list(_without(kept, frozenset(), frozenset({"--episodes"})))
        kept += ["--episodes", "1", "--seed", str(seed)]
    return shlex.join([program, *redacted_command(kept)])


def _group_size(arguments: Sequence[str]) -> int:
    """Return how many episodes have one seed."""
    sizes = ["1"]
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        name, given, value = argument.partition("=")
        if name == "--group-size":
            sizes.append(value if given else after)
    return max(1, int(sizes[-1])) if sizes[-1].isdecimal() else 1


def with_commands(failures: Iterable[Failure], arguments: Sequence[str]) -> None:
    """Give each failure the command that plays its first episode again."""
    for failure in failures:
        if failure.status != "cancelled":
            failure.command = play_again(arguments, failure.first_episode, failure.seed)


def show_commands(failures: Iterable[Failure]) -> None:
    """Print the commands that failures have."""
    commands = [failure for failure in failures if failure.command]
    if commands:
        echo("play the first of each again:")
        for failure in commands[:_SHOWN]:
            echo(f"  {failure.first_episode}: {failure.command}")


def _without(
    arguments: Sequence[str], flags: frozenset[str], with_value: frozenset[str]
) -> Iterator[str]:
    skip = False
    for argument in arguments:
        name, given, _ = argument.partition("=")
        if skip:
            skip = False
        elif name in with_value:
            skip = not given
        elif argument not in flags:
            yield argument
