"""The page in a browser: how it looks, what it shows, finds and follows, and hostile files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from openenv_async.rollouts import open_writer
from openenv_async.viewer import ViewerServer, open_source, write_html
from tests.browser import LOOKS, browser, opened, pictured, serious_faults
from tests.viewer.samples import MARKUP, marked_episode, quick_episode, write_sample

pytestmark = pytest.mark.browser


@contextmanager
def served(*paths: Path) -> Iterator[str]:
    """Have sources served by a thread, at the URL that is yielded."""
    ready, over = threading.Event(), threading.Event()
    url: list[str] = []

    async def serve() -> None:
        async with ViewerServer([open_source(path) for path in paths]) as server:
            url.append(server.url)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield url[0]
    finally:
        over.set()
        thread.join(20)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("runs")
    friday = write_sample(folder / "friday.jsonl", 48)
    saturday = write_sample(folder / "saturday.jsonl", 48, better=0.8)
    with served(friday, saturday) as url:
        yield url


def ready(page: Any) -> Any:
    page.wait_for_selector("html[data-ready]", state="attached")
    page.wait_for_selector("#state:not(.busy)", state="attached")
    return page


def counted(page: Any, text: str) -> None:
    """Wait until so many episodes are left; a function to wait for would need ``eval``."""
    page.locator(".counted").get_by_text(text, exact=True).wait_for()


@pytest.mark.parametrize("look", LOOKS)
def test_the_views_fit_and_have_no_serious_fault(chromium: Any, two_runs: str, look: str) -> None:
    with opened(chromium, two_runs, look) as page:
        ready(page)
        for view, shown in (
            ("overview", ".chart canvas"),
            ("episodes/0/3", ".conversation .bubble"),
            ("groups", ".strip circle"),
            ("compare", ".chart canvas"),
        ):
            page.evaluate("view => { location.hash = view; }", view)
            page.wait_for_selector(shown)
            pictured(page, f"viewer-{look}-{view.replace('/', '-')}")
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{view} is wider than the window by {wide}"
            if look == "wide" or (look == "wide-dark" and view in ("overview", "episodes/0/3")):
                assert serious_faults(page) == [], view


def test_an_episode_has_its_conversation_frames_tokens_and_agents(
    chromium: Any, two_runs: str
) -> None:
    with opened(chromium, f"{two_runs}#episodes/0/3") as page:
        ready(page)
        assert "The header is missing." in page.inner_text(".conversation")
        assert page.locator(".tool b").first.inner_text() == "shell"
        assert (
            page.locator(".detail .bar").get_attribute("aria-label").startswith("time: queue 200")
        )
        page.click(".tabs >> text=Tokens")
        assert page.locator(".tokens .token").count() == 6 * 24
        page.click(".tabs >> text=Agents")
        assert page.locator(".tree .tree .tree summary").inner_text().startswith("subagent 1")
        page.evaluate("location.hash = 'episodes/0/5'")
        page.wait_for_selector(".player")
        before = page.evaluate("document.querySelector('.stage canvas').toDataURL()")
        page.locator(".player input").fill("20")
        assert page.inner_text(".player output") == "step 20 of 23"
        assert page.evaluate("document.querySelector('.stage canvas').toDataURL()") != before


def test_filters_search_and_keys(chromium: Any, two_runs: str) -> None:
    with opened(chromium, f"{two_runs}#episodes") as page:
        ready(page)
        assert page.inner_text(".counted") == "96 of 96"
        page.select_option("#filter-source", "1")
        counted(page, "48 of 96")
        page.fill("#filter-leastLength", "20")
        counted(page, "1 of 96")
        page.click("text=Reset")
        page.fill("#filter-text", "header is missing")  # in a model's reply alone
        counted(page, "2 of 96")
        page.locator(".list").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_selector(".detail h2")
        assert page.evaluate("location.hash") == "#episodes/1/3"
        page.keyboard.press("ArrowUp")
        page.wait_for_url("**/#episodes/0/3")
        page.keyboard.press("Escape")
        page.wait_for_url("**/#episodes")


def test_two_runs_are_compared_by_task(chromium: Any, two_runs: str) -> None:
    with opened(chromium, f"{two_runs}#compare") as page:
        ready(page)
        better = page.locator(".legend").first.inner_text()
        assert "saturday.jsonl better" in better
        first = page.locator("table.plain").nth(1).locator("tbody tr").first.inner_text()
        assert "+0." in first


def test_a_file_that_grows_is_followed(chromium: Any, tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.jsonl", 2)
    with served(path) as url, opened(chromium, url) as page:
        ready(page)
        with open_writer(path, append=True) as writer:
            writer.write(quick_episode(77))
        counted(page, "3 of 3")


@pytest.mark.parametrize("form", ["served", "file"])
def test_markup_in_a_file_stays_text(chromium: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.jsonl"
    with open_writer(path, header={"run": MARKUP}) as writer:
        writer.write(marked_episode(0))
        writer.write(quick_episode(1))
    with served(path) as url:
        if form == "file":
            write_html([open_source(path)], tmp_path / "a.html")
            url = (tmp_path / "a.html").as_uri()
        with opened(chromium, f"{url}#overview") as page:
            ready(page)
            page.wait_for_selector("text=Failures by reason")
            for view in ("groups", "episodes/0/0"):
                page.evaluate("view => { location.hash = view; }", view)
                page.locator("main").get_by_text(MARKUP[:20]).first.wait_for()
            for tab in page.locator(".tabs button").all():
                tab.click()
            page.wait_for_selector(".content")
            assert page.evaluate("typeof globalThis.wasRun") == "undefined"
            assert page.locator("#main script, #main img[onerror]").count() == 0


def test_one_file_has_records_and_a_search(chromium: Any, tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    write_html([open_source(write_sample(tmp_path / "a.jsonl", 120))], out)
    with opened(chromium, f"{out.as_uri()}#episodes/0/3") as page:
        ready(page)
        page.wait_for_selector(".conversation .bubble")
        page.fill("#filter-text", "header is missing")
        counted(page, "1 of 120")
