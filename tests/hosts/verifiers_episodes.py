"""Episodes of tasksets of ``verifiers``, played here and by its own runner, compared one by one.

    python -m tests.hosts.verifiers_episodes PYTHON [NAME ...] --episodes 100 [--repository FOLDER]

``PYTHON`` is an interpreter that has ``verifiers`` 0.4. Two tasksets are of this folder; with a
checkout of the repository of verifiers, ``FOLDER``, the others are those of its ``environments``
that need no network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openenv_async import connect
from openenv_async.errors import EnvironmentRaised
from openenv_async.hosts import verifiers
from openenv_async.hosts.verifiers import PYTHON, VerifiersHost
from openenv_async.spec import EnvironmentSpec

__all__ = ["HERE", "OURS", "PLAYS", "Play", "differences"]

HERE: Final = Path(__file__).parent
OURS: Final = ("hosted_sums", "hosted_game")
_AT_ONCE: Final = 8
_DEADLINE: Final = 1800.0
"""Seconds that the package's own runner has for all of its episodes."""


@dataclass(frozen=True)
class Play:
    """The way to play a taskset: a draw gives the replies to a task."""

    replies: Callable[[random.Random, Any], list[dict[str, Any]]]
    tasks: int
    role: str = "agent"
    agent: dict[str, Any] = field(default_factory=dict)
    public: tuple[str, ...] = ()

    def spec(self, name: str) -> EnvironmentSpec:
        params = {"agent": self.agent, "limit": self.tasks, "public": [*self.public]}
        return EnvironmentSpec(VerifiersHost, params={"taskset": name, **params})


