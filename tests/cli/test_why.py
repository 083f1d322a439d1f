"""``why``: the failures of a recorded run, and the story of an episode."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EngineOptions, EpisodeInfo, Outcome, OutcomeStatus, serve
from openenv_async.cli.why import episode_story
from openenv_async.errors import WorkerDied
from openenv_async.rollouts import Trajectory, Transition, collect_all, open_writer
from openenv_async.rollouts.run_folder import EpisodeKey, RunFolder
from openenv_async.types import Mistake, ModelCall, Task
from tests.cli.commands import ROOT, invoke, run
from tests.cli.failing_worlds import OneInTen
from tests.cli.terminals import on_terminal

EVIL = "\x1b]0;owned\x07[red]\u202e"


def talked(index: int = 4) -> Outcome:
    """An episode of a language model that made a mistake, went on, and whose container died."""
    error = WorkerDied(
        "the worker docker-3 died: killed for its use of memory",
        container_id="c0ffee", exit_code=137, oom=True, phase="step",
        log_tail=f"allocating {EVIL}\nKilled", traceback="Traceback:\n  in run",
    )  # fmt: skip
    outcome = Outcome(
        index,
        OutcomeStatus.INFRA_ERROR,
        EpisodeInfo(f"episode-{index}", 7),
        steps=1,
        duration=2.5,
        error=error,
        mistakes=1,
        task=Task("sum-1", {"question": f"2+2{EVIL}"}, {"answer": 4}),
        group=3,
        member=1,
        attempts=2,
        unreadable=1,
    )
    asked = {"role": "user", "content": [{"type": "text", "text": "2+2?"}, {"type": "image_url"}]}
    calls = [
        ModelCall(
            [{"role": "system", "content": "Be brief."}, asked],
            {
                "role": "assistant",
                "content": f"thinking {EVIL}",
                "tool_calls": [{"function": {"name": "answer", "arguments": '{"value": 4}'}}],
            },
            prompt_ids=list(range(120)),
            completion_ids=[1, 2, 3],
            finish_reason="tool_calls",
            model="tiny",
            weight_version=12,
            seconds=0.25,
        )
    ]
    trajectory = Trajectory(index)
    trajectory.begin(outcome.episode)
    mistake = Mistake("unreadable_reply", "no action in it: write JSON", "unreadable_reply", -0.5)
    trajectory.transitions = [
        Transition(0, {"q": "2+2"}, "well, four", mistake=mistake),
        Transition(
            0, {"q": "2+2"}, {"value": 4}, 0.5, info={"near": True}, model_calls=calls,
            timings={"policy": 0.25, "environment": 0.001},
        ),
    ]  # fmt: skip
    trajectory.final_observation = {"q": "3+3"}
    trajectory.finish(outcome)
    outcome.trajectory = trajectory
    return outcome


def ended(index: int, value: float, **changes: Any) -> Outcome:
    return Outcome(
        index, OutcomeStatus.COMPLETED, EpisodeInfo(f"e{index}", index), value, 2, **changes
    )


@pytest.fixture(params=["jsonl", "parquet"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / f"runs.{request.param}"
    with open_writer(path) as writer:
        for index in range(4):
            writer.write(ended(index, float(index)))
        writer.write(talked())
    return path


def test_the_story_of_an_episode(file: Path) -> None:
    done = invoke("why", str(file), "4")
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for part in (
        "episode 4: infra_error, no return, 1 steps, 1 mistakes, 2.50 s, attempt 2",
        "group 3, member 1",
        "task sum-1",
        "mistake before step 1",
        "said well, four",
        "unreadable reply no action in it: write JSON",
        "penalty -0.5",
        "step 1 (policy 0.250 s, environment 0.001 s)",
        "system: Be brief.",
        "user: 2+2? [image_url]",
        "tiny, 120 tokens of prompt, 3 tokens sampled, 0.25 s, finish tool_calls, weights 12",
        '→ answer({"value": 4})',
        'action {"value":4}',
        "reward 0.5",
        "ended by worker_died",
        "container c0ffee",
        "exit code 137",
        "it was killed for its use of memory",
        "traceback Traceback: in run",
        "Killed",
    ):
        assert part in text, part
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output
    assert "\\x1b]0;owned\\x07[red]\\u202e" in done.output
    assert "answer': 4" not in text  # a private column is nowhere


def test_how_an_agent_ended_that_played_by_itself() -> None:
    facts = {"ended": "spent", "calls": 2, "tokens": 90, "session": "ab12", "output": f"oh {EVIL}"}
    episode = Trajectory(0, extra={"agent": facts})
    episode.finish(Outcome(0, OutcomeStatus.TRUNCATED, EpisodeInfo("e-0", 7)))
    told = [" ".join(line.split()) for line in episode_story(episode)]
    assert "agent its budget was spent, 2 calls, 90 tokens, session ab12 of the gateway" in told
    [wrote] = [line for line in told if line.startswith("it wrote oh")]
    assert "\x1b" not in wrote


@pytest.mark.parametrize("name", ["episode-4", "sum-1", "sum-1/1"])
def test_an_episode_is_found_by_any_of_its_names(file: Path, name: str) -> None:
    assert invoke("why", str(file), name).output.startswith("episode 4: infra_error")


def test_an_unknown_episode_is_told_which_there_are(file: Path) -> None:
    done = invoke("why", str(file), "9")
    assert done.exit_code == 2
    said = "has 5 episodes, numbered 0 to 4: 0, 1, 2, 3, 4 (sum-1/1)"
    assert f"there is no episode '9': {file.name} {said}" in done.output
    assert invoke("why", str(file), "sum-1/0").exit_code == 2


def test_a_task_of_several_episodes_names_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_writer(path) as writer:
        for member in range(3):
            writer.write(ended(member, 1.0, task=Task("t"), group=0, member=member))
    done = invoke("why", str(path), "t")
    assert done.exit_code == 2
    assert "3 episodes are of the task 't'" in done.output
    assert "0 (t/0), 1 (t/1), 2 (t/2)" in done.output
    assert invoke("why", str(path), "t/2").output.startswith("episode 2:")


def test_all_episodes_by_reason_and_the_worst(file: Path) -> None:
    done = invoke("why", str(file))
    assert done.exit_code == 0, done.output
    for part in ("infra_error", "worker_died: the worker docker-3 died", "sum-1", "least returns"):
        assert part in done.output
    assert f"openenv-async why {file} 4" in done.output
    report = json.loads(invoke("why", str(file), "--json").output)
    assert [line["episode"] for line in report["worst"]] == [0, 1, 2, 3]
    [failure] = report["failures"]
    assert (failure["count"], failure["first_episode"], failure["task_id"]) == (1, 4, "sum-1")
    assert report["mistakes"] == {
        "refused_action": 0, "unreadable_reply": 1, "per_episode": 0.2,
    }  # fmt: skip
    assert report["return_mean"] == 1.5


def test_the_record_as_json(file: Path) -> None:
    record = json.loads(invoke("why", str(file), "4", "--json").output)
    assert record["error_detail"]["container_id"] == "c0ffee"
    assert record["transitions"][1]["model_calls"][0]["completion_ids"] == [1, 2, 3]


def test_a_long_episode_is_told_in_part(tmp_path: Path) -> None:
    path, long = tmp_path / "a.jsonl", ended(0, 1.0)
    steps = [Transition(t, "o" * 5_000 if t == 0 else t, t, 0.0) for t in range(100)]
    long.trajectory = Trajectory(0, transitions=steps)
    long.trajectory.finish(long)
    with open_writer(path) as writer:
        writer.write(long)
    short = invoke("why", str(path), "0").output
    assert "… 87 decisions are left out: --full has them" in short
    assert "step 3\n" in short
    assert "step 4\n" not in short
    assert "step 91\n" in short
    assert "3,000 more characters" in short
    whole = invoke("why", str(path), "0", "--full").output
    assert "o" * 5_000 in whole
    assert sum(line.startswith("step ") for line in whole.splitlines()) == 100


def test_what_cannot_be_read(tmp_path: Path) -> None:
    missing = invoke("why", str(tmp_path / "no.jsonl"))
    assert missing.exit_code == 2
    assert "there is no" in missing.output
    odd = tmp_path / "a.csv"
    odd.write_text("a,b\n")
    assert invoke("why", str(odd)).exit_code == 1
    other = tmp_path / "b.jsonl"
    other.write_text('{"text": "not an episode"}\n')
    assert invoke("why", str(other)).exit_code == 1
    empty = tmp_path / "c.jsonl"
    empty.write_text("")
    assert "has no episodes" in invoke("why", str(empty)).output
    assert invoke("why", str(empty), "0").exit_code == 2
    folder = invoke("why", str(tmp_path))
    assert folder.exit_code == 1
    assert "there is no run" in folder.output


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_whose_writer_was_killed_is_told_as_far_as_it_goes(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    code = (
        "import os, signal, sys\n"
        "from tests.cli.test_why import talked, open_writer\n"
        f"writer = open_writer({str(path)!r})\n"
        "for index in range(3): writer.write(talked(index))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert invoke("why", str(path), "2").output.startswith("episode 2: infra_error")
    if suffix == "parquet":
        beside = path.with_name(path.name + ".parts")
        assert invoke("why", str(beside), "1").output.startswith("episode 1: infra_error")


def test_a_run_s_folder(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        for index in range(2):
            outcome = ended(index, 1.0, task=Task(f"t{index}"), group=index, member=0)
            folder.submit(EpisodeKey(f"t{index}"), outcome)
    assert json.loads(invoke("why", str(tmp_path / "run"), "--json").output)["episodes"] == 2
    assert invoke("why", str(tmp_path / "run"), "t1").output.startswith("episode 1: completed")


async def test_what_a_step_that_raised_was_given_is_in_the_record(tmp_path: Path) -> None:
    """And the server's traceback, where it sends one."""
    path = tmp_path / "a.jsonl"
    async with serve(OneInTen, options=EngineOptions(debug=True)) as url:
        outcomes = await collect_all(url, lambda seen: {"move": 5}, episodes=4, seeds=0)
    with open_writer(path) as writer:
        for outcome in outcomes:
            writer.write(outcome)
    done = await asyncio.to_thread(invoke, "why", str(path), "3")
    text = " ".join(done.output.split())
    assert 'last action {"move":5}' in text
    assert "raise RuntimeError" in text
    assert "environment_raised" in text
    assert not outcomes[0].trajectory.error_detail if outcomes[0].trajectory else False


