"""One session's pages: a browser context of their own, and what can be read off them."""

from __future__ import annotations

import abc
import asyncio
import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from playwright.async_api import (
    Browser,
    BrowserContext,
    CDPSession,
    Error,
    Page,
    Route,
    StorageState,
)

from browsergym_env import axtree
from browsergym_env.actions import ActionError
from browsergym_env.sites import Sites
from browsergym_env.tasks import pages_folder
from openenv_async.errors import EnvironmentDied, EnvironmentStartFailed

__all__ = ["MAX_TABS", "MiniwobPage", "Observe", "Reading", "Score", "SitePage", "TaskPage"]

Observe = Literal["text", "axtree", "html", "screenshot", "centers", "marks"]
Image = Literal["png", "jpeg"]

SHOWN_AS: Final = "http://miniwob/"
MAX_TABS: Final = 8
"""Tabs of one session; pages that a page opens beyond them are closed."""


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
    """The contents of the active page at one moment, and the tabs beside it."""

    score: Score
    goal: str
    text: str
    html: str
    axtree: str
    focused: str | None
    screenshot: bytes | None
    urls: list[str]
    titles: list[str]
    active: int


class TaskPage(abc.ABC):
    """The pages of a session, in a browser context of its own; one of them is active.

    Raises, wherever the page or its browser is gone:
        EnvironmentDied: reset the session to get another.
    """

    def __init__(self, context: BrowserContext) -> None:
        self._context = context
        self._tabs: list[Page] = []
        self._crashed: set[Page] = set()
        self._cdp: dict[Page, CDPSession] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.elapsed = 0.0
        """Milliseconds that the page's time went on since the episode began."""

    @property
    @abc.abstractmethod
    def page(self) -> Page:
        """The active page."""

    @abc.abstractmethod
    async def advance(self, milliseconds: float) -> bool:
        """Let the page's time go on; return whether the page ended the episode.

        A document that goes away meanwhile (an action followed a link or sent a form) is waited
        for.
        """

    @abc.abstractmethod
    async def goto(self, url: str) -> None:
        """Go to an address.

        Raises:
            ActionError: the session may not go there.
        """

    @abc.abstractmethod
    async def go(self, by: Literal[-1, 1]) -> None:
        """Go back or forward.

        Raises:
            ActionError: there is no such page.
        """

    @abc.abstractmethod
    async def new_tab(self) -> None:
        """Open an empty tab, and have it be the active one.

        Raises:
            ActionError: there are too many.
        """

    @abc.abstractmethod
    async def close_tab(self) -> None:
        """Close the active tab."""

    @abc.abstractmethod
    async def focus_tab(self, index: int) -> None:
        """Have another tab be the active one.

        Raises:
            ActionError: there is none at this place.
        """

    @property
    def tabs(self) -> Sequence[Page]:
        """The tabs that the agent is told of."""
        return self._tabs

    @property
    def alive(self) -> bool:
        """True if the active page can still be used."""
        return not (self.page in self._crashed or self.page.is_closed())

    @property
    def url(self) -> str:
        """The active page's address, the folder of MiniWoB's pages left out."""
        return self.page.url.replace(pages_folder().as_uri() + "/", SHOWN_AS, 1)

    async def read(self, observe: frozenset[Observe], image: Image = "png") -> Reading:
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

    async def _read(self, observe: frozenset[Observe], image: Image) -> Reading:
        centres = "centers" in observe
        wanted = {"text": "text" in observe, "html": "html" in observe, "centres": centres}
        read = await self.page.evaluate("wanted => __openenv.read(wanted)", wanted)
        tree = await self._axtree(read["places"]) if "axtree" in observe else ""
        shot = None
        if {"screenshot", "marks"} & observe:
            shot = await self._screenshot(image, "marks" in observe)
        score = Score(*(read[key] for key in ("begun", "done", "reward", "raw", "reason")))
        titles = await asyncio.gather(*(tab.title() for tab in self.tabs))
        return Reading(
            score, read["goal"], read["text"], read["html"], tree, read["focused"], shot,
            [tab.url for tab in self.tabs], list(titles),
            self.tabs.index(self.page) if self.tabs else 0,
        )  # fmt: skip

    async def close(self) -> None:
        """Close the context with all that is in it."""
        await _close_quietly(self._context)
        if self._closing:
            await asyncio.wait(self._closing)

    def died(self, exc: Error) -> EnvironmentDied:
        """The error for a page that is gone."""
        browser = self._context.browser
        gone = "browser" if browser is None or not browser.is_connected() else "page"
        return EnvironmentDied(f"the {gone} of this session is gone ({_first(exc)}): call reset()")

    async def _axtree(self, places: dict[str, tuple[int, int]]) -> str:
        cdp = await self._session(self.page)
        tree, snapshot = await asyncio.gather(
            cdp.send("Accessibility.getFullAXTree"),
            cdp.send("DOMSnapshot.captureSnapshot", {"computedStyles": []}),
        )
        return axtree.render(tree["nodes"], axtree.bids_by_node(snapshot), places)

    async def _screenshot(self, image: Image, marked: bool) -> bytes:
        # Drawing on a picture that lost something already would lose more of it.
        taken = "png" if marked else image
        shot = await self.page.screenshot(type=taken, animations="disabled", caret="hide")
        if not marked:
            return shot
        drawn = await self.page.evaluate(
            "([shot, type]) => __openenv.paint(shot, type, __openenv.marks())",
            [base64.b64encode(shot).decode(), image],
        )
        return base64.b64decode(drawn)

    async def _session(self, page: Page) -> CDPSession:
        session = self._cdp.get(page)
        if session is None:
            self._cdp[page] = session = await self._context.new_cdp_session(page)
        return session

    def _add(self, page: Page) -> None:
        self._tabs.append(page)
        page.on("crash", self._on_crash)
        page.on("close", self._forget)
        # Dialogs for files are intercepted from the start: one that a click opens is ignored, and
        # none is missed while the browser still is being asked to tell of it.
        page.on("filechooser", lambda _: None)

    def _on_crash(self, page: Page) -> None:
        self._crashed.add(page)

    def _forget(self, page: Page) -> None:
        self._cdp.pop(page, None)
        if page in self._tabs and len(self._tabs) > 1:
            self._tabs.remove(page)

    def _refuse(self, page: Page) -> None:
        task = asyncio.get_running_loop().create_task(_close_quietly(page))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class MiniwobPage(TaskPage):
    """The one page of a MiniWoB task. Pages that it opens are closed; it is not left."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        super().__init__(context)
        self._page = page
        self._add(page)
        context.on("page", self._refuse)
        self.score = Score(False, False, 0.0, 0.0, None)
        """MiniWoB's account after the last ``advance``."""

    @classmethod
    async def open(cls, browser: Browser, width: int, height: int, timeout: float) -> Self:
        """A new context with one page; what was opened is closed when this fails."""
        context = await _new_context(browser, width, height, offline=True)
        try:
            context.set_default_timeout(timeout)
            await context.add_init_script(_script("clock.js") + _script("page.js"))
            return cls(context, await context.new_page())
        except BaseException:
            await _close_quietly(context)
            raise

    @property
    def page(self) -> Page:
        return self._page

    @property
    def tabs(self) -> Sequence[Page]:
        return ()

    async def begin(self, task: str, seed: int, limit: float | None, mode: str) -> None:
        """Load the task's page anew and begin the episode.

        Args:
            task: a task's own name.
            seed: of all its random choices.
            limit: milliseconds of the page's time; the task's own if ``None``.
            mode: which of the task's data are drawn from, ``train`` or ``test``.
        """
        address = (pages_folder() / "miniwob" / f"{task}.html").as_uri()
        self.elapsed = 0.0
        try:
            await self.page.goto(address, wait_until="load")
            settings = {"seed": seed, "limit": limit, "mode": mode}
            await self.page.evaluate("settings => __openenv.begin(settings)", settings)
        except Error as exc:
            raise self.died(exc) from exc

    async def advance(self, milliseconds: float) -> bool:
        self.elapsed += milliseconds
        try:
            await self.page.evaluate("ms => globalThis.__openenv.advance(ms)", milliseconds)
            score = await self._account()
        except Error as exc:
            if not self.alive:
                raise self.died(exc) from exc
            score = None
        if score is None or not score.begun:
            try:
                await self.page.wait_for_load_state("load")
                score = await self._account()
            except Error as exc:
                raise self.died(exc) from exc
        self.score = score
        return score.done

    async def goto(self, url: str) -> None:
        raise self._stays("goto")

    async def go(self, by: Literal[-1, 1]) -> None:
        raise self._stays("go_back" if by < 0 else "go_forward")

    async def new_tab(self) -> None:
        raise self._stays("new_tab")

    async def close_tab(self) -> None:
        raise self._stays("tab_close")

    async def focus_tab(self, index: int) -> None:
        raise self._stays("tab_focus")

    def _stays(self, action: str) -> ActionError:
        return ActionError(f"a task of MiniWoB has one page, which is not left: no {action}() here")

    async def _account(self) -> Score:
        return Score(**await self.page.evaluate("__openenv.score()"))


