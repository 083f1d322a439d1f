"""A run of a language model over tasks, killed at random moments and gone on with, and its audit.

Everything is real: the command line in a process of its own that is killed with SIGKILL, its server
in another, a scripted model server that gives nonsense, refused actions, cut answers and 429, and
files. Three accounts of the same episodes are compared: the outcomes in the run's folder, the
environment's own log, and the model server's list of what it gave.

``python -m tests.killed_runs --tasks 1000 --group-size 8 --kills 20`` plays and reports.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openenv_async import OutcomeStatus
from openenv_async.rollouts import RunFolder, baseline
from tests.model_server import ModelServerProcess, ServedCall, called

__all__ = ["Audit", "play_killed"]

FAULTS: Final = {"nonsense": 0.10, "refused": 0.05, "cut": 0.02, "busy": 0.01}
REFUSED: Final = called("query", sql="")
ROOT: Final = Path(__file__).parents[1]


# -- the model ------------------------------------------------------------------------------------


@functools.cache
def answers() -> dict[str, Any]:
    """The right answer of each question."""
    from sqlite_questions_env.questions import questions

    return {row["question"]: row["answer"] for row in questions("train")}


_answered: Counter[str] = Counter()


def answer(messages: Any, body: Any) -> dict[str, Any]:
    """A model that looks around, and gives the right answer six times in ten."""
    seen = next(each["content"] for each in messages if each["role"] == "user")
    question = json.loads(seen)["text"]
    told = [each["content"] for each in messages if each["role"] == "tool"]
    looked = sum("Nothing was done" not in each for each in told)
    if looked == 0:
        return called("list_tables")
    if looked == 1:
        return called("query", sql="SELECT COUNT(*) FROM airports")
    _answered[question] += 1
    right = random.Random(f"{question}/{_answered[question]}").random() < 0.6
    return called("answer", value=answers()[question] if right else "no idea")


# -- the run --------------------------------------------------------------------------------------


@dataclass
class Audit:
    """The findings of a run."""

    outcomes: int = 0
    kills: int = 0
    processes: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    mistakes: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    groups: int = 0
    steps: int = 0
    cut_attempts: int = 0
    problems: list[str] = field(default_factory=list)


def command(folder: Path, count: int, size: int, url: str, *, resume: bool) -> list[str]:
    return [
        *(sys.executable, "-m", "openenv_async.cli", "rollout", "sqlite_questions"),
        *("--tasks", "train", "--episodes", str(count * size), "--group-size", str(size)),
        *("--policy", f"openai:scripted@{url}", "--out", str(folder), "--quiet"),
        *(["--resume"] if resume else []),
    ]


def finished(folder: Path) -> int:
    """The lines that are in the outcomes of a run now."""
    return sum(each.read_bytes().count(b"\n") for each in folder.glob("outcomes-*.jsonl"))


async def play_killed(
    place: Path, *, count: int, size: int, kills: int, seed: int = 0, limit: float = 3000.0
) -> Audit:
    """Play a run, kill it at random moments, go on each time, and compare the accounts.

    Args:
        place: an empty folder.
        count: tasks.
        size: episodes of each.
        kills: how often it is killed.
        seed: of the moments.
        limit: seconds after which it is ended.
    """
    audit = Audit()
    rng = random.Random(seed)
    total = count * size
    folder, log = place / "run", place / "log.jsonl"
    said = place / "said.txt"
    log.touch()
    moments = sorted(rng.randrange(total) for _ in range(kills))
    begun = time.monotonic()
    faults = [f"--fault={name}={rate}" for name, rate in FAULTS.items()]
    answers = ["--answer", "tests.killed_runs:answer", f"--answers=refused={json.dumps(REFUSED)}"]
    async with ModelServerProcess(*faults, *answers, "--shape", "vllm", "--no-prompts") as server:
        environ = os.environ | {"SQLITE_QUESTIONS_LOG": str(log), "OPENAI_API_KEY": "no-key"}
        while True:
            audit.processes += 1
            moment = moments.pop(0) if moments else None
            argv = command(folder, count, size, server.url, resume=folder.exists())
            with said.open("wb") as output:
                process = await asyncio.create_subprocess_exec(
                    *argv, cwd=ROOT, env=environ, stdout=output, stderr=output
                )
            killed = await _watch(process, folder, moment, rng, begun + limit)
            if killed:
                audit.kills += 1
                continue
            if process.returncode:
                text = said.read_text()[-2000:]
                audit.problems.append(f"it ended with {process.returncode}: {text}")
            if moment is None or process.returncode:
                break
        calls = await server.calls()
    audit.seconds = time.monotonic() - begun
    compare(audit, folder, log, calls, count, size)
    return audit


async def _watch(
    process: asyncio.subprocess.Process,
    folder: Path,
    moment: int | None,
    rng: random.Random,
    until: float,
) -> bool:
    """Wait for a process to end, or until its moment has come, and kill it then."""
    ending = asyncio.ensure_future(process.wait())
    while not ending.done():
        late = time.monotonic() > until
        if late or (moment is not None and finished(folder) >= moment):
            await asyncio.sleep(rng.random() * 0.3)  # anywhere in what it does
            if not ending.done():
                process.kill()
                await ending
                return not late
        await asyncio.wait([ending], timeout=0.02)
    return False


def compare(
    audit: Audit, folder: Path, log: Path, calls: list[ServedCall], count: int, size: int
) -> None:
    """Compare the run's folder with the environment's log and the model server's list."""
    from sqlite_questions_env.questions import questions

    run = RunFolder.view(folder)
    status = run.status()
    audit.cut_attempts = status.cut_attempts
    audit.results.update(status.results)
    audit.given.update(call.given for call in calls)
    by_id = {str(call.request_id): call for call in calls}
    logged: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in log.read_bytes().splitlines():
        entry = json.loads(line)
        if entry["event"] != "begin":
            logged[entry["episode_id"]].append(entry)
    seen: Counter[tuple[str, int]] = Counter()
    groups: dict[str, list[float | None]] = defaultdict(list)
    by_hand: dict[str, list[float]] = defaultdict(list)
    for outcome in run.outcomes():
        audit.outcomes += 1
        audit.statuses[outcome.status] += 1
        assert outcome.task is not None
        assert outcome.trajectory is not None
        name = f"{outcome.task.id}/{outcome.member}"
        seen[outcome.task.id, outcome.member or 0] += 1
        usable = outcome.status.usable
        groups[outcome.task.id].append(outcome.episode_return if usable else None)
        entries = logged[outcome.trajectory.episode_id or ""]
        steps = [each for each in outcome.trajectory.transitions if each.mistake is None]
        audit.steps += len(steps)
        rewards = [entry["reward"] for entry in entries if entry["event"] == "step"]
        if [each.reward for each in steps] != rewards or outcome.steps != len(steps):
            audit.problems.append(f"{name}: the environment's log has {rewards}, not {steps}")
        if outcome.status is OutcomeStatus.COMPLETED:
            given = [reward for reward in rewards if reward is not None]
            by_hand[outcome.task.id].append(math.fsum(given))
            if entries[-1]["event"] != "end" or entries[-1]["why"] != "answered":
                audit.problems.append(f"{name} is completed, and its log has no end")
        _compare_calls(audit, name, outcome.trajectory.transitions, by_id)
        mistaken = sum(each.mistake is not None for each in outcome.trajectory.transitions)
        if mistaken != outcome.mistakes:
            audit.problems.append(f"{name} counts {outcome.mistakes} mistakes, not {mistaken}")
    audit.groups = len(groups)
    ids = [row["id"] for row in itertools.islice(questions("train"), count)]
    expected = {(task, member) for task in ids for member in range(size)}
    if seen != dict.fromkeys(expected, 1):
        wrong = {key: seen[key] for key in expected | set(seen) if seen[key] != 1}
        audit.problems.append(f"not once each: {list(wrong.items())[:5]}")
    for task, returns in groups.items():
        hand = by_hand[task]
        mean = math.fsum(hand) / len(hand) if hand else None
        if baseline(returns) != mean:
            audit.problems.append(f"the baseline of {task} is {baseline(returns)}, not {mean}")