def test_a_terminal_gets_pages_and_a_pipe_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_writer(path) as writer:
        writer.write(talked())
    assert "PAGED" not in run("why", str(path), "4").stdout
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho PAGED; cat\n")
    pager.chmod(0o755)
    for arguments, paged in ((("4",), True), (("4", "--no-pager"), False)):
        shown = on_terminal("why", str(path), *arguments, PAGER=str(pager), LINES="10")
        assert ("PAGED" in shown) is paged
        assert "ended by worker_died" in shown


def test_the_log_of_a_worker_is_told_without_the_records_of_other_sessions() -> None:
    records = [
        f"2026-01-02 03:04:05,678 ERROR environment: step() raised session_id={session}\n"
        f"Traceback of {session}\n"
        for session in ("aa", "bb", "aa", "cc")
    ]
    log = "printed by somebody\n" + "".join(records)
    outcome = talked()
    outcome.error = WorkerDied("it died", session_id="aa", log_tail=log)
    record = Trajectory(0)
    record.begin(outcome.episode)
    record.finish(outcome)
    story = "\n".join(episode_story(record))
    assert story.count("Traceback of aa") == 2
    assert "printed by somebody" in story
    assert "Traceback of bb" not in story
    assert "(2 records of other sessions: --full has them)" in story
    assert "Traceback of bb" in "\n".join(episode_story(record, full=True))


