"""One session's page: a context of its own, its episode and what can be read off it."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from playwright.async_api import Browser, BrowserContext, CDPSession, Error, Page

from browsergym_env import axtree
from browsergym_env.tasks import pages_folder
from openenv_async.errors import EnvironmentDied

__all__ = ["Observe", "Reading", "Score", "TaskPage"]

Observe = Literal["text", "axtree", "html", "screenshot", "centers"]

SHOWN_AS: Final = "http://miniwob/"


@dataclass(frozen=True)
class Score:
    """MiniWoB's account of the episode.

    Attributes:
        begun: whether the page still is the one on which the episode began.
        done: whether it ended.
        raw: its reward, -1 to 1.
        reward: the same, less the share of the time limit that was used.
        reason: why it ended, where the task says so.
    """

    begun: bool
    done: bool
    reward: float
    raw: float
    reason: str | None


@dataclass(frozen=True)
class Reading:
    """The contents of the page at one moment."""

    score: Score
    goal: str
    text: str
    html: str
    axtree: str
    focused: str | None
    elapsed: float
    screenshot: bytes | None


class TaskPage:
    """A page in a browser context of its own.

    Raises, wherever the page or its browser is gone:
        EnvironmentDied: reset the session to get another.
    """

    def __init__(self, context: BrowserContext, page: Page, cdp: CDPSession) -> None:
        self._context = context
        self._cdp = cdp
        self._crashed = False
        self.page = page
        page.on("crash", lambda _: self._on_crash())
        # Dialogs for files are intercepted from the start: one that a click opens is ignored, and
        # none is missed while the browser still is being asked to tell of it.
        page.on("filechooser", lambda _: None)

    @classmethod
    async def open(cls, browser: Browser, width: int, height: int, timeout: float) -> TaskPage:
        """A new context with one page; what was opened is closed when this fails."""
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            offline=True,
            locale="en-US",
            timezone_id="UTC",
            accept_downloads=False,
            service_workers="block",
        )
        try:
            context.set_default_timeout(timeout)
            for script in _scripts():
                await context.add_init_script(script)
            page = await context.new_page()
            context.on("page", lambda other: asyncio.ensure_future(_close_quietly(other)))
            cdp = await context.new_cdp_session(page)
            return cls(context, page, cdp)
        except BaseException:
            await _close_quietly(context)
            raise

    @property
    def alive(self) -> bool:
        """True if the page can still be used."""
        return not (self._crashed or self.page.is_closed())

    @property
    def url(self) -> str:
        """The page's address, the folder of the pages left out."""
        return self.page.url.replace(pages_folder().as_uri() + "/", SHOWN_AS, 1)

    async def begin(self, task: str, seed: int, limit: float | None, mode: str) -> None:
        """Load the task's page anew and begin the episode.

        Args:
            task: a task's own name.
            seed: of all its random choices.
            limit: milliseconds of the page's time; the task's own if ``None``.
            mode: which of the task's data are drawn from, ``train`` or ``test``.
        """
        address = (pages_folder() / "miniwob" / f"{task}.html").as_uri()
        try:
            await self.page.goto(address, wait_until="load")
            settings = {"seed": seed, "limit": limit, "mode": mode}
            await self.page.evaluate("settings => __openenv.begin(settings)", settings)
        except Error as exc:
            raise self.died(exc) from exc

    async def advance(self, milliseconds: float) -> Score:
        """Let the page's time go on.

        A document that goes away meanwhile (an action followed a link or sent a form) is waited
        for: its score says that it is not the one on which the episode began.
        """
        try:
            await self.page.evaluate("ms => globalThis.__openenv.advance(ms)", milliseconds)
            score = await self.score()
        except Error as exc:
            if not self.alive:
                raise self.died(exc) from exc
            score = None
        if score is None or not score.begun:
            try:
                await self.page.wait_for_load_state("load")
                score = await self.score()
            except Error as exc:
                raise self.died(exc) from exc
        return score

    async def score(self) -> Score:
        """Return MiniWoB's account of the episode."""
        return Score(**await self.page.evaluate("__openenv.score()"))

    async def read(
        self, observe: frozenset[Observe], image: Literal["png", "jpeg"] = "png"
    ) -> Reading:
        """The observations asked for, all of the same moment: the page's time stands still.

        Of a document that goes away meanwhile, those of the one that takes its place.
        """
        try:
            return await self._read(observe, image)
        except Error as exc:
            if not self.alive:
                raise self.died(exc) from exc
        try:
            await self.page.wait_for_load_state("load")
            return await self._read(observe, image)
        except Error as exc:
            raise self.died(exc) from exc

    async def _read(self, observe: frozenset[Observe], image: Literal["png", "jpeg"]) -> Reading:
        centres = "centers" in observe
        wanted = {"text": "text" in observe, "html": "html" in observe, "centres": centres}
        read = await self.page.evaluate("wanted => __openenv.read(wanted)", wanted)
        tree = await self._axtree(read["places"]) if "axtree" in observe else ""
        shot = await self._screenshot(image) if "screenshot" in observe else None
        score = Score(*(read[key] for key in ("begun", "done", "reward", "raw", "reason")))
        return Reading(
            score, read["goal"], read["text"], read["html"], tree, read["focused"],
            read["elapsed"], shot,
        )  # fmt: skip

    async def close(self) -> None:
        """Close the context with all that is in it."""
        await _close_quietly(self._context)

    def died(self, exc: Error) -> EnvironmentDied:
        """The error for a page that is gone."""
        browser = self._context.browser
        gone = "browser" if browser is None or not browser.is_connected() else "page"
        first = " ".join(exc.message.split("\n")[0].split())[:200]
        return EnvironmentDied(f"the {gone} of this session is gone ({first}): call reset()")

    async def _axtree(self, places: dict[str, tuple[int, int]]) -> str:
        tree, snapshot = await asyncio.gather(
            self._cdp.send("Accessibility.getFullAXTree"),
            self._cdp.send("DOMSnapshot.captureSnapshot", {"computedStyles": []}),
        )
        return axtree.render(tree["nodes"], axtree.bids_by_node(snapshot), places)

    async def _screenshot(self, image: Literal["png", "jpeg"]) -> bytes:
        return await self.page.screenshot(type=image, animations="disabled", caret="hide")

    def _on_crash(self) -> None:
        self._crashed = True


async def _close_quietly(closable: Page | BrowserContext) -> None:
    try:
        await closable.close()
    except Error:
        return  # gone already, with its browser


@functools.cache
def _scripts() -> tuple[str, ...]:
    folder = Path(__file__).parent / "web"
    return tuple((folder / name).read_text("utf-8") for name in ("clock.js", "page.js"))
