"""Upstream's environment folders, unmodified: upstream's own server beside ours.

    python -m benchmarks.upstream_folders FOLDER_OF_FOLDERS [NAME ...]

Each folder is served three times and plays the same actions from the same seeds:

1. by upstream's own server, ``uvicorn``, in an interpreter that has ``openenv``;
2. by ``openenv-async serve FOLDER`` in that interpreter, with OpenEnv's classes;
3. by ``openenv-async serve FOLDER`` in an interpreter without ``openenv``, with ours.

Observations, rewards, ends and step counts are compared one by one; the first difference is
printed. Actions are drawn while upstream's server plays, from the action's schema or from what
``upstream_plays`` has for a folder, and then played again. The packages that a folder needs beside
OpenEnv are to be in both interpreters (``--with`` and ``--without``).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import connect

from benchmarks.upstream_plays import ACTIONS, ENVIRON, NEEDS, Draw, write_data
from openenv_async.schemas.sample import sample
from openenv_async.targets import manifest
from openenv_async.targets.discovery import upstream_app

__all__ = ["main"]

ROOT: Final = Path(__file__).resolve().parent.parent
DATA: Final = Path(tempfile.gettempdir()) / "upstream-folders-data"
_START: Final = 90.0
_CALL: Final = 60.0
_TICK: Final = 0.2
_SEEDS: Final = 1000
_PLAYS: Final = "plays, where upstream's server refuses"
_VARYING: Final = frozenset({"episode_id", "execution_time", "total_execution_time"})
"""Fields that differ from run to run of one and the same server."""

_SEEDING: Final = """
import functools, importlib.abc, importlib.util, os, random, sys, uuid

ids, real_uuid4 = random.Random(0), uuid.uuid4

def uuid4():  # one folder takes the hash of its episode's id for a coin
    caller = sys._getframe(1).f_globals.get("__file__") or ""
    if not caller.startswith(os.environ["UPSTREAM_FOLDER"]):
        return real_uuid4()
    return uuid.UUID(int=ids.getrandbits(128), version=4)

uuid.uuid4 = uuid4

def of_numpy(numpy_random, seed):
    numpy_random.seed(seed)
    if not hasattr(numpy_random, "_unseeded"):
        numpy_random._unseeded = numpy_random.RandomState
        class RandomState(numpy_random.RandomState):
            def __init__(self, seed=None):
                super().__init__(0 if seed is None else seed)
        numpy_random.RandomState = RandomState

def seeded(call, own):
    @functools.wraps(call)
    def wrapped(self, *args, **kwargs):
        seed = kwargs.get("seed") if own else None
        random.seed(seed or 0)
        ids.seed(seed or 0)
        if "numpy" in sys.modules:
            of_numpy(sys.modules["numpy"].random, seed or 0)
        return call(self, *args, **kwargs)
    return wrapped

def of_class(cls, **more):
    for name in ("__init__", "reset"):
        if name in vars(cls):
            setattr(cls, name, seeded(vars(cls)[name], name == "reset"))

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if not name.endswith((".env_server.interfaces", ".upstream.interfaces")):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if hasattr(spec.loader, "get_filename"):
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                module.Environment.__init_subclass__ = classmethod(of_class)
            spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""
"""Source that seeds ``random`` and NumPy before an environment is made or reset.

Many folders draw from these and take no seed; without it no two runs of one server are the same.
"""


@dataclass
class Turn:
    """The answer to one call: an observation or an error's code, with reward and end."""

    observation: Any
    reward: Any = None
    done: bool = False
    refused: bool = False


@dataclass
class Play:
    """Everything that a server answered, and the actions that it was asked."""

    turns: list[Turn] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


# -- servers ------------------------------------------------------------------------------------


