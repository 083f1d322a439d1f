"""Helpers of ``openenv_async.testing``: the clock, and what environments' tests share."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from openenv_async import Environment, GenericEnvClient, serve
from openenv_async.testing import (
    BenchAsyncEnvironment,
    BenchEnvironment,
    ManualClock,
    assert_examples_run,
    check_environment,
    served_application,
    step_in_workers,
)

# -- the clock ----------------------------------------------------------------------------


def test_a_manual_clock_stands_still() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(2.5)
    assert clock() == 7.5


def test_timers_fire_in_order_at_their_time() -> None:
    clock, fired = ManualClock(0.0), []
    clock.call_at(2.0, lambda: fired.append(("b", clock())))
    clock.call_at(1.0, lambda: fired.append(("a", clock())))
    clock.call_at(2.0, lambda: fired.append(("c", clock())))
    assert clock.armed == 3
    clock.advance(0.5)
    assert fired == []
    clock.advance(1.5)
    assert fired == [("a", 1.0), ("b", 2.0), ("c", 2.0)]
    assert (clock(), clock.armed) == (2.0, 0)


def test_a_cancelled_timer_does_not_fire() -> None:
    clock, fired = ManualClock(0.0), []
    kept = clock.call_at(1.0, lambda: fired.append("kept"))
    clock.call_at(1.0, lambda: fired.append("cancelled")).cancel()
    assert clock.armed == 1
    clock.advance(1.0)
    assert fired == ["kept"]
    assert not kept.cancelled


def test_a_timer_set_by_a_timer_fires_in_the_same_move() -> None:
    clock, fired = ManualClock(0.0), []
    clock.call_at(1.0, lambda: clock.call_at(1.5, lambda: fired.append(clock())))
    clock.advance(2.0)
    assert fired == [1.5]
    assert clock() == 2.0


def test_a_timer_in_the_past_does_not_turn_the_clock_back() -> None:
    clock, fired = ManualClock(10.0), []
    clock.call_at(3.0, lambda: fired.append(clock()))
    clock.advance(1.0)
    assert fired == [10.0]
    assert clock() == 11.0


# -- what bench serves --------------------------------------------------------------------


def test_the_bench_environment_echoes() -> None:
    from openenv_async.testing import BenchAction

    env = BenchEnvironment(300)
    assert env.reset().message == "ready"
    seen = env.step(BenchAction("hello"))
    assert (seen.message, seen.reward) == ("hello", 1.0)
    assert seen.frame.shape == (300,)
    assert seen.frame[:3].tolist() == [0, 37, 74]
    assert BenchEnvironment().step(BenchAction("x")).frame is None


async def test_the_async_one_is_the_same() -> None:
    from openenv_async.testing import BenchAction

    env = BenchAsyncEnvironment(2, step_seconds=0.001)
    assert (await env.reset()).message == "ready"
    seen = await env.step(BenchAction("hello"))
    assert (seen.message, seen.reward, seen.frame.tolist()) == ("hello", 1.0, [0, 37])


# -- what environments' tests share -------------------------------------------------------


class Counter(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment that counts its steps and says where it runs."""

    def reset(self, seed: int = 0) -> dict[str, Any]:
        self.count = seed
        return {"count": self.count, "pid": os.getpid()}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.count += action["by"]
        return {"count": self.count, "pid": os.getpid()}


async def test_a_step_in_two_workers() -> None:
    seen = await step_in_workers(Counter, GenericEnvClient, {"by": 3})
    assert [each["count"] for each in seen] == [3] * 4
    pids = {each["pid"] for each in seen}
    assert len(pids) == 2
    assert os.getpid() not in pids


APPLICATION = """
import os
from openenv_async import create_app
from openenv_async.testing import BenchEnvironment

app = create_app(BenchEnvironment, params={"obs_bytes": int(os.environ.get("MINE_BYTES", "1"))})
"""


def test_an_application_says_what_its_variables_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(APPLICATION)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    expressions = ("spec.params['obs_bytes']", "spec.contract.isolation")
    assert served_application("mine", *expressions) == ["1", "inline"]
    assert served_application("mine", *expressions, MINE_BYTES="7") == ["7", "inline"]
    with pytest.raises(subprocess.CalledProcessError):
        served_application("mine", "spec.params['other']")


README = """
# Mine

```bash
exit 1
```

```python
from urllib.request import urlopen

print(urlopen("http://127.0.0.1:8000/health").status)  # 200
print(1 + 1)  # 2
```
"""


async def test_examples_of_a_page_run_and_print_what_they_say(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(README)
    async with serve(BenchEnvironment) as url:
        await assert_examples_run(page, url)
        page.write_text(README.replace("# 2", "# 3"))
        with pytest.raises(AssertionError, match="it printed"):
            await assert_examples_run(page, url)
        page.write_text(README.replace("1 + 1", "1 / 0"))
        with pytest.raises(AssertionError, match="this example failed"):
            await assert_examples_run(page, url)
        page.write_text("no example")
        with pytest.raises(AssertionError, match="has no Python example"):
            await assert_examples_run(page, url)


async def test_the_checker_finds_what_is_wrong() -> None:
    class Unseeded(Counter):
        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            raise RuntimeError("always")

    good = await check_environment(Counter, actions=[{"by": 1}], varying={"pid"})
    assert good
    assert [result for result in good if result.status == "failed"] == []
    bad = await check_environment(Unseeded, actions=[{"by": 1}])
    assert [result for result in bad if result.status == "failed"] != []
