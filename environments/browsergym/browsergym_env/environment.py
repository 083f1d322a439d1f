"""The environment: one page per session, in a Chromium that all sessions share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from playwright.async_api import Browser, Error

from browsergym_env.acting import ACTIONS, Actor, action_failed
from browsergym_env.actions import MAX_LENGTH, ActionError, Call, parse
from browsergym_env.chromium import SharedChromium, shared_chromium
from browsergym_env.folders import Folder, Uploads
from browsergym_env.models import BrowserGymAction, BrowserGymObservation, BrowserGymState
from browsergym_env.page import MiniwobPage, Observe, Reading, Score, SitePage, TaskPage
from browsergym_env.site_tasks import SITES, SiteTasks, grade, open_site_tasks
from browsergym_env.sites import NO_NETWORK, read_addresses
from browsergym_env.solved import is_solved
from browsergym_env.tasks import BENCHMARK, resolve
from openenv_async import Certification, Environment, StepResult, TaskTable
from openenv_async.environment import Isolation
from openenv_async.errors import EnvironmentDied, InvalidAction, InvalidOption
from openenv_async.models import json_schema

__all__ = ["BrowserGymEnvironment", "Reward"]

Reward = Literal["raw", "binary", "timed"]

_DEFAULT_OBSERVE: Final[tuple[Observe, ...]] = ("text", "axtree", "html")
_SAMPLES: Final = [
    "noop()",
    "scroll(0, 50)",
    "keyboard_press('Tab')",
    "keyboard_press('Enter')",
    "keyboard_type('a')",
    *(f"mouse_click({x}, {y})" for x in range(20, 160, 20) for y in range(60, 200, 20)),
]
"""Actions for random policies: nearly every other text has no call that can be read."""
_NO_LIMIT: Final = 1e12  # milliseconds; MiniWoB knows no episode without a limit


class BrowserGymEnvironment(
    Environment[BrowserGymAction, BrowserGymObservation, BrowserGymState],
):
    """MiniWoB++ tasks on real Chromium, offline; tasks on own pages and on allowed sites.

    Async, so that one server drives many pages. The variables ``BROWSERGYM_*`` give what the
    constructor is not given.

    Args:
        task_name: the task of resets that name none.
        benchmark: ``miniwob``, or ``sites``, which ``pages`` and ``sites`` choose by themselves.
        max_steps: steps after which an episode is truncated.
        step_time: seconds of the page's own time that every action takes.
        viewport_width, viewport_height: CSS pixels.
        uploads: the folder of the files that the agent may give to pages.
        pages: a folder of own pages, shown as ``http://pages/``.
        sites: addresses of the sites that sessions may reach, by name.
        tasks_path: the file of tasks on them; by default ``tasks.jsonl`` of ``pages``.
        logins: the folder of the states of logins that tasks name.
        reset_hook: ``module:function``, called with the row of the task before each episode; it
            may return the state of a login.
        reset_timeout: seconds that the hook may take.

    Raises:
        InvalidOption: there is no such task, benchmark or folder, or a variable makes no sense.
    """

    name = "browsergym"
    isolation: ClassVar[Isolation | None] = "inline"
    session_options: ClassVar[frozenset[str]] = frozenset({"task_name", "max_steps"})

    def __init__(
        self,
        task_name: str | None = None,
        benchmark: str | None = None,
        max_steps: int | None = None,
        step_time: float | None = None,
        viewport_width: int | None = None,
        viewport_height: int | None = None,
        uploads: str | None = None,
        pages: str | None = None,
        sites: dict[str, str] | str | None = None,
        tasks_path: str | None = None,
        logins: str | None = None,
        reset_hook: str | None = None,
        reset_timeout: float | None = None,
    ) -> None:
        self._web = _site_tasks(
            benchmark, pages, sites, tasks_path, logins, reset_hook, reset_timeout
        )
        self._task = self._resolve(_text("TASK_NAME", task_name))
        self._default_steps = int(_number("MAX_STEPS", max_steps, 20))
        self._step_time = 1000 * _number("STEP_TIME", step_time, 0.5)
        wide, high = (332, 214) if self._web is None else (1280, 720)
        self._width = int(_number("VIEWPORT_WIDTH", viewport_width, wide))
        self._height = int(_number("VIEWPORT_HEIGHT", viewport_height, high))
        self._timeout = _number("TIMEOUT", None, 10_000)
        folder = _text("UPLOADS", uploads)
        self._uploads = Uploads(Folder(folder, "uploads") if folder else None)
        self._chromium: SharedChromium | None = None
        self._page: TaskPage | None = None
        self._actor: Actor | None = None
        self._observe: frozenset[Observe] = frozenset(_DEFAULT_OBSERVE)
        self._image: Literal["png", "jpeg"] = "png"
        self._reward: Reward = "raw"
        self._max_steps = self._default_steps
        self._reason: str | None = None
        self._forget_episode()

    @classmethod
    def tasks_for(cls, **params: Any) -> TaskTable | None:
        """The tasks on sites and own pages, without what solves them; MiniWoB's are names alone."""
        web = _site_tasks(**params)
        return None if web is None else web.table()

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
        if _site_tasks(**params) is not None:
            return None
        from browsergym_env.certification import certification

        return certification(**params)

    async def reset(
        self,
        seed: int | None = None,
        task_name: str | None = None,
        max_steps: int | None = None,
        observe: list[Observe] | None = None,
        screenshot_format: Literal["png", "jpeg"] = "png",
        reward: Reward = "raw",
        time_limit: float | None = None,
        mode: Literal["train", "test"] = "train",
    ) -> StepResult[BrowserGymObservation]:
        """Begin an episode.

        Args:
            seed: of the task's random choices.
            task_name: the task, for this and later episodes.
            max_steps: steps after which the episode is truncated.
            observe: what observations have: any of ``text``, ``axtree``, ``html``,
                ``screenshot``, ``marks`` (a screenshot with the bids of what can be clicked) and
                ``centers`` (of elements, in axtree and html).
            screenshot_format: of screenshots.
            reward: ``raw`` is MiniWoB's reward without the time penalty, ``binary`` 1 where the
                task was solved and else 0, ``timed`` MiniWoB's reward with the penalty.
            time_limit: seconds of the page's time after which MiniWoB ends the episode; by
                default none, with ``timed`` the task's own.
            mode: the data that tasks with a split of their own draw from.

        ``reward``, ``time_limit`` and ``mode`` are MiniWoB's.
        """
        self._task = self._task if task_name is None else self._resolve(task_name)
        self._max_steps = int(_positive("max_steps", max_steps, self._default_steps))
        limit = None if time_limit is None else 1000 * _positive("time_limit", time_limit)
        if limit is None and reward != "timed":
            limit = _NO_LIMIT
        self._observe = frozenset(_DEFAULT_OBSERVE if observe is None else observe)
        self._image = screenshot_format
        self._reward = reward
        self._forget_episode()
        page: TaskPage
        if self._web is None:
            page = miniwob = await self._miniwob_page()
            await miniwob.begin(self._task, seed or 0, limit, mode)
        else:
            page = site = await self._site_page(self._web, seed or 0)
            self._goal = self._web.tasks[self._task].goal
            await site.begin(self._web.start(self._task))
        self._actor = Actor(page, self._timeout, self._uploads)
        page.elapsed = 0.0
        reading = await page.read(self._observe, self._image)
        self._goal = self._goal or reading.goal
        return StepResult(self._observation(page, reading, ""), info={"task_name": self._task})

    async def step(self, action: BrowserGymAction) -> StepResult[BrowserGymObservation]:
        """Do the calls of a text.

        Raises:
            InvalidAction: it has no calls that can be read; the message names the remedy.
            EnvironmentDied: the page is gone.
        """
        page, actor = self._page, self._actor
        if page is None or actor is None or not page.alive:
            raise EnvironmentDied("the page of this session is gone: call reset()")
        try:
            calls = parse(action.action_str, ACTIONS)
        except ActionError as exc:
            raise InvalidAction(str(exc)) from None
        error = await self._act(page, actor, calls)
        self._steps += 1
        await page.advance(self._step_time)
        reading = await page.read(self._observe, self._image)
        if isinstance(page, MiniwobPage):
            end = self._end_of_miniwob(page.score, reading.score)
        else:
            end = await self._end_of_site(page, actor)
        self._total += end.reward
        self._reason = end.reason
        info: dict[str, Any] = {} if end.raw is None else {"raw_reward": end.raw}
        if end.reason is not None:
            info["reason"] = end.reason
        observation = self._observation(page, reading, error)
        return StepResult(observation, end.reward, end.terminated, end.truncated, info)

    async def state(self) -> BrowserGymState:
        return BrowserGymState(
            benchmark=self._benchmark,
            task_name=self._task,
            task_id=f"{self._benchmark}.{self._task}",
            goal=self._goal,
            current_url=self._page.url if self._page is not None else "",
            max_steps=self._max_steps,
            cum_reward=self._total,
            step_count=self._steps,
            elapsed_time=self._page.elapsed / 1000 if self._page is not None else 0.0,
            reason=self._reason,
            messages=list(self._actor.messages) if self._actor is not None else [],
        )

    async def close(self) -> None:
        try:
            if self._page is not None:
                await self._page.close()
        finally:
            if self._chromium is not None:
                await self._chromium.leave(self)

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schema of actions with their names and arguments."""
        schema = json_schema(BrowserGymAction)
        calls = ", ".join(
            f"{name}({', '.join(signature.parameters)})" for name, signature in ACTIONS.items()
        )
        schema["properties"] = {
            "action_str": {
                "type": "string",
                "maxLength": MAX_LENGTH,
                "description": f"Calls with literal arguments, one a line, of: {calls}.",
                "x-sample": {"enum": _SAMPLES},
            }
        }
        return {"action": schema}

    # -- helpers -------------------------------------------------------------------------------

    def _forget_episode(self) -> None:
        self._steps = 0
        self._total = 0.0
        self._goal = ""
        self._reason = None

    @property
    def _benchmark(self) -> str:
        return BENCHMARK if self._web is None else SITES

    def _resolve(self, name: str | None) -> str:
        """A task's own name; the benchmark's first task for none."""
        if self._web is None:
            return resolve(name or "click-test")
        return self._web.find(name).id

    async def _miniwob_page(self) -> MiniwobPage:
        """The session's page; a new one at first and when the former is gone."""
        if isinstance(self._page, MiniwobPage):
            if self._page.alive:
                return self._page
            await self._leave_page()
        browser = await self._browser(NO_NETWORK)
        with _opening():
            page = await MiniwobPage.open(browser, self._width, self._height, self._timeout)
        self._page = page
        return page

    async def _site_page(self, web: SiteTasks, seed: int) -> SitePage:
        """A new page, with the login of the task."""
        await self._leave_page()
        state = await web.prepare(self._task)
        browser = await self._browser(web.sites.rules)
        with _opening():
            page = await SitePage.open(
                browser, self._width, self._height, self._timeout, web.sites, state, seed
            )
        self._page = page
        return page

    async def _leave_page(self) -> None:
        former, self._page = self._page, None
        if former is not None:
            await former.close()

    async def _browser(self, rules: str) -> Browser:
        if self._chromium is None:
            self._chromium = shared_chromium(rules)
        return await self._chromium.browser(self)

    async def _act(self, page: TaskPage, actor: Actor, calls: list[Call]) -> str:
        """Do the calls; why one could not be done, or ``""``."""
        try:
            for number, call in enumerate(calls):
                if number and (await page.advance(1) or self._has_answered(actor)):
                    break
                try:
                    await actor.do(call)
                except Error as exc:
                    if not page.alive:
                        raise page.died(exc) from exc
                    raise action_failed(exc) from exc
        except ActionError as exc:
            return str(exc)
        return ""

    def _has_answered(self, actor: Actor) -> bool:
        """Return whether the agent said what ends the episode; MiniWoB hears nothing."""
        return self._web is not None and actor.answer is not None

    def _end_of_miniwob(self, score: Score, now: Score) -> _End:
        left = not (score.begun and now.begun)
        timed_out = score.done and score.reason == "timed out"
        terminated = score.done and not timed_out
        return _End(
            self._rewarded(score),
            terminated,
            not terminated and (timed_out or left or self._steps >= self._max_steps),
            "the page was left" if left else score.reason,
            score.raw if score.done else None,
        )

    async def _end_of_site(self, page: TaskPage, actor: Actor) -> _End:
        if self._web is None or not isinstance(page, SitePage) or not self._has_answered(actor):
            return _End(0.0, False, self._steps >= self._max_steps)
        task = self._web.tasks[self._task]
        reward = await grade(task, actor.answer or "", page.page, page.look)
        return _End(reward, True, False, "the agent answered", reward)

    def _rewarded(self, score: Score) -> float:
        if not score.done:
            return 0.0
        match self._reward:
            case "raw":
                return float(score.raw)
            case "binary":
                return float(is_solved(self._task, score.raw))
            case "timed":
                return float(score.reward)

    def _observation(self, page: TaskPage, reading: Reading, error: str) -> BrowserGymObservation:
        return BrowserGymObservation(
            goal=reading.goal or self._goal,
            url=page.url,
            text=reading.text,
            axtree_txt=reading.axtree,
            pruned_html=reading.html,
            screenshot=reading.screenshot,
            focused_element_bid=reading.focused,
            error=error,
            last_action_error=bool(error),
            open_pages_urls=reading.urls,
            open_pages_titles=reading.titles,
            active_page_index=reading.active,
        )