def _environ(python: str, folder: Path, *paths: Path) -> dict[str, str]:
    site = next(Path(python).parent.parent.glob("lib/python*/site-packages"), Path())
    places = {"data": DATA, "folder": folder, "sumo": site / "sumo"}
    own = {name: value.format(**places) for name, value in ENVIRON.get(folder.name, {}).items()}
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONHASHSEED": "0",
        "ENABLE_WEB_INTERFACE": "false",
        "UPSTREAM_FOLDER": str(folder),
        **own,
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def _serving(command: Sequence[str], port: int, env: dict[str, str]) -> Iterator[str]:
    """Run a server until the block ends; raise what it said if it does not answer."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryDirectory() as home:
        Path(home, "sitecustomize.py").write_text(_SEEDING)
        env = {**env, "PYTHONPATH": os.pathsep.join([home, env["PYTHONPATH"]])}
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
    return _serving(command, port, _environ(python, folder, folder.parent, folder))


def _ours(python: str, folder: Path) -> contextlib.AbstractContextManager[str]:
    port = _free_port()
    command = [python, "-m", "openenv_async.cli", "serve", str(folder), "--port", str(port)]
    return _serving(command, port, _environ(python, folder, ROOT))


# -- play ---------------------------------------------------------------------------------------


def _call(socket: Any, kind: str, data: Any = None) -> dict[str, Any]:
    socket.send(json.dumps({"type": kind} if data is None else {"type": kind, "data": data}))
    reply: dict[str, Any] = json.loads(socket.recv(_CALL))
    return reply


def _turn(reply: dict[str, Any]) -> Turn:
    data = reply["data"]
    if reply["type"] == "error":
        return Turn({"error": data.get("code")}, refused=True)
    return Turn(_without(data["observation"]), data["reward"], data["done"])


def _plain(text: str) -> str:
    """Return a text without addresses, folders of interpreters and places inside of libraries.

    One and the same failure in a thread is told from either of two lines of concurrent.futures.
    """
    text = re.sub(r"\S*/lib/python3(\S*), line \d+", r"PYTHON\1", text)
    return re.sub(r"0x[0-9a-f]+", "ADDRESS", text)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(each) for key, each in value.items() if key not in _VARYING}
    if isinstance(value, list):
        return [_without(each) for each in value]
    return _plain(value) if isinstance(value, str) else value


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
        is_over = last.done
        while len(played.actions) < steps:
            if last.done and not is_over:
                played.counts.append(_call(ws, "state")["data"].get("step_count"))
                seed += 1
                last = _turn(_call(ws, "reset", {"seed": seed}))
                played.turns.append(last)
                is_over = last.done  # some say so of a reset that failed: play on all the same
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
    for number, (a, b) in enumerate(zip(one.turns, other.turns, strict=False)):
        for name in ("observation", "reward", "done"):
            left, right = getattr(a, name), getattr(b, name)
            if left != right and a.refused and not b.refused:
                return _PLAYS
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


def _reference(folder: Path, app: str, steps: int, python: str, kept: Path | None) -> Play:
    """Return what upstream's server answers, or what it answered when it was last asked."""
    path = None if kept is None else kept / f"{folder.name}-{steps}.json"
    if path is not None and path.exists():
        data = json.loads(path.read_text())
        turns = [Turn(**each) for each in data["turns"]]
        return Play(turns, data["actions"], data["counts"])
    with _upstream(python, folder, app) as url:
        played = _play(url, steps, ACTIONS.get(folder.name), None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(played)))
    return played


def _row(folder: Path, steps: int, pythons: Sequence[str], kept: Path | None) -> list[str]:
    about = manifest.load(folder)
    app = upstream_app(folder, about)
    if app is None:
        return ["not of upstream's form"]
    try:
        reference = _reference(folder, app, steps, pythons[0], kept)
    except Exception as exc:
        return [f"upstream: {type(exc).__name__} {exc}"]
    refused = sum(turn.refused for turn in reference.turns)
    cells = [f"{len(reference.actions)} in {len(reference.counts)} episodes, {refused} refused"]
    first: Play | None = None
    for python in pythons:
        try:
            with _ours(python, folder) as url:
                played = _play(url, steps, None, reference.actions)
            difference = _difference(reference, played)
            if difference == _PLAYS and first is not None:
                difference = _difference(first, played) or _PLAYS
            first = first or played
            cells.append(difference or "same")
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
    parser.add_argument("--keep", type=Path, help="folder of upstream's answers, asked once")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    write_data(DATA)
    pythons = [given.installed] + ([given.without] if given.without else [])
    names = given.names or sorted(path.parent.name for path in given.root.glob("*/openenv.yaml"))
    for name in names:
        row = _row((given.root / name).resolve(), given.steps, pythons, given.keep)
        sys.stdout.write(" | ".join([name, *row, NEEDS.get(name, "")]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
