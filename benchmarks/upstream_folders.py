"""Upstream's environment folders, unmodified: upstream's own server beside ours.

    python -m benchmarks.upstream_folders FOLDER_OF_FOLDERS [NAME ...]

Each folder is served three times and plays the same actions from the same seeds:

1. by upstream's own server, ``uvicorn``, in an interpreter that has ``openenv``;
2. by ``openenv-async serve FOLDER`` in that interpreter, with OpenEnv's classes;
3. by ``openenv-async serve FOLDER`` in an interpreter without ``openenv``, with ours.

Observations, rewards, ends and step counts are compared one by one; the first difference is
printed. Actions are drawn while upstream's server plays, from the action's schema or from what
``ACTIONS`` has for a folder, and then played again. The packages that a folder needs beside OpenEnv
are to be in both interpreters (``--with`` and ``--without``); the last column has what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import connect

from openenv_async.schemas.sample import sample
from openenv_async.targets import manifest
from openenv_async.targets.discovery import upstream_app

__all__ = ["main"]

ROOT: Final = Path(__file__).resolve().parent.parent
_START: Final = 90.0
_CALL: Final = 60.0
_TICK: Final = 0.2
_SEEDS: Final = 1000
_VARYING: Final = frozenset({"episode_id", "execution_time", "total_execution_time"})
"""Fields that differ from run to run of one and the same server."""

Draw = Callable[[random.Random, dict[str, Any]], Any]


def _tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "call_tool", "tool_name": name, "arguments": arguments}


def _of_field(name: str, key: str = "action_id", **more: Any) -> Draw:
    """Return what draws one of the legal actions that an observation lists."""

    def draw(rng: random.Random, observation: dict[str, Any]) -> Any:
        legal = observation.get(name) or [0]
        return {key: rng.choice(legal), **more}

    return draw


def _of(*actions: Any) -> Draw:
    return lambda rng, observation: rng.choice(actions)


_CODE: Final = (
    *("print(1 + 1)", "x = 5", "x", "print(x * 2)", "1 / 0", "for i in range(3):\n    print(i)"),
    *("import os", "def f(a):\n    return a + 1", "print(f(2))", "(", "[i * i for i in range(4)]"),
)
ACTIONS: Final[dict[str, Draw]] = {
    "chess_env": _of_field("legal_moves", "move"),
    "connect4_env": _of_field("legal_actions", "column"),
    "openspiel_env": _of_field("legal_actions", "action_id"),
    "coding_env": _of(*({"code": code} for code in _CODE)),
    "repl_env": _of(*({"code": code} for code in _CODE), {"code": "print(FINAL(3))"}),
    "echo_env": _of(
        _tool("echo_message", message="hello"),
        _tool("echo_with_length", message="fünf"),
        _tool("no_such_tool"),
        _tool("echo_message"),
        {"type": "list_tools"},
    ),
}


@dataclass
class Turn:
    """The answer to one call: an observation or an error, with reward and end."""

    observation: Any
    reward: Any
    done: bool


@dataclass
class Play:
    """Everything that a server answered, and the actions that it was asked."""

    turns: list[Turn] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


# -- servers ------------------------------------------------------------------------------------


def _environ(folder: Path, more: Sequence[Path] = ()) -> dict[str, str]:
    paths = [*more, folder.parent, folder]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONHASHSEED": "0",
        "ENABLE_WEB_INTERFACE": "false",
    }
    return environ


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def _serving(command: Sequence[str], folder: Path, port: int, env: dict[str, str]) -> Iterator[str]:
    """Run a server until the block ends; raise what it said if it does not answer."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            command, cwd=home, env=env, stdout=said, stderr=said, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(process, url, said)
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, said: Any) -> None:
    until = time.monotonic() + _START
    while True:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{url}/health", timeout=5).read()
            return
        if process.poll() is not None or time.monotonic() > until:
            said.seek(0)
            raise RuntimeError(_error_in(said.read()) or "it does not answer")
        select.select([], [], [], _TICK)


def _error_in(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:300]


def _upstream(python: str, folder: Path, app: str) -> contextlib.AbstractContextManager[str]:
    port = _free_port()
    inside = app.partition(":")[0].split(".")[-2:]
    name = f"{folder.name}.{'.'.join(inside)}:{app.partition(':')[2]}"
    command = [python, "-m", "uvicorn", name, "--port", str(port), "--log-level", "warning"]
    return _serving(command, folder, port, _environ(folder))


