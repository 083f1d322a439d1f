"""The page in a browser: playing by hand, live sessions, plots, text that stays text, axe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from openenv_async import Environment, GenericEnvClient, StepResult, create_app
from openenv_async.environment import Isolation
from openenv_async.server.several import create_app_of_several
from openenv_async.spec import EnvironmentSpec
from tests.browser import browser, opened, pictured, serious_faults
from tests.integrations.serving import served

MARK = '<b id="mark">bold</b>'


@dataclass
class Move:
    """A move.

    Attributes:
        to: where to.
    """

    to: Annotated[int, msgspec.Meta(ge=0, le=3, description="0: LEFT, 1: RIGHT, 2: UP, 3: DOWN")]


@dataclass
class View:
    """The board."""

    board: str
    screen: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((16, 24, 3), np.uint8))


class Board(Environment[Move, View, dict[str, Any]]):
    """A small board, whose texts are markup."""

    isolation: ClassVar[Isolation | None] = "inline"
    readme_content = MARK

    def reset(self, seed: int | None = None, size: int = 3) -> View:
        self.taken = 0
        return View(f"size {size}\n{MARK}")

    def step(self, action: Move) -> StepResult[View]:
        self.taken += 1
        screen = np.full((16, 24, 3), 40 * action.to, np.uint8)
        info = {"action_mask": [1, 1, 1, 0], "note": MARK}
        return StepResult(View(f"#..\n{MARK}", screen), 0.5, self.taken == 3, info=info)


@dataclass
class Said:
    text: str
    loud: bool = False


class Talk(Environment[Said, dict[str, Any], dict[str, Any]]):
    """An echo."""

    isolation: ClassVar[Isolation | None] = "inline"

    def reset(self, seed: int | None = None) -> dict[str, Any]:
        return {"heard": None}

    def step(self, action: Said) -> StepResult[dict[str, Any]]:
        if action.text == "fail":
            raise RuntimeError(MARK)
        return StepResult({"heard": action.text.upper() if action.loud else action.text})


@contextmanager
def played(made: Any, url: str, look: str = "wide") -> Iterator[Any]:
    """A page on which an episode was begun."""
    with opened(made, url, look) as page:
        page.click("#player button[type=submit]")
        page.wait_for_selector("#play-moves button")
        yield page


@pytest.fixture(scope="module")
def made() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    envs = {"board": EnvironmentSpec(Board), "talk": EnvironmentSpec(Talk)}
    with served(create_app_of_several(envs)) as found:
        yield found


def test_an_episode_is_played_by_buttons(made: Any, url: str) -> None:
    with played(made, f"{url}/board/") as page:
        assert page.locator("#play-moves button").all_inner_texts() == [
            *("0 LEFT", "1 RIGHT", "2 UP", "3 DOWN")
        ]
        page.click("text=2 UP")
        page.wait_for_selector("#play-moves button:disabled")  # by the mask: DOWN
        picture = page.locator("#play-view img.picture")
        assert picture.get_attribute("src").startswith("data:image/png")
        assert picture.evaluate("one => [one.naturalWidth, one.naturalHeight]") == [24, 16]
        assert "#..\n" in page.locator("#play-view pre").first.inner_text()
        for _ in range(2):
            page.click("text=0 LEFT")
        page.wait_for_selector("text=The episode is over")
        assert re.search(r"Return\s*1.5", page.locator("#play-status").inner_text())
        assert "terminated" in page.locator("#play-status").inner_text()
        assert page.locator("#player table tbody tr").count() == 3
        assert MARK in page.locator("#play-view").inner_text()
        assert page.locator("#mark").count() == 0
        page.click("#player >> text=Close session")
        page.wait_for_selector("text=The session is closed")


def test_an_episode_is_played_by_a_form_and_by_json(made: Any, url: str) -> None:
    with opened(made, f"{url}/talk/") as page:
        page.fill("#play-seed", "7")
        page.click("#player button[type=submit]")
        page.fill("#play-moves textarea >> nth=0", MARK)
        page.select_option("#play-moves select", label="true")
        page.click("#play-moves >> text=Step")
        page.wait_for_selector(f"#play-view >> text={MARK.upper()}")
        page.click("#play-moves >> text=As JSON")
        page.fill("[aria-label='Action as JSON']", "{")
        page.click("#play-moves >> text=Step")
        page.wait_for_selector("#play-error >> text=not an action")
        page.fill("[aria-label='Action as JSON']", '{"text": "json"}')
        page.click("#play-moves >> text=Step")
        page.wait_for_selector("#play-view >> text=json")
        assert page.locator("#mark").count() == 0


def test_a_session_is_listed_followed_and_closed(made: Any, url: str) -> None:
    with GenericEnvClient(f"{url}/board").sync() as env, opened(made, f"{url}/board/") as page:
        env.reset(seed=5)
        page.wait_for_selector("#live tbody tr >> text=playing")
        page.click("#live >> text=Follow")
        page.wait_for_selector("#follow tbody tr")
        for _ in range(2):
            env.step({"to": 1})
        page.wait_for_selector("#follow tbody tr >> nth=2")
        first = page.locator("#follow tbody tr").first.inner_text()
        assert '"to":1' in first.replace(" ", "")
        assert "0.5" in first
        assert page.locator("#follow img.picture").count() == 1
        assert page.locator("#mark").count() == 0
        page.click("#live >> text=Close")
        page.click("#live >> text=Really close")
        page.wait_for_selector("#follow >> text=ended, session_closed")


def test_plots_of_the_last_minutes(made: Any, url: str) -> None:
    with opened(made, f"{url}/board/") as page:
        page.wait_for_selector("#plots svg")
        labels = page.locator("#plots svg").evaluate_all(
            "all => all.map(one => one.getAttribute('aria-label'))"
        )
        assert any(label.startswith("Steps per second: now ") for label in labels)
        assert len(labels) >= 6


def test_the_token_by_the_form(made: Any) -> None:
    with served(create_app(Talk, token="tok")) as url:
        context = made.new_context()
        try:
            page = context.new_page()
            page.goto(url)
            assert page.locator("#player").count() == 0
            page.fill("#token", "no")
            page.click("button")
            page.wait_for_selector("[role=alert]")
            page.fill("#token", "tok")
            page.click("button")
            page.wait_for_selector("#player button")
            (cookie,) = context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            page.click("#player button[type=submit]")  # a change, with the cookie
            page.wait_for_selector("#play-moves button")
            page.click("text=Log out")
            page.wait_for_selector("#token")
            assert all("token" not in each["name"] for each in context.cookies())
        finally:
            context.close()


def test_without_javascript_the_facts_are_there(made: Any, url: str) -> None:
    context = made.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(f"{url}/board/")
        text = page.locator("main").inner_text()
        for words in (
            "A small board",
            "Sessions at most",
            "0 to 3",
            "openenv-async play",
            "Refresh",
        ):
            assert words in text
    finally:
        context.close()


@pytest.mark.parametrize(
    "look",
    [
        *("wide", "narrow-dark"),
        *(pytest.param(look, marks=pytest.mark.heavy) for look in ("wide-dark", "narrow")),
    ],
)
def test_the_page_looks_right(made: Any, url: str, look: str) -> None:
    with opened(made, f"{url}/", look) as page:
        assert serious_faults(page) == []
        pictured(page, f"page-index-{look}")
    with played(made, f"{url}/board/", look) as page:
        page.click("text=2 UP")
        page.wait_for_selector("#plots svg")
        page.wait_for_selector("#live tbody tr")
        assert serious_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        pictured(page, f"page-{look}")