def test_the_keys_of_a_later_release_do_no_harm(tmp_path: Path) -> None:
    call = {"messages": [{"role": "user", "content": "begin"}], "price": 3}
    path = changed(tmp_path, error_code="x", error_detail={"model_calls": [call], "later": 1})
    story = invoke("why", str(path), "0")
    assert story.exit_code == 0
    assert "begin" in story.output


@pytest.mark.parametrize(
    "values",
    [
        {"duration": "long"},
        {"episode_return": "much"},
        {"policy_versions": [[1]]},
        {"error_code": "x", "error_detail": {"model_calls": [{}, 5]}},
        {"transitions": [{"t": 0, "observation": 1, "action": 1, "timings": {"model": "x"}}]},
        {"transitions": [{"t": 0, "observation": 1, "action": 1, "reward": "x"}]},
    ],
)
def test_a_value_of_another_kind_is_told(tmp_path: Path, values: dict[str, Any]) -> None:
    path = changed(tmp_path, **values)
    story = invoke("why", str(path), "0")
    assert (story.exit_code, type(story.exception)) == (1, SystemExit)
    assert f"episode 0 of {path} has a value of another kind" in " ".join(story.output.split())
    assert invoke("why", str(path), "0", "--json").exit_code == 0


def test_a_value_of_another_kind_is_told_with_all_episodes(tmp_path: Path) -> None:
    path = changed(tmp_path, steps=None)
    told = invoke("why", str(path))
    assert (told.exit_code, type(told.exception)) == (1, SystemExit)
    assert f"episode 0 of {path} has a value of another kind" in " ".join(told.output.split())


def changed(folder: Path, **values: Any) -> Path:
    """A file with one episode, of whose keys some are others."""
    path = folder / "a.jsonl"
    episode = {"index": 0, "status": "completed", "transitions": [], **values}
    path.write_text(json.dumps(episode) + "\n")
    return path
