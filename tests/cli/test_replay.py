"""``openenv-async replay``: what differs, what is left out, and exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner

from openenv_async import serve
from openenv_async.cli import main
from tests.rollouts.environments import Counting, RaisesInReset
from tests.rollouts.test_replaying import recorded


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
