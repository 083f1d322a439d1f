"""The viewer on many episodes: first paint, filters, opening one, and the size of one HTML file.

``python -m benchmarks.viewer [--episodes 100000] [--seed 0]`` writes files of made-up episodes of a
language model, opens the page in Chromium and prints one line of JSON. Seconds but for filters:

- ``index``: reading the file into the index, as the server does at its start.
- ``first_paint``: from the request of the page until its tiles and curves are drawn.
- ``filters_ms``: for each filter the time until the table and the count are there again.
- ``open_ms``: from a click on an episode until its conversation is there.
- ``html_bytes``: of one file with 1,000 of these episodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from openenv_async.rollouts import Trajectory, Transition, open_writer
from openenv_async.types import ModelCall, OutcomeStatus
from openenv_async.viewer import ViewerServer, open_source, write_html

_FILTERS: Final[dict[str, dict[str, str]]] = {
    "outcome": {"status": "truncated"},
    "task": {"task": "sum-77"},
    "reward": {"leastReturn": "0.5"},
    "length": {"leastLength": "3", "mostLength": "4"},
    "none": {},
}
_WORDS: Final = ["the", "sum", "of", "two", "numbers", "is", "found", "by", "adding", "them"]


def episode(number: int, rng: random.Random) -> Trajectory:
    """Return an episode of up to five steps, each with a call of a model and its tokens."""
    made: Trajectory = Trajectory(number, episode_id=f"{rng.getrandbits(64):016x}", seed=number)
    made.task_id, made.member, made.group = f"sum-{number // 8 % 2000}", number % 8, number // 8
    made.started_at = 1_790_000_000 + number / 10
    solved = rng.random() < min(0.9, 0.2 + number / 120_000)
    for step in range(1 + rng.randrange(5)):
        ids = [rng.randrange(50_000) for _ in range(rng.randrange(16, 64))]
        seconds = rng.uniform(0.2, 2.0)
        call = ModelCall(
            messages=[{"role": "user", "content": f"question {number}, part {step}"}],
            reply={"role": "assistant", "content": " ".join(rng.choices(_WORDS, k=30))},
            continues=step > 0,
            completion_ids=ids,
            logprobs=[round(-rng.expovariate(2), 4) for _ in ids],
            model="small-model",
            seconds=seconds,
        )
        timings = {"queue": 0.02, "policy": seconds, "model": seconds, "environment": 0.1}
        made.transitions.append(
            Transition(
                step, f"part {step}", {"number": step}, 0.0, model_calls=[call], timings=timings
            )
        )
    made.steps = len(made.transitions)
    made.duration = made.steps * 1.3
    made.ended_at = made.started_at + made.duration
    made.status = OutcomeStatus.COMPLETED if rng.random() < 0.9 else OutcomeStatus.TRUNCATED
    made.episode_return = float(solved)
    if rng.random() < 0.02:
        made.status, made.episode_return = OutcomeStatus.ENV_ERROR, None
        made.error_code, made.error_message = "ENVIRONMENT_FAILED", "step() raised KeyError"
    return made


def write(path: Path, count: int, seed: int) -> Path:
    """Write a file with so many episodes."""
    rng = random.Random(seed)
    with open_writer(path) as writer:
        for number in range(count):
            writer.write(episode(number, rng))
    return path


async def measured_page(path: Path) -> dict[str, Any]:
    """Measure the page in a browser."""
    from playwright.async_api import async_playwright

    began = time.perf_counter()
    source = open_source(path)
    source.refresh()
    found: dict[str, Any] = {"index": round(time.perf_counter() - began, 2)}
    async with ViewerServer([source]) as server, async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = await browser.new_page(viewport={"width": 1360, "height": 860})
        began = time.perf_counter()
        await page.goto(f"{server.url}#overview")
        await page.wait_for_selector(".chart canvas")
        await page.evaluate(_PAINTED)
        found["first_paint"] = round(time.perf_counter() - began, 3)
        await page.evaluate("location.hash = 'episodes'")
        await page.wait_for_selector(".list tbody tr")
        filters = {}
        for name, wanted in _FILTERS.items():
            filters[name] = round(await page.evaluate(_FILTERED, wanted), 1)
        for name in ("return", "duration", "task"):
            filters[f"sorted by {name}"] = round(await page.evaluate(_SORTED, name), 1)
        found["filters_ms"] = filters
        began = time.perf_counter()
        await page.click(".list tbody tr >> nth=3")
        await page.wait_for_selector(".conversation .bubble")
        found["open_ms"] = round(1000 * (time.perf_counter() - began), 1)
        await page.evaluate("location.hash = 'overview'")
        await page.wait_for_selector(".chart canvas")
        found["overview_filter_ms"] = round(await page.evaluate(_FILTERED, {"task": "sum-7"}), 1)
        began = time.perf_counter()
        found["search_hits"] = len((await asyncio.to_thread(source.search, "question 4242,")).rows)
        found["search"] = round(time.perf_counter() - began, 2)
        await browser.close()
    return found


_PAINTED: Final = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))"
_FILTERED: Final = """async (wanted) => {
  const began = performance.now();
  viewer.filter(wanted);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  return performance.now() - began;
}"""
_SORTED: Final = """async (name) => {
  const began = performance.now();
  viewer.table.sort(name);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  return performance.now() - began;
}"""


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openenv-viewer-") as name:
        folder = Path(name)
        path = write(folder / "many.jsonl", options.episodes, options.seed)
        found: dict[str, Any] = {"episodes": options.episodes, "bytes": path.stat().st_size}
        found |= asyncio.run(measured_page(path))
        some = open_source(write(folder / "some.jsonl", 1_000, options.seed))
        began = time.perf_counter()
        found["html_bytes"] = write_html([some], folder / "some.html").size
        found["html_seconds"] = round(time.perf_counter() - began, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