def _call(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def _sums(draw: random.Random, task: Any) -> list[dict[str, Any]]:
    return [
        {"content": draw.choice([str(task["answer"]), f" {task['answer']}", "12", "", "raise"])}
    ]


def _game(draw: random.Random, task: Any) -> list[dict[str, Any]]:
    call = _call("hints_parity", number=draw.randrange(9))
    return [
        draw.choice(
            [
                {"content": str(draw.randrange(16))},
                {"content": f"{draw.randrange(16)} please"},
                {"content": "leave"} if draw.random() < 0.3 else {"content": "8"},
                {"content": "let me see", "tool_calls": [call]},
                {"tool_calls": [call, {**call, "arguments": {"number": 4}}]},
            ]
        )
        for _ in range(6)
    ]


def _glossary(draw: random.Random, task: Any) -> list[dict[str, Any]]:
    call = _call("facts_lookup", name=draw.choice([task["name"], "nobody"]))
    answer = draw.choice([task["answer"], "I do not know"])
    looks = [{"tool_calls": [call] * draw.randint(1, 2)}] * draw.randrange(3)
    return [*looks, {"content": f"<answer>{answer}</answer>"}]


def _scratchpad(draw: random.Random, task: Any) -> list[dict[str, Any]]:
    calls = [{"tool_calls": [_call("scratchpad_roundtrip", word=task["word"])]}]
    return [*calls * draw.randrange(5), {"content": draw.choice([task["word"], "zulu"])}]


def _colors(draw: random.Random, task: Any) -> list[dict[str, Any]]:
    answer = task["answer"]
    wrong = "".join(draw.choice("ABCDEFGHI") for _ in answer)
    last = draw.choice([answer, wrong, answer[:3], answer.lower(), "none"])
    return [{"content": answer[:2]}, {"content": answer[:4]}, {"content": last}]


PLAYS: Final = {
    "hosted_sums": Play(_sums, 20, public=("answer",)),
    "hosted_game": Play(_game, 8, role="player", agent={"max_turns": 4}),
    "glossary": Play(_glossary, 5, public=("name", "answer")),
    "scratchpad": Play(_scratchpad, 20, public=("word",)),
    "color_codeword": Play(_colors, 40, public=("answer",)),
}


async def differences(
    python: str,
    names: Sequence[str],
    episodes: int,
    tell: Callable[[str], object] = lambda line: None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Play some episodes of each taskset twice.

    Returns:
        What the package's own runner tells of each, and a line for each that was other here.
    """
    specs = {name: PLAYS[name].spec(name) for name in names}
    plays = {name: await asyncio.to_thread(_drawn, specs[name], name, episodes) for name in names}
    began = time.monotonic()
    theirs = await _told(python, plays)
    tell(f"their runner: {len(theirs)} episodes in {time.monotonic() - began:.1f} s")
    ours: list[dict[str, Any]] = []
    for name in names:
        began = time.monotonic()
        ours += await _all_played(specs[name], plays[name])
        tell(f"here: {name}, {episodes} episodes in {time.monotonic() - began:.1f} s")
    found = []
    for number, (mine, told) in enumerate(zip(ours, theirs, strict=True)):
        keys = [*told] if told["ok"] else ["ok", "reward", "error"]
        expected = {key: told[key] for key in keys}
        if told["ok"]:
            expected["truncated"] = told["stop"] == "max_turns"
        given = {key: mine.get(key) for key in expected}
        if given != expected:
            where = f"{names[number // episodes]} {number % episodes}"
            found.append(f"{where}: here {given!r:.2000}, there {expected!r:.2000}")
    return theirs, found


def _drawn(spec: EnvironmentSpec, name: str, episodes: int) -> list[tuple[int, Any]]:
    assert spec.tasks is not None
    rows = spec.tasks.page("train", 0, PLAYS[name].tasks)
    drawn = []
    for number in range(episodes):
        draw = random.Random(number)
        index = draw.randrange(len(rows))
        drawn.append((index, PLAYS[name].replies(draw, rows[index].data)))
    return drawn


async def _told(python: str, plays: dict[str, list[tuple[int, Any]]]) -> list[dict[str, Any]]:
    script = [[name, PLAYS[name].role, PLAYS[name].agent, each] for name, each in plays.items()]
    runner = await asyncio.create_subprocess_exec(
        python,
        str(HERE / "verifiers_peer.py"),
        "play",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_DEADLINE):
            output, _ = await runner.communicate(json.dumps(script).encode())
    finally:
        if runner.returncode is None:
            runner.kill()
            await runner.wait()
    assert runner.returncode == 0
    told: list[dict[str, Any]] = json.loads(output)
    return told


async def _all_played(spec: EnvironmentSpec, plays: list[tuple[int, Any]]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    waiting = [*enumerate(plays)]

    async def play() -> None:
        async with connect(spec) as env:
            while waiting:
                number, (index, replies) = waiting.pop()
                found[number] = await _played(env, index, replies)

    await asyncio.gather(*(play() for _ in range(_AT_ONCE)))
    return [found[number] for number in range(len(plays))]


async def _played(env: Any, index: int, replies: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of an episode, as the package's runner tells it."""
    result = await env.reset(index=index)
    messages = [message["content"] for message in result.observation.messages]
    for reply in replies:
        try:
            result = await env.step(reply)
        except EnvironmentRaised as exc:
            return {"ok": False, "reward": None, "error": exc.detail["type"]}
        messages += [message["content"] for message in result.observation.messages]
        if result.done:
            break
    assert result.done
    return {
        "ok": True,
        "reward": result.reward,
        "rewards": result.info["rewards"],
        "metrics": result.info["metrics"],
        "turns": result.info["turns"],
        "stop": result.info["stop"],
        "messages": messages,
        "error": None,
        "truncated": result.truncated,
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("python")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--repository", type=Path)
    given = parser.parse_args(arguments)
    names = given.names or [*PLAYS] if given.repository else given.names or [*OURS]
    folders = [HERE / "tasksets"]
    if given.repository:
        folders += [given.repository / "environments" / name for name in names if name not in OURS]
    os.environ["PYTHONPATH"] = os.pathsep.join(str(folder.resolve()) for folder in folders)
    os.environ[PYTHON] = given.python

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        theirs, found = asyncio.run(differences(given.python, names, given.episodes, tell))
    finally:
        verifiers._bridges.close()
    for line in found:
        tell(line)
    rewards = {told["reward"] for told in theirs if told["ok"]}
    tell(f"{len(found)} of {len(theirs)} episodes differ; rewards: {len(rewards)} different")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