def _ours(python: str, folder: Path) -> contextlib.AbstractContextManager[str]:
    port = _free_port()
    command = [python, "-m", "openenv_async.cli", "serve", str(folder), "--port", str(port)]
    env = _environ(folder)
    env["PYTHONPATH"] = str(ROOT)  # the folder is found by what is told alone
    return _serving(command, folder, port, env)


# -- play ---------------------------------------------------------------------------------------


def _call(socket: Any, kind: str, data: Any = None) -> dict[str, Any]:
    socket.send(json.dumps({"type": kind} if data is None else {"type": kind, "data": data}))
    reply: dict[str, Any] = json.loads(socket.recv(_CALL))
    return reply


def _turn(reply: dict[str, Any]) -> Turn:
    data = reply["data"]
    if reply["type"] == "error":
        return Turn({"error": data.get("code")}, None, False)
    return Turn(_without(data["observation"]), data["reward"], data["done"])


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(each) for key, each in value.items() if key not in _VARYING}
    return [_without(each) for each in value] if isinstance(value, list) else value


def _play(url: str, steps: int, draw: Draw | None, actions: Sequence[Any] | None) -> Play:
    """Play ``steps`` actions, drawn or given, an episode after another."""
    played = Play()
    rng = random.Random(1)
    with urllib.request.urlopen(f"{url}/schema", timeout=_CALL) as response:
        schema = json.load(response)["action"]
    taking = iter(actions or ())
    seed = _SEEDS
    with connect(f"{url.replace('http', 'ws')}/ws", max_size=None, open_timeout=_CALL) as ws:
        last = _turn(_call(ws, "reset", {"seed": seed}))
        played.turns.append(last)
        while len(played.actions) < steps:
            if last.done:
                played.counts.append(_call(ws, "state")["data"].get("step_count"))
                seed += 1
                last = _turn(_call(ws, "reset", {"seed": seed}))
                played.turns.append(last)
                if last.done:
                    raise RuntimeError("a reset gave an episode that is over")
            if actions is not None:
                action = next(taking)
            else:
                action = sample(schema, rng) if draw is None else draw(rng, last.observation)
            last = _turn(_call(ws, "step", action))
            played.actions.append(action)
            played.turns.append(last)
        played.counts.append(_call(ws, "state")["data"].get("step_count"))
        ws.send('{"type": "close"}')
    return played


def _difference(one: Play, other: Play) -> str:
    """Return the first difference of two plays; empty where there is none."""
    for number, (a, b) in enumerate(zip(one.turns, other.turns, strict=True)):
        for name in ("observation", "reward", "done"):
            left, right = getattr(a, name), getattr(b, name)
            if left != right:
                return f"turn {number}: {name} {_first(left, right)}"
    return "" if one.counts == other.counts else f"step counts {one.counts} / {other.counts}"


def _first(one: Any, other: Any, path: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key not in one or key not in other or one[key] != other[key]:
                return _first(one.get(key), other.get(key), f"{path}.{key}")
    return f"{path} {one!r:.120} / {other!r:.120}"


# -- the table ----------------------------------------------------------------------------------


def _row(folder: Path, steps: int, pythons: Sequence[str]) -> list[str]:
    about = manifest.load(folder)
    app = upstream_app(folder, about)
    if app is None:
        return ["not of upstream's form"]
    draw = ACTIONS.get(folder.name)
    try:
        with _upstream(pythons[0], folder, app) as url:
            reference = _play(url, steps, draw, None)
    except Exception as exc:
        return [f"upstream: {type(exc).__name__} {exc}"]
    cells = [f"{len(reference.actions)} in {len(reference.counts)} episodes"]
    for python in pythons:
        try:
            with _ours(python, folder) as url:
                played = _play(url, steps, None, reference.actions)
            cells.append(_difference(reference, played) or "same")
        except Exception as exc:
            cells.append(f"{type(exc).__name__} {exc}")
    return cells


def main() -> None:
    """Print a row for each folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--with", dest="installed", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--without", default=None, metavar="PYTHON")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    pythons = [given.installed] + ([given.without] if given.without else [])
    names = given.names or sorted(path.parent.name for path in given.root.glob("*/openenv.yaml"))
    for name in names:
        row = _row((given.root / name).resolve(), given.steps, pythons)
        sys.stdout.write(" | ".join([name, *row]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
