"""``openenv-async replay``: what differs, what is left out, and exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner

from openenv_async import StepResult, serve
from openenv_async.cli import main
from openenv_async.errors import InvalidAction
from openenv_async.rollouts import Turn
from tests.rollouts.environments import Counting, Move, RaisesInReset, Seen
from tests.rollouts.test_replaying import recorded


class Guarded(Counting):
    """Counts to its goal, if it is told the answer."""

    def reset(
        self, seed: int | None = None, goal: int | None = None, answer: int | None = None
    ) -> Seen:
        if goal != answer:
            raise ValueError("it is not told the answer")
        return super().reset(seed, goal=goal)

    def step(self, action: Move) -> StepResult[Seen]:
        if action.amount > 9:
            raise InvalidAction("too much")
        return super().step(action)


def adds(observation: object, turn: Turn) -> dict[str, int]:
    return {"amount": 1}


def test_the_command(tmp_path: Path) -> None:
    asyncio.run(recorded(Counting, path := tmp_path / "a.jsonl"))
    asyncio.run(recorded(RaisesInReset, lost := tmp_path / "lost.jsonl"))
    run = CliRunner().invoke
    here = "tests.rollouts.test_replaying"
    result = run(main, ["replay", str(path), f"{here}:Counting"])
    assert (result.exit_code, result.output) == (
        0,
        "episode 0: the same, 3 steps\nepisode 1: the same, 3 steps\n",
    )
    result = run(main, ["replay", str(path), f"{here}:Slipping", "--episode", "1", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "episodes": [
            {"episode": 1, "steps": 3, "difference": "step 2: observation.total was 2, is 20"}
        ],
        "left_out": 0,
    }
    assert "1 of 1 episodes differ" in result.stderr
    lines = path.read_text() + lost.read_text()
    (both := tmp_path / "both.jsonl").write_text(lines)
    result = run(main, ["replay", str(both), f"{here}:Counting"])
    assert result.exit_code == 0
    assert result.output.splitlines()[2:] == [
        "left out, since their reset failed or nothing tells their seed: 2"
    ]
    result = run(main, ["replay", str(lost), f"{here}:Counting"])
    assert "no such episode" in result.stderr
    result = run(main, ["replay", str(path), "http://127.0.0.1:1", "--param", "a=1"])
    assert result.exit_code == 2
    (tmp_path / "a.csv").touch()
    result = run(main, ["replay", str(tmp_path / "a.csv"), "echo"])
    assert result.exit_code == 2


async def test_episodes_are_replayed_on_several_servers_in_turn(tmp_path: Path) -> None:
    await recorded(Counting, path := tmp_path / "a.jsonl")
    async with serve(Counting) as url, serve(Counting) as other:
        done = await asyncio.to_thread(
            CliRunner().invoke, main, ["replay", str(path), url, other, "--json"]
        )
    assert done.exit_code == 0, done.output
    assert [row["difference"] for row in json.loads(done.stdout)["episodes"]] == [None, None]


def test_the_reset_is_the_recorded_one_and_private_columns_come_from_the_tasks(
    tmp_path: Path,
) -> None:
    rows = [{"id": f"t{number}", "goal": number, "answer": number} for number in range(2, 4)]
    (tasks := tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file, folder, here = tmp_path / "a.parquet", tmp_path / "run", "tests.cli.test_replay:Guarded"
    of_tasks = ["--tasks", str(tasks), "--private", "answer"]
    policy = ["--policy", "tests.cli.test_replay:adds", "--seed", "4", "--quiet"]
    run = CliRunner().invoke
    for out in (file, folder):
        done = run(main, ["rollout", here, *of_tasks, *policy, "--out", str(out)])
        assert done.exit_code == 0, done.output
        done = run(main, ["replay", str(out), here, *of_tasks])
        assert done.exit_code == 0, done.output
        assert sorted(done.output.splitlines()) == [
            "episode 0: the same, 2 steps",  # the refused action is none of them
            "episode 1: the same, 3 steps",
        ]
    done = run(main, ["replay", str(file), here])
    assert "it is not told the answer" in done.output
    done = run(main, ["replay", str(file), here, "--private", "answer"])
    assert "--private: only tasks have it: give --tasks" in done.stderr
    tasks.write_text(json.dumps(rows[0]) + "\n")
    done = run(main, ["replay", str(file), here, *of_tasks])
    assert "--tasks: the task 't3' is not there" in done.stderr