@dataclass(frozen=True)
class _End:
    """The end of an episode with a step, if it ended, and the step's reward."""

    reward: float
    terminated: bool
    truncated: bool
    reason: str | None = None
    raw: float | None = None


@contextlib.contextmanager
def _opening() -> Iterator[None]:
    try:
        yield
    except Error as exc:
        raise EnvironmentDied(
            f"the browser died while a page was opened: {exc.message[:200]}", retryable=True
        ) from exc


def _site_tasks(
    benchmark: str | None = None,
    pages: str | None = None,
    sites: dict[str, str] | str | None = None,
    tasks_path: str | None = None,
    logins: str | None = None,
    reset_hook: str | None = None,
    reset_timeout: float | None = None,
    **_: Any,
) -> SiteTasks | None:
    """The tasks on sites and own pages that constructor arguments name; ``None`` for MiniWoB."""
    benchmark, pages = _text("BENCHMARK", benchmark), _text("PAGES", pages)
    addresses = sites or _text("SITES", None)
    if benchmark not in (None, BENCHMARK, SITES):
        raise InvalidOption(
            f"benchmark {benchmark!r} is not served: choose {BENCHMARK}, or {SITES} with your own"
            " pages or sites",
            option="benchmark",
        )
    if benchmark == BENCHMARK or not (benchmark or pages or addresses):
        return None
    return open_site_tasks(
        pages,
        read_addresses(addresses or {}),
        _text("TASKS", tasks_path),
        _text("LOGINS", logins),
        _text("RESET_HOOK", reset_hook),
        _number("RESET_TIMEOUT", reset_timeout, 120),
    )


def _positive(source: str, given: float | None, default: float = 0.0) -> float:
    value = default if given is None else given
    if not 0 < value < 1e9:
        raise InvalidOption(f"{source} must be a positive number, got {given!r}", option=source)
    return value


def _text(variable: str, given: str | None) -> str | None:
    """Return the text given, else ``BROWSERGYM_variable``; ``None`` for neither."""
    return given or os.environ.get(f"BROWSERGYM_{variable}") or None


def _number(variable: str, given: float | None, default: float) -> float:
    """Return the value given, else ``BROWSERGYM_variable``, else the default; positive."""
    if given is not None:
        return _positive(variable.lower(), given)
    source = f"BROWSERGYM_{variable}"
    text = os.environ.get(source, "")
    try:
        return _positive(source, float(text) if text else default)
    except ValueError:
        raise InvalidOption(
            f"{source} must be a positive number, got {text!r}", option=source
        ) from None
