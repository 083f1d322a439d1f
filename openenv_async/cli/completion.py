"""``openenv-async completion``: what makes a shell complete commands, options and names."""

from __future__ import annotations

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import echo

__all__ = ["completion"]

_PROGRAM = "openenv-async"
_VARIABLE = "_OPENENV_ASYNC_COMPLETE"


@click.command(
    epilog=examples(
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/openenv-async.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options and environments' names.

    Exit codes: 0 printed; 2 there is none for this shell.
    """
    from click.shell_completion import get_completion_class

    from openenv_async.cli import main

    made = get_completion_class(shell)
    assert made is not None
    echo(made(main, {}, _PROGRAM, _VARIABLE).source())