class SitePage(TaskPage):
    """The tabs of a task on own pages or sites. A page that another one opens is a tab too."""

    def __init__(self, context: BrowserContext, sites: Sites, timeout: float) -> None:
        super().__init__(context)
        self._sites = sites
        self._timeout = timeout
        self._active: Page | None = None
        self._looking = False
        self._asked = self._waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()
        context.on("page", self._on_page)

    @classmethod
    async def open(
        cls,
        browser: Browser,
        width: int,
        height: int,
        timeout: float,
        sites: Sites,
        state: StorageState | None,
        seed: int,
    ) -> Self:
        """A new context with an empty tab; what was opened is closed when this fails.

        Args:
            browser: of the sites' rules.
            width, height: CSS pixels.
            timeout: milliseconds of one operation.
            sites: all that can be reached.
            state: cookies and storage of a login.
            seed: of random numbers of own pages.

        Raises:
            EnvironmentStartFailed: the login's state is none.
        """
        try:
            context = await _new_context(browser, width, height, storage_state=state)
        except Error as exc:
            if state is None or not browser.is_connected():
                raise
            raise EnvironmentStartFailed(f"the login's state is refused: {_first(exc)}") from exc
        try:
            context.set_default_timeout(timeout)
            own = cls(context, sites, timeout)
            clock = _script("world.js")
            if not sites.real_time:
                clock = f"{_script('clock.js')}\n__openenv.seed({seed});\n"
            await context.add_init_script(clock + _script("page.js"))
            await context.route("**/*", own._answer)
            await own.new_tab()
            return own
        except BaseException:
            await _close_quietly(context)
            raise

    @property
    def page(self) -> Page:
        if self._active not in self._tabs:
            self._active = self._tabs[-1]
        assert self._active is not None
        return self._active

    async def begin(self, urls: Sequence[str]) -> None:
        """Open the start pages, each in a tab; the first is active.

        Raises:
            EnvironmentStartFailed: one does not answer.
        """
        for number, url in enumerate(urls):
            if number:
                await self.new_tab()
            try:
                response = await self.page.goto(url, wait_until="load")
                # An agent that goes back stays in its episode.
                await (await self._session(self.page)).send("Page.resetNavigationHistory")
            except Error as exc:
                raise EnvironmentStartFailed(
                    f"the start page {url} does not answer: {_first(exc)}", retryable=True
                ) from exc
            if response is not None and response.status >= 400:
                raise EnvironmentStartFailed(f"the start page {url} answers {response.status}")
        await self.focus_tab(0)
        await self._quiet()
        self.elapsed = 0.0

    async def advance(self, milliseconds: float) -> bool:
        self.elapsed += milliseconds
        await self._quiet()
        try:
            await self.page.evaluate("ms => globalThis.__openenv?.advance(ms)", milliseconds)
        except Error as exc:
            if not self.alive:
                raise self.died(exc) from exc
        await self._quiet()
        return False

    async def goto(self, url: str) -> None:
        await self.page.goto(self._sites.checked(url), wait_until="load")

    async def go(self, by: Literal[-1, 1]) -> None:
        history = await (await self._session(self.page)).send("Page.getNavigationHistory")
        if not 0 <= history["currentIndex"] + by < len(history["entries"]):
            where = "before" if by < 0 else "after"
            raise ActionError(f"there is no page {where} this one in the tab's history")
        await (self.page.go_back() if by < 0 else self.page.go_forward())

    async def new_tab(self) -> None:
        if len(self._tabs) >= MAX_TABS:
            raise ActionError(f"there are {MAX_TABS} tabs: close one first")
        await self._context.new_page()

    async def close_tab(self) -> None:
        closed = self.page
        if len(self._tabs) == 1:
            await self._context.new_page()
        await closed.close()
        await self.page.bring_to_front()

    async def focus_tab(self, index: int) -> None:
        if not 0 <= index < len(self._tabs):
            raise ActionError(f"there is no tab {index}: there are 0 to {len(self._tabs) - 1}")
        self._active = self._tabs[index]
        await self._active.bring_to_front()

    async def look(self, url: str) -> Page:
        """Open a page that is not one of the tabs; the caller closes it."""
        self._looking = True
        try:
            page = await self._context.new_page()
        finally:
            self._looking = False
        try:
            await page.goto(url, wait_until="load")
            await page.evaluate("__openenv.settle()")
        except Error:
            pass  # it is graded as it is
        except BaseException:
            await _close_quietly(page)
            raise
        return page

    async def _quiet(self) -> None:
        """Wait until the active page is loaded, and an own page asks for nothing.

        It takes one timeout at most. Pages of sites may ask for something all the time.
        """
        try:
            async with asyncio.timeout(self._timeout / 1000):
                asked = -1
                while asked != self._asked or self._waiting:
                    asked = self._asked
                    await self._idle.wait()
                    try:
                        await self.page.wait_for_load_state("load")
                        await self.page.evaluate("globalThis.__openenv?.settle()")
                    except Error as exc:  # another document takes its place
                        if not self.alive:
                            raise self.died(exc) from exc
                        asked = -1
                        continue
                    if self._sites.real_time:
                        return
        except TimeoutError:
            return  # it loads or asks for ever

    async def _answer(self, route: Route) -> None:
        self._asked += 1
        self._waiting += 1
        self._idle.clear()
        try:
            await self._sites.answer(route)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._idle.set()

    def _on_page(self, page: Page) -> None:
        if self._looking:
            return
        if len(self._tabs) >= MAX_TABS:
            self._refuse(page)
            return
        self._add(page)
        self._active = page


async def _new_context(
    browser: Browser,
    width: int,
    height: int,
    offline: bool = False,
    storage_state: StorageState | None = None,
) -> BrowserContext:
    return await browser.new_context(
        viewport={"width": width, "height": height},
        offline=offline,
        storage_state=storage_state,
        locale="en-US",
        timezone_id="UTC",
        accept_downloads=False,
        service_workers="block",
    )


async def _close_quietly(closable: Page | BrowserContext) -> None:
    try:
        await closable.close()
    except Error:
        return  # gone already, with its browser


def _first(exc: Error) -> str:
    return " ".join(exc.message.split("\n")[0].split())[:200]


@functools.cache
def _script(name: str) -> str:
    return (Path(__file__).parent / "web" / name).read_text("utf-8")
