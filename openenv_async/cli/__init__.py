"""The command line, ``openenv-async``.

Exit codes: 0 done; 1 an error of the library, one line and the end of the log of what failed, if
it wrote any; 2 a wrong value or option, one line; 130 interrupted. Commands are loaded when they
run, so that ``--help`` is quick.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from openenv_async.cli.output import echo
from openenv_async.telemetry.logs import MessageFormatter
from openenv_async.version import __version__

if TYPE_CHECKING:
    from openenv_async.errors import OpenEnvError

__all__ = ["main", "not_installed"]

PROGRAM: Final = "openenv-async"
_ERROR: Final = "error: "
_LOG_LINES: Final = 20

# Name: where the command is, what it does in a few words.
_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("openenv_async.cli.init:init", "Make a new environment from a template."),
    "import": ("openenv_async.cli.import_:import_", "Make a folder of another project's tasks."),
    "validate": ("openenv_async.cli.validate:validate", "Check what an environment promises."),
    "certify": ("openenv_async.cli.certify:certify", "Test whether it is fit to be trained on."),
    "build": ("openenv_async.cli.build:build", "Build an environment's image."),
    "push": ("openenv_async.cli.push:push", "Push it to a registry or a Hugging Face Space."),
    "deploy": ("openenv_async.cli.deploy:deploy", "Write files that run servers in production."),
    "list": ("openenv_async.cli.listing:list_everything", "List environments and workers."),
    "info": ("openenv_async.cli.info:info", "Show what an environment takes and gives."),
    "play": ("openenv_async.cli.play:play", "Step an environment by hand."),
    "doctor": ("openenv_async.cli.doctor:doctor", "Look at what this machine has."),
    "completion": ("openenv_async.cli.completion:completion", "Make a shell complete names."),
    "ps": ("openenv_async.cli.containers:ps", "List the containers of all runs."),
    "gc": ("openenv_async.cli.containers:gc", "Remove containers whose owners are gone."),
    "logs": ("openenv_async.cli.containers:logs", "Show the last lines of a container."),
    "serve": ("openenv_async.cli.serve:serve", "Serve an environment."),
    "drain": ("openenv_async.cli.drain:drain", "Let a server's episodes end, and begin none."),
    "reload": ("openenv_async.cli.reload:reload", "Have a server read its file again."),
    "token": ("openenv_async.cli.token:token", "Make a named token for a server's file."),
    "gateway": ("openenv_async.cli.gateway:gateway", "Keep the calls of agents' models."),
    "rows": ("openenv_async.cli.rows:rows", "Print training rows of a gateway's sessions."),
    "rollout": ("openenv_async.cli.rollout:rollout", "Play episodes and report on them."),
    "why": ("openenv_async.cli.why:why", "Tell why recorded episodes ended as they did."),
    "replay": ("openenv_async.cli.replay:replay", "Play recorded episodes again and compare."),
    "runs": ("openenv_async.cli.runs:runs", "Show how far a run folder has come."),
    "export": ("openenv_async.cli.runs:export", "Write a run folder's outcomes to a file."),
    "view": ("openenv_async.cli.view:view", "Look at runs: curves, groups, each episode."),
    "demo": ("openenv_async.cli.demo:demo", "Play thousands of episodes in a few seconds."),
    "bench": ("openenv_async.cli.bench:bench", "Measure a server, or this machine."),
    "conformance": (
        "openenv_async.cli.conformance:conformance",
        "Check that a server keeps the protocol.",
    ),
}


class _Commands(click.Group):
    """Commands that are imported when they are called; errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry[0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=3)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"there are {', '.join(_COMMANDS)}"
            )
            raise click.UsageError(f"No such command {args[0]!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])

    def main(self, *args: Any, **options: Any) -> Any:
        standalone = options.pop("standalone_mode", True)
        sys.excepthook = _show_bug
        if logging.lastResort is not None:  # what is logged before, or without, logging set up
            logging.lastResort.setFormatter(MessageFormatter())
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except Exception as exc:
            if not standalone:
                raise
            _report(exc)
        if standalone:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _report(exc: Exception) -> NoReturn:
    """Say what went wrong in one line and exit; a bug keeps its traceback."""
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        exc.show()
        sys.exit(2)
    if isinstance(exc, click.UsageError):
        command = exc.ctx.command_path if exc.ctx is not None else PROGRAM
        message = exc.format_message().replace(" integer range.", " integer.")  # click's own type
        _say(f"{message} (see {command} --help)")
        sys.exit(2)
    if isinstance(exc, click.ClickException):
        _say(exc.format_message())
        sys.exit(exc.exit_code)
    if isinstance(exc, click.Abort):
        echo("interrupted", err=True)
        sys.exit(130)
    from openenv_async.errors import OpenEnvError

    if isinstance(exc, OpenEnvError):
        _say(exc.message)
        _show_log(exc)
        sys.exit(1)
    if isinstance(exc, ImportError) and not (exc.name or "").startswith("openenv_async"):
        _say(not_installed(exc))
        sys.exit(1)
    raise exc


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, without what would steer the terminal."""
    echo("".join(traceback.format_exception(kind, error, trace)), err=True, nl=False)


def not_installed(error: ImportError) -> str:
    """Return the message of an import that failed; one that names an extra stays as it is."""
    if "pip install" in str(error) or not isinstance(error, ModuleNotFoundError):
        return str(error)
    return f"{error.name} is not installed: pip install it where openenv-async is installed"


def _show_log(error: OpenEnvError) -> None:
    """Print the last lines that the process or container which failed has written."""
    from openenv_async.endpoints.redaction import redacted

    lines = redacted(error.log_tail or "").strip().splitlines()[-_LOG_LINES:]
    if not lines or lines[-1].startswith(_ERROR):  # the command that failed told it, as this does
        return
    echo("its log ends with:", err=True)
    for line in lines:
        echo(f"  {line}", err=True)


def _say(message: str) -> None:
    echo(_ERROR + " ".join(message.split()), err=True)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Examples: {PROGRAM} serve echo, {PROGRAM} rollout echo --episodes 100 --max-steps 10",
)
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Make, check and serve reinforcement-learning environments, and play them, many at once.

    Exit codes: 0 done; 1 an error, told in one line, or something that was checked failed; 2 a
    wrong value or option, the line names it; 130 interrupted.
    """
    if os.environ.get("OPENENV_TRACES"):
        from openenv_async.telemetry.spans import enable_from_environ

        try:
            enable_from_environ()
        except (ValueError, ModuleNotFoundError) as exc:
            raise click.ClickException(str(exc)) from exc
