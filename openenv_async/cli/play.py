"""``openenv-async play``: step an environment by hand."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.options import (
    examples,
    param_option,
    token_option,
)
from openenv_async.cli.output import echo
from openenv_async.cli.targets import resolved, target_argument

if TYPE_CHECKING:
    from openenv_async.targets.resolve import ResolvedTarget
    from openenv_async.targets.served import Server

__all__ = ["play"]

_HELP = """\
:random [N]   N random actions            :state   the environment's state
:reset [SEED] a new episode               :json    the next action as one line of JSON
:help         this                        :quit    leave (so does the end of the input)"""


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
            form = ask(self.schema, self._read, echo) if not self._as_json else self._json()
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

    def _read(self, prompt: str) -> str:
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
        from openenv_async.schemas.sample import sample

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
                    action = sample(self.schema, self._random)
                    echo(f"action {action}")
                    self.step(action)
            case ":help":
                echo(_HELP)
            case _:
                echo(f"there is no command {word}\n{_HELP}")


def _play(url: str, token: str | None, seed: int | None) -> None:
    from openenv_async.client.env import GenericEnvClient
    from openenv_async.client.loop_thread import background_loop
    from openenv_async.client.server_info import fetch_schema

    schema = background_loop().run(fetch_schema(url, token=token))
    with GenericEnvClient(url, token=token).sync() as env:
        game = _Game(env, schema)
        echo(f"{url}: each field of an action is asked for; :help shows what else there is")
        with contextlib.suppress(_Left):
            game.reset(seed)
            while True:
                game.turn()


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
