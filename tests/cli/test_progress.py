"""The progress of a run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest

from openenv_async import Outcome, OutcomeStatus
from openenv_async.cli.progress import logs_above, progress_bar, report_progress, say_above
from openenv_async.rollouts import Summary
from openenv_async.rollouts.progress import LINE_INTERVAL, Pace, progress_facts, progress_line
from openenv_async.testing import ManualClock
from tests.cli.commands import run
from tests.cli.terminals import on_terminal

COUNTING = "tests.rollouts.environments:Counting"


def test_the_pace_is_that_of_the_last_minute() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    assert (pace.rate, pace.left(10)) == (None, None)
    clock.advance(100.0)
    pace.note(100)
    assert pace.rate == 1.0
    for second in range(1, 91):
        clock.advance(1.0)
        pace.note(100 + 4 * second)
    assert pace.rate == pytest.approx(4.0)
    assert pace.left(400) == pytest.approx(100.0)


def filled() -> Summary:
    summary = Summary(8_000)
    for index in range(1_000):
        summary.add(Outcome(index, OutcomeStatus.COMPLETED, episode_return=0.5, steps=9))
    summary.add(Outcome(1_000, OutcomeStatus.ENV_ERROR, steps=1_000, mistakes=12))
    summary.running = 64
    return summary


def test_a_line_says_where_a_run_is() -> None:
    clock, summary = ManualClock(), filled()
    pace = Pace(clock)
    clock.advance(10.0)
    pace.note(summary.episodes)
    assert progress_line("echo", summary, pace) == (
        "echo: 1,001 of 8,000 episodes, 100 episodes/s, 1 min 10 s left, 64 running,"
        " mean return 0.5, 1 failed, 12 mistakes, 10.0% wasted"
    )
    empty = Summary()
    assert progress_line("echo", empty, Pace(clock)) == "echo: 0 episodes"
    assert progress_facts(empty, Pace(clock)) == ("", "")


def test_hours_are_told_as_hours() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    clock.advance(1.0)
    pace.note(1)
    summary = Summary(7_201)
    summary.add(Outcome(0, OutcomeStatus.COMPLETED))
    assert "2 h 0 min left" in progress_facts(summary, pace)[0]


async def test_without_a_terminal_there_is_a_line_every_half_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock, summary, due = ManualClock(), filled(), asyncio.Semaphore(0)
    asleep: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        asleep.put_nowait(seconds)
        await due.acquire()
        clock.advance(seconds)

    async with report_progress(summary, "a\x1b[2J", progress_bar(), sleep=sleep, clock=clock):
        for _ in range(3):
            assert await asleep.get() == LINE_INTERVAL
            due.release()
        assert await asleep.get() == LINE_INTERVAL
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("a\\x1b[2J: 1,001 of 8,000 episodes, 33.4 episodes/s")


async def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(quiet=True)
    before = len(asyncio.all_tasks())
    async with report_progress(filled(), "echo", bar, quiet=True):
        assert len(asyncio.all_tasks()) == before
    with logs_above(bar, quiet=True):
        logging.getLogger("openenv_async.rollouts").warning("odd")
    assert capsys.readouterr().err == ""


def test_warnings_are_printed_and_what_they_quote_is_plain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("openenv_async.rollouts")
    with logs_above(progress_bar()):
        log.warning("odd %s", "[red]\x1b[2J")
        log.info("unimportant")
    log.warning("later")
    say_above(progress_bar(), "line\x07")
    assert capsys.readouterr().err == "warning: odd [red]\\x1b[2J\nline\\x07\n"


def test_a_terminal_has_a_bar_with_all_of_it() -> None:
    shown = on_terminal(
        "rollout", COUNTING, "--episodes", "300", "--seed", "0", "--concurrency", "8", COLUMNS="200"
    )
    assert "300/300" in shown
    assert "episodes/s" in shown
    quiet = on_terminal("rollout", COUNTING, "--episodes", "30", "--quiet", COLUMNS="200")
    assert "30/30" not in quiet
    assert "steps/s" in quiet  # the summary


def test_a_warning_is_shown_when_it_comes_up_and_with_the_summary() -> None:
    arguments = ("rollout", COUNTING, "--policy", "tests.cli.slow_policy:policy", "--episodes", "1",
                 "--param", "goal=3")  # fmt: skip
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "the event loop was blocked for 1." in said
    assert "by policy (" in said
    assert "slow_policy.py:" in said
    assert "warning: the event loop was blocked" in done.stdout
    quiet = run(*arguments, "--quiet", "--json")
    assert quiet.stderr == ""
    kinds = [warning["kind"] for warning in json.loads(quiet.stdout)["warnings"]]
    assert "loop_blocked" in kinds
    shown = on_terminal(*arguments, COLUMNS="200")
    assert "warning: the event loop was blocked" in shown.partition("episodes/s")[0]


def test_progress_costs_an_episode_nothing() -> None:
    """A summary that is looked at four times a second is filled as fast as any."""

    async def filling(looked_at: bool) -> float:
        summary = Summary(20_000)
        outcome = Outcome(0, OutcomeStatus.COMPLETED, episode_return=1.0, steps=1)

        async def fill() -> float:
            begun = time.process_time()
            for number in range(20_000):
                summary.add(outcome)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            return time.process_time() - begun

        if not looked_at:
            return await fill()
        async with report_progress(summary, "x", progress_bar()):
            return await fill()

    pairs = [(asyncio.run(filling(True)), asyncio.run(filling(False))) for _ in range(5)]
    assert min(watched / bare for watched, bare in pairs) < 1.2
