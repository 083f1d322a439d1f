"""``openenv-async play``: step an environment by hand."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from openenv_async.cli.options import (
    examples,
    param_option,
    token_option,
)
from openenv_async.cli.output import echo
from openenv_async.cli.targets import resolved, target_argument
from openenv_async.errors import InvalidObservation
from openenv_async.schemas.legal import choices_of, legal_actions, sample_legal, tells_legal
from openenv_async.telemetry.terminal import printable

if TYPE_CHECKING:
    from openenv_async.targets.resolve import ResolvedTarget
    from openenv_async.targets.served import Server

__all__ = ["play"]

_HELP = """\
:random [N]   N random actions            :state   the environment's state
:reset [SEED] a new episode               :json    the next action as one line of JSON
:legal        all legal actions           :help    this
:quit         leave (so does the end of the input)"""
_SHOWN: Final = 24
"""Legal values that are shown with each observation."""


@click.command(
    epilog=examples(
        "play echo",
        "play gymnasium --param id=CartPole-v1 --seed 7",
        "play http://127.0.0.1:8000",
    )
)
@target_argument()
@click.option("--seed", type=click.IntRange(0), help="Of the first episode.")
@token_option
@param_option
def play(
    target: str | list[str], seed: int | None, token: str | None, params: dict[str, Any]
) -> None:
    """Play TARGET by hand: each field of an action is asked for, what comes of it is shown.

    If the environment tells which actions are legal, they are shown; Tab, or the beginning of one,
    completes it.

    TARGET is the URL of a server (of several the first is played on), or anything else that can be
    served: then a server is started for it, and ended afterwards. A line that begins with a colon
    is a command, see :help. The input may be a pipe.

    Exit codes: 0 left; 1 an error of the environment or server; 2 a wrong value; 130 Ctrl-C.
    """
    with _served(resolved(target, params, token, "play")) as server:
        _play(server.url, server.token, seed)


@contextlib.contextmanager
def _served(target: ResolvedTarget) -> Iterator[Server]:
    """Have a server of the target; one that is started is ended afterwards."""
    from openenv_async.checks.servers import servers
    from openenv_async.client.loop_thread import background_loop

    loop, found = background_loop(), servers(target)
    started = loop.run(found.__aenter__())
    try:
        yield started[0]
    finally:
        loop.run(found.__aexit__(None, None, None))


class _Left(Exception):
    """The player leaves."""


class _Command(Exception):
    """A command instead of a value."""


class _Game:
    """One session, and what the player says."""

    def __init__(self, env: Any, schema: dict[str, Any]) -> None:
        self.env = env
        self.schema = schema.get("action") or {}
        self._random = random.Random()
        self._as_json = False
        self._done = True
        self._return: float | None = None
        self._choices = choices_of(self.schema)
        self._field = self._choices.field if self._choices is not None else None
        self._info: Any = None
        self._legal: Sequence[Any] | None = None

    def reset(self, seed: int | None = None) -> None:
        self._show(self.env.reset(seed=seed), f"episode, seed {self._seed}")
        self._return = None

    @property
    def _seed(self) -> Any:
        return self.env.episode.seed if self.env.episode is not None else "?"

    def turn(self) -> None:
        """One action, or one command."""
        from openenv_async.cli.forms import ask
        from openenv_async.errors import OpenEnvError

        try:
            if self._done:
                self._read("the episode is over; Enter begins another: ")
                self.reset()
                return
            form = ask(self.schema, self._read_field, echo) if not self._as_json else self._json()
            self.step(form)
        except _Command as exc:
            self._command(str(exc))
        except OpenEnvError as exc:
            echo(f"refused: {exc.message}")
            if not self.env.client.connection or not self.env.client.connection.up:
                raise

    def step(self, action: Any) -> None:
        result = self.env.step(action)
        if result.reward is not None:
            self._return = result.reward + (self._return or 0.0)
        self._show(result, "step")

    def _json(self) -> Any:
        while True:
            text = self._read("action (JSON): ")
            try:
                return json.loads(text)
            except ValueError as exc:
                echo(f"that is not JSON: {exc}")

    def _show(self, result: Any, what: str) -> None:
        self._done = result.done
        echo(f"-- {what}")
        _show_value(result.observation)
        notes = [] if result.reward is None else [f"reward {result.reward:g}"]
        if result.terminated:
            notes.append("terminated")
        if result.truncated:
            notes.append("truncated")
        if result.done:
            notes.append("no return" if self._return is None else f"return {self._return:g}")
        if notes:
            echo("   " + ", ".join(notes))
        self._info = None if result.done else result.info
        self._legal = None
        try:
            declared = tells_legal(self.schema)
            self._legal = legal_actions(self._info, self._choices, declared=declared)
        except InvalidObservation as exc:
            echo(f"   legal: {exc.message}")
        if self._legal is not None:
            echo(f"   legal: {_listed(self._legal, _SHOWN, self._field)}")

    def _read_field(self, prompt: str) -> str:
        """Read a field's value; the beginning of the only legal one that begins so is enough."""
        name = prompt.partition(" (")[0]
        words = [_word(value) for value in _values(self._legal or (), name)]
        line = self._read(prompt, words)
        fitting = [word for word in words if line and word.startswith(line)]
        if line not in words and len(fitting) == 1:
            echo(f"{name}: {fitting[0]}")
            return fitting[0]
        return line

    def _read(self, prompt: str, words: Sequence[str] = ()) -> str:
        if words and sys.stdin.isatty():
            line = _typed(prompt, words)
        else:
            echo(prompt, nl=False)
            line = sys.stdin.readline()
        if not line:
            echo()
            raise _Left
        line = line.rstrip("\n")
        if not sys.stdin.isatty():
            echo(line)  # so that a transcript of a pipe can be read
        if line.startswith(":"):
            raise _Command(line)
        return line

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        number = int(rest) if rest.strip().isdecimal() else None
        match word:
            case ":quit" | ":q":
                raise _Left
            case ":reset":
                self.reset(number)
            case ":state":
                _show_value(self.env.state())
            case ":json":
                self._as_json = not self._as_json
            case ":random":
                for _ in range(number or 1):
                    if self._done:
                        break
                    action = sample_legal(self.schema, self._info, self._random, self._choices)
                    echo(f"action {action}")
                    self.step(action)
            case ":legal":
                legal = self._legal
                echo(
                    f"   {_listed(legal, len(legal), self._field)}"
                    if legal
                    else "nothing is told of that"
                )
            case ":help":
                echo(_HELP)
            case _:
                echo(f"there is no command {word}\n{_HELP}")


