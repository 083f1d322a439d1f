"""The environment: one page per session, in a Chromium that all sessions share."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final, Literal

from playwright.async_api import Error

from browsergym_env.acting import ACTIONS, Actor, action_failed
from browsergym_env.actions import MAX_LENGTH, ActionError, Call, parse
from browsergym_env.chromium import SharedChromium, shared_chromium
from browsergym_env.folders import Folder, Uploads
from browsergym_env.models import BrowserGymAction, BrowserGymObservation, BrowserGymState
from browsergym_env.page import Observe, Reading, Score, TaskPage
from browsergym_env.solved import is_solved
from browsergym_env.tasks import BENCHMARK, resolve
from openenv_async import Certification, Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import EnvironmentDied, InvalidAction, InvalidOption
from openenv_async.models import json_schema

__all__ = ["BrowserGymEnvironment", "Reward"]

Reward = Literal["raw", "binary", "timed"]

_DEFAULT_OBSERVE: Final[tuple[Observe, ...]] = ("text", "axtree", "html")
_NO_LIMIT: Final = 1e12  # milliseconds; MiniWoB knows no episode without a limit


class BrowserGymEnvironment(
    Environment[BrowserGymAction, BrowserGymObservation, BrowserGymState],
):
    """MiniWoB++ tasks on real Chromium, offline.

    Async, so that one server drives many pages. The variables ``BROWSERGYM_*`` give what the
    constructor is not given.

    Args:
        task_name: the task of resets that name none.
        benchmark: ``miniwob``.
        max_steps: steps after which an episode is truncated.
        step_time: seconds of the page's own time that every action takes.
        viewport_width, viewport_height: CSS pixels.
        uploads: the folder of the files that the agent may give to pages.

    Raises:
        InvalidOption: there is no such task or benchmark, or a variable makes no sense.
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
    ) -> None:
        benchmark = benchmark or os.environ.get("BROWSERGYM_BENCHMARK", BENCHMARK)
        if benchmark != BENCHMARK:
            raise InvalidOption(
                f"benchmark {benchmark!r} is not served: only {BENCHMARK} runs offline",
                option="benchmark",
            )
        self._task = resolve(task_name or os.environ.get("BROWSERGYM_TASK_NAME", "click-test"))
        self._default_steps = int(_number("MAX_STEPS", max_steps, 20))
        self._step_time = 1000 * _number("STEP_TIME", step_time, 0.5)
        self._width = int(_number("VIEWPORT_WIDTH", viewport_width, 332))
        self._height = int(_number("VIEWPORT_HEIGHT", viewport_height, 214))
        self._timeout = _number("TIMEOUT", None, 10_000)
        uploads = uploads or os.environ.get("BROWSERGYM_UPLOADS")
        self._uploads = Uploads(Folder(uploads, "uploads") if uploads else None)
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
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
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
                ``screenshot`` and ``centers`` (of elements, in axtree and html).
            screenshot_format: of screenshots.
            reward: ``raw`` is MiniWoB's reward without the time penalty, ``binary`` 1 where the
                task was solved and else 0, ``timed`` MiniWoB's reward with the penalty.
            time_limit: seconds of the page's time after which MiniWoB ends the episode; by
                default none, with ``timed`` the task's own.
            mode: the data that tasks with a split of their own draw from.
        """
        self._task = self._task if task_name is None else resolve(task_name)
        self._max_steps = int(_positive("max_steps", max_steps, self._default_steps))
        limit = None if time_limit is None else 1000 * _positive("time_limit", time_limit)
        if limit is None and reward != "timed":
            limit = _NO_LIMIT
        self._observe = frozenset(_DEFAULT_OBSERVE if observe is None else observe)
        self._image = screenshot_format
        self._reward = reward
        self._forget_episode()
        page = await self._live_page()
        self._actor = Actor(page.page, self._timeout, self._uploads)
        await page.begin(self._task, seed or 0, limit, mode)
        reading = await page.read(self._observe, self._image)
        self._goal, self._began = reading.goal, reading.elapsed
        self._elapsed = reading.elapsed
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
        score = await page.advance(self._step_time)
        reading = await page.read(self._observe, self._image)
        self._elapsed = reading.elapsed
        self._reason = score.reason
        left = not (score.begun and reading.score.begun)
        timed_out = score.done and score.reason == "timed out"
        terminated = score.done and not timed_out
        truncated = not terminated and (timed_out or left or self._steps >= self._max_steps)
        if left:
            self._reason = "the page was left"
        reward = self._rewarded(score)
        self._total += reward
        info: dict[str, Any] = {"raw_reward": score.raw} if score.done else {}
        if self._reason is not None:
            info["reason"] = self._reason
        observation = self._observation(page, reading, error)
        return StepResult(observation, reward, terminated, truncated, info)

    async def state(self) -> BrowserGymState:
        return BrowserGymState(
            benchmark=BENCHMARK,
            task_name=self._task,
            task_id=f"{BENCHMARK}.{self._task}",
            goal=self._goal,
            current_url=self._page.url if self._page is not None else "",
            max_steps=self._max_steps,
            cum_reward=self._total,
            step_count=self._steps,
            elapsed_time=(self._elapsed - self._began) / 1000,
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
            }
        }
        return {"action": schema}

    # -- helpers -------------------------------------------------------------------------------

    def _forget_episode(self) -> None:
        self._steps = 0
        self._total = 0.0
        self._goal = ""
        self._began = self._elapsed = 0.0
        self._reason = None

    async def _live_page(self) -> TaskPage:
        """The session's page; a new one at first and when the former is gone."""
        if self._page is not None:
            if self._page.alive:
                return self._page
            former, self._page = self._page, None
            await former.close()
        if self._chromium is None:
            self._chromium = shared_chromium()
        browser = await self._chromium.browser(self)
        try:
            self._page = await TaskPage.open(browser, self._width, self._height, self._timeout)
        except Error as exc:
            raise EnvironmentDied(
                f"the browser died while a page was opened: {exc.message[:200]}", retryable=True
            ) from exc
        return self._page

    async def _act(self, page: TaskPage, actor: Actor, calls: list[Call]) -> str:
        """Do the calls; why one could not be done, or ``""``."""
        try:
            for number, call in enumerate(calls):
                if number and (await page.advance(1)).done:
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
        )


def _positive(source: str, given: float | None, default: float = 0.0) -> float:
    value = default if given is None else given
    if not 0 < value < 1e9:
        raise InvalidOption(f"{source} must be a positive number, got {given!r}", option=source)
    return value


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
