"""Many episodes of an MCP server at once: kept apart, and nothing left: ``python -m benchmarks.…``.

``python -m benchmarks.mcp_servers filesystem --bin node_modules/.bin --episodes 1000``

Each episode reads (nothing may be there), writes a text of its own, reads again (that and nothing
else may be there), and submits. Then our server is ended as ``--end`` says, in the midst of as many
episodes as there are sessions, and what is left of processes and folders is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

from openenv_async import EnvClient, GenericEnvClient, Timeouts, resolve
from openenv_async.guard import GUARD_VARIABLE

__all__ = ["PLAYS", "Play", "Result", "main", "measure"]

_PATIENCE: Final = 30.0
"""Seconds within which nothing may be left."""


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_name": name, "arguments": arguments}


@dataclass(frozen=True)
class Play:
    """The way in which one server is played.

    Attributes:
        command: of the server.
        write: the calls that write a text.
        read: the call that reads what there is.
        env: variables.
    """

    command: str
    write: Callable[[str], list[dict[str, Any]]]
    read: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)


PLAYS: Final = {
    "filesystem": Play(
        "mcp-server-filesystem {folder}",
        lambda text: [_call("write_file", path="memo.txt", content=text)],
        _call("read_text_file", path="memo.txt"),
    ),
    "memory": Play(
        "mcp-server-memory",
        lambda text: [
            _call(
                "create_entities",
                entities=[{"name": text, "entityType": "text", "observations": []}],
            )
        ],
        _call("read_graph"),
        {"MEMORY_FILE_PATH": "{folder}/memory.json"},
    ),
    "sqlite": Play(
        "mcp-server-sqlite --db-path {folder}/data.db",
        lambda text: [
            _call("create_table", query="CREATE TABLE IF NOT EXISTS memo (text TEXT)"),
            _call("write_query", query=f"INSERT INTO memo VALUES ('{text}')"),
        ],
        _call("read_query", query="SELECT text FROM memo"),
    ),
}


@dataclass
class Result:
    """The outcome of a run.

    Attributes:
        episodes: that were played to their end.
        seconds: they took, all together.
        resets: seconds of each reset.
        mixed: texts that an episode found and had not written itself.
        lost: texts that an episode wrote and did not find.
        processes, folders: left ``_PATIENCE`` after our server's end.
    """

    episodes: int = 0
    seconds: float = 0.0
    resets: list[float] = field(default_factory=list)
    mixed: int = 0
    lost: int = 0
    processes: int = 0
    folders: int = 0

    @property
    def is_clean(self) -> bool:
        """Return whether nothing was mixed, lost or left."""
        return not (self.mixed or self.lost or self.processes or self.folders)


async def measure(
    play: Play, *, path: str, episodes: int, sessions: int, end: signal.Signals | None
) -> Result:
    """Play, end and count.

    Args:
        play: which server, and how.
        path: folders of programs, searched before those of ``PATH``.
        episodes: to play.
        sessions: at once.
        end: the signal that ends our server; ``None``: it is ended by its owner.
    """
    result = Result()
    env = {**play.env, "PATH": path}
    marks = f"bench{os.getpid()}x"
    # The folder for temporary files of our server, and so of its episodes.
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, TMPDIR=place):
        target = resolve(f"mcp:{play.command}", params={"env": env})
        arguments = ["--reset-timeout=600", "--step-timeout=600"]
        async with target.serve(arguments=arguments) as server:
            left = iter(range(episodes))
            clients = [_client(server.url, server.token) for _ in range(sessions)]
            begun = time.monotonic()
            await asyncio.gather(*(_episodes(env, play, left, marks, result) for env in clients))
            result.seconds = time.monotonic() - begun
            await asyncio.gather(*(env.reset() for env in clients))
            assert server.pid is not None
            bearers = await asyncio.to_thread(_bearers, place)
            assert len(bearers) >= sessions, "the episodes have no servers"
            if end is not None:
                os.kill(server.pid, end)
            else:
                await asyncio.gather(*(env.close() for env in clients))
        if end is not None:
            await asyncio.gather(*(env.close() for env in clients), return_exceptions=True)
        await asyncio.to_thread(_count_left, place, result)
    return result


def _client(url: str, token: str | None) -> EnvClient[Any, Any, Any]:
    return GenericEnvClient(url, token=token, timeouts=Timeouts(reset=600, step=600))


async def _episodes(
    env: EnvClient[Any, Any, Any], play: Play, left: Any, marks: str, result: Result
) -> None:
    for number in left:
        before = time.monotonic()
        await env.reset()
        result.resets.append(time.monotonic() - before)
        text = f"{marks}{number}y"
        result.mixed += marks in (await env.step(play.read)).observation["text"]
        for action in play.write(text):
            await env.step(action)
        found = (await env.step(play.read)).observation["text"]
        result.lost += text not in found
        result.mixed += marks in found.replace(text, "")
        last = await env.step(_call("submit", answer="done"))
        result.episodes += last.terminated


def _bearers(place: str) -> list[int]:
    """The processes that run below a folder, by their variables."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            variables = Path("/proc", name, "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_marked = any(each.startswith(f"{GUARD_VARIABLE}=".encode()) for each in variables)
        if is_marked and any(place.encode() in each for each in variables):
            found.append(int(name))
    return found


def _count_left(place: str, result: Result) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        result.processes = len(_bearers(place))
        result.folders = len(os.listdir(place))
        if not result.processes and not result.folders:
            break
        time.sleep(0.05)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 where anything was mixed, lost or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=[*PLAYS])
    parser.add_argument("--bin", action="append", default=[], help="folder of its program")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--end", choices=["close", "term", "kill"], default="close")
    given = parser.parse_args(arguments)
    path = os.pathsep.join([*map(os.path.abspath, given.bin), os.environ["PATH"]])
    ends = {"close": None, "term": signal.SIGTERM, "kill": signal.SIGKILL}
    result = asyncio.run(
        measure(
            PLAYS[given.server],
            path=path,
            episodes=given.episodes,
            sessions=given.sessions,
            end=ends[given.end],
        )
    )
    resets = sorted(result.resets)
    print(
        f"{given.server}: {result.episodes} episodes, {given.sessions} at once, in"
        f" {result.seconds:.1f} s; reset p50 {resets[len(resets) // 2]:.2f} s, p99"
        f" {resets[int(len(resets) * 0.99)]:.2f} s; mixed {result.mixed}, lost {result.lost}; after"
        f" the end by {given.end}: {result.processes} processes and {result.folders} folders left"
    )
    return 0 if result.is_clean and result.episodes == given.episodes else 1


if __name__ == "__main__":
    sys.exit(main())