def _play(url: str, token: str | None, seed: int | None) -> None:
    from openenv_async.client.env import GenericEnvClient
    from openenv_async.client.loop_thread import background_loop
    from openenv_async.client.server_info import fetch_schema

    schema = background_loop().run(fetch_schema(url, token=token))
    if "vector" in schema:
        raise click.BadParameter(
            f"a session of {url} is a vector of environments, which has no single action: step it"
            " with GymVectorEnv, or serve a single environment, without --vector",
            param_hint="TARGET",
        )
    with GenericEnvClient(url, token=token).sync() as env:
        game = _Game(env, schema)
        echo(f"{url}: each field of an action is asked for; :help shows what else there is")
        with contextlib.suppress(_Left):
            game.reset(seed)
            while True:
                game.turn()


def _typed(prompt: str, words: Sequence[str]) -> str:
    """Read a line from a terminal, where Tab completes these words; empty at the input's end."""
    try:
        import readline
    except ModuleNotFoundError:  # as on Windows
        echo(prompt, nl=False)
        return sys.stdin.readline()

    def completed(text: str, state: int) -> str | None:
        fitting = [word for word in words if word.startswith(text)]
        return fitting[state] if state < len(fitting) else None

    before, delimiters = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(completed)
    readline.set_completer_delims("")
    readline.parse_and_bind("tab: complete")
    try:
        return input(printable(prompt)) + "\n"
    except EOFError:
        return ""
    finally:
        readline.set_completer(before)
        readline.set_completer_delims(delimiters)


def _values(actions: Sequence[Any], field: str) -> list[Any]:
    """Return what a field may be in legal actions, or the actions where they have no fields."""
    found: list[Any] = []
    for action in actions:
        value = action.get(field) if isinstance(action, dict) else action
        if not any(value is each or _word(value) == _word(each) for each in found):
            found.append(value)
    return found


def _word(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, str):
        return value
    return json.dumps(value.tolist() if hasattr(value, "tolist") else value, default=str)


def _listed(actions: Sequence[Any], most: int, field: str | None) -> str:
    """Return legal actions in a line: the values of a field, where it is all that counts."""
    values = _values(actions, field) if field is not None else actions
    text = ", ".join(_word(value) for value in values[:most])
    if len(values) > most:
        text += f", … ({len(values)} in all, :legal shows them)"
    return text if field is None else f"{field} {text}"


def _show_value(value: Any) -> None:
    if not isinstance(value, dict):
        echo(f"   {_short(value)}")
        return
    width = max((len(str(key)) for key in value), default=0)
    for key, item in value.items():
        echo(f"   {str(key).ljust(width)}  {_short(item)}")


def _short(value: Any) -> str:
    if hasattr(value, "dtype") and getattr(value, "size", 1) > 16:
        return f"array {value.dtype} {value.shape}"
    if isinstance(value, bytes | bytearray | memoryview) and len(value) > 64:
        return f"{len(value):,} bytes"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 2000 else f"{text[:2000]}… ({len(text):,} characters)"