def _compare_calls(audit: Audit, name: str, transitions: Any, by_id: dict[str, ServedCall]) -> None:
    """Compare what the model was recorded to have said with what its server gave."""
    for transition in transitions:
        for call in transition.model_calls:
            if call.error is not None:
                continue
            served = by_id.get(f"{call.extra['call']}-{call.extra['attempts']}")
            if served is None:
                audit.problems.append(f"{name}: nobody gave the call {call.extra}")
                continue
            audit.used[served.given] += 1
            if list(call.completion_ids or ()) != served.completion_ids:
                audit.problems.append(f"{name}: other tokens than those that were sampled")
            mistake = transition.mistake
            kind = {"nonsense": "unreadable_reply", "refused": "refused_action"}.get(served.given)
            if (None if mistake is None else mistake.kind) != kind:
                audit.problems.append(f"{name}: {served.given} was recorded as {mistake}")
        if transition.mistake is not None:
            audit.mistakes[transition.mistake.kind] += 1


def main() -> None:
    """Play and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.killed_runs", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        audit = asyncio.run(
            play_killed(
                Path(place),
                count=given.tasks,
                size=given.group_size,
                kills=given.kills,
                seed=given.seed,
            )
        )
    for name, value in vars(audit).items():
        shown = dict(value) if isinstance(value, Counter) else value
        if isinstance(shown, list):
            shown = [len(shown), *shown[:5]]
        sys.stdout.write(f"{name}: {shown}\n")
    sys.exit(bool(audit.problems))


if __name__ == "__main__":
    main()
