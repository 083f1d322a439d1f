"""The actions: what each does with the page. Names and arguments are BrowserGym's."""

from __future__ import annotations

from typing import Any, Final, Literal

from playwright.async_api import Error, FilePayload, Page, TimeoutError

from browsergym_env.actions import ActionError, Call, Signatures, signatures
from browsergym_env.folders import Uploads
from browsergym_env.page import TaskPage

__all__ = ["ACTIONS", "Actor", "action_failed"]

Button = Literal["left", "middle", "right"]
Modifier = Literal["Alt", "Control", "ControlOrMeta", "Meta", "Shift"]

_DRAG_STEPS: Final = 8
_LONGEST_WAIT: Final = 60_000.0
_CHOOSER_TIMEOUT: Final = 1_000.0


class Actor:
    """The actor of one page. Elements are named by their bids, places in CSS pixels.

    Clicks go through the mouse, at the middle of the element: one that is covered, hidden or
    gone is an error at once, since nothing changes while the page's time stands still.

    Args:
        tabs: where to act: on the active page of the session.
        timeout: milliseconds that one operation of the browser may take.
        uploads: the files that may be given to a page.
    """

    def __init__(self, tabs: TaskPage, timeout: float, uploads: Uploads) -> None:
        self._tabs = tabs
        self._timeout = timeout
        self._uploads = uploads
        self._mouse = (0.0, 0.0)
        self.messages: list[str] = []
        self.answer: str | None = None

    @property
    def _page(self) -> Page:
        return self._tabs.page

    async def do(self, call: Call) -> None:
        """Do one call.

        Raises:
            ActionError: it cannot be done.
            Error: Playwright's; the page itself may be gone.
        """
        await getattr(self, call.name)(**call.arguments)

    # -- the action set: methods listed in ACTIONS ---------------------------------------------

    async def noop(self, wait_ms: float = 1000.0) -> None:
        """Let the page's time go on."""
        if wait_ms < 0:
            raise ActionError("wait_ms must not be negative")
        await self._tabs.advance(min(wait_ms, _LONGEST_WAIT))

    async def send_msg_to_user(self, text: str) -> None:
        """Say something: on sites the answer, which ends the episode."""
        self._say(text, text)

    async def report_infeasible(self, reason: str) -> None:
        """Say that the task cannot be done: on sites the answer ``N/A``."""
        self._say(reason, "N/A")

    async def click(
        self, bid: str, button: Button = "left", modifiers: list[Modifier] | None = None
    ) -> None:
        """Click an element."""
        await self._click(await self._locate(bid), button, 1, modifiers)

    async def dblclick(
        self, bid: str, button: Button = "left", modifiers: list[Modifier] | None = None
    ) -> None:
        """Click an element twice."""
        await self._click(await self._locate(bid), button, 2, modifiers)

    async def hover(self, bid: str) -> None:
        """Move the mouse over an element."""
        await self._move(*await self._locate(bid))

    async def fill(self, bid: str, value: str, enable_autocomplete_menu: bool = False) -> None:
        """Replace the text of an input, a textarea or an editable element.

        With ``enable_autocomplete_menu`` the text is typed, so that pages which offer completions
        see every key.
        """
        await self._prepare(bid, "fill")
        typed = enable_autocomplete_menu
        await self._page.fill(_selector(bid), "" if typed else value, timeout=self._timeout)
        if typed:
            await self._page.keyboard.type(value)

    async def clear(self, bid: str) -> None:
        """Remove the text of an element."""
        await self.fill(bid, "")

    async def select_option(self, bid: str, options: str | list[str]) -> None:
        """Choose options of a select element by value or label."""
        wanted = [options] if isinstance(options, str) else options
        await self._prepare(bid, "select", wanted)
        await self._page.select_option(_selector(bid), wanted, timeout=self._timeout)

    async def check(self, bid: str) -> None:
        """Have a checkbox, radio button or switch checked."""
        await self._have_checked(bid, True)

    async def uncheck(self, bid: str) -> None:
        """Have a checkbox or switch unchecked."""
        await self._have_checked(bid, False)

    async def upload_file(self, bid: str, file: str | list[str]) -> None:
        """Click an element that asks for files, and give it some of the folder of uploads."""
        files = self._uploads.read(file)
        await self._upload(await self._locate(bid), files)

    async def mouse_upload_file(self, x: float, y: float, file: str | list[str]) -> None:
        """Click a place that asks for files, and give it some of the folder of uploads."""
        await self._upload((x, y), self._uploads.read(file))

    async def goto(self, url: str) -> None:
        """Go to an address of an allowed site."""
        await self._tabs.goto(url)

    async def go_back(self) -> None:
        """Go to the page before this one in the tab's history."""
        await self._tabs.go(-1)

    async def go_forward(self) -> None:
        """Go to the page after this one in the tab's history."""
        await self._tabs.go(1)

    async def new_tab(self) -> None:
        """Open an empty tab, which becomes the active one."""
        await self._tabs.new_tab()

    async def tab_close(self) -> None:
        """Close the active tab; the last one becomes active, an empty one if there is none."""
        await self._tabs.close_tab()

    async def tab_focus(self, index: int) -> None:
        """Have the tab at a place, from 0, be the active one."""
        await self._tabs.focus_tab(index)

    async def focus(self, bid: str) -> None:
        """Give an element the focus."""
        await self._prepare(bid, "focus")

    async def press(self, bid: str, key_comb: str) -> None:
        """Focus an element and press a key or combination, such as ``Control+a``."""
        await self._prepare(bid, "focus")
        await self._page.keyboard.press(key_comb)

    async def drag_and_drop(self, from_bid: str, to_bid: str) -> None:
        """Drag one element onto another."""
        start = await self._locate(from_bid)
        end = await self._locate(to_bid)
        await self._drag(*start, *end)

    async def scroll(self, delta_x: float, delta_y: float) -> None:
        """Scroll what is under the mouse, else the first thing that scrolls."""
        await self._page.evaluate(
            "([x, y, dx, dy]) => __openenv.scroll(x, y, dx, dy)", [*self._mouse, delta_x, delta_y]
        )

    async def scroll_at(self, x: float, y: float, dx: float, dy: float) -> None:
        """Move the mouse and turn its wheel."""
        await self._move(x, y)
        await self._page.mouse.wheel(dx, dy)
        await self._page.evaluate("__openenv.settle()")

    async def mouse_move(self, x: float, y: float) -> None:
        """Move the mouse."""
        await self._move(x, y)

    async def mouse_down(self, x: float, y: float, button: Button = "left") -> None:
        """Press a button of the mouse and hold it."""
        await self._move(x, y)
        await self._page.mouse.down(button=button)

    async def mouse_up(self, x: float, y: float, button: Button = "left") -> None:
        """Let a button of the mouse go."""
        await self._move(x, y)
        await self._page.mouse.up(button=button)

    async def mouse_click(self, x: float, y: float, button: Button = "left") -> None:
        """Click a place."""
        await self._click((x, y), button, 1, None)

    async def mouse_dblclick(self, x: float, y: float, button: Button = "left") -> None:
        """Click a place twice."""
        await self._click((x, y), button, 2, None)

    async def mouse_drag_and_drop(
        self, from_x: float, from_y: float, to_x: float, to_y: float
    ) -> None:
        """Drag from a place to another."""
        await self._drag(from_x, from_y, to_x, to_y)

    async def keyboard_press(self, key: str) -> None:
        """Press a key or combination."""
        await self._page.keyboard.press(key)

    async def keyboard_down(self, key: str) -> None:
        """Press a key and hold it."""
        await self._page.keyboard.down(key)

    async def keyboard_up(self, key: str) -> None:
        """Let a key go."""
        await self._page.keyboard.up(key)

    async def keyboard_type(self, text: str) -> None:
        """Type, key by key, into what has the focus."""
        await self._page.keyboard.type(text)

    async def keyboard_insert_text(self, text: str) -> None:
        """Insert text into what has the focus, without key events."""
        await self._page.keyboard.insert_text(text)

    # -- helpers -------------------------------------------------------------------------------

    def _say(self, text: str, answer: str) -> None:
        self.messages.append(text)
        self.answer = answer

    async def _locate(self, bid: str) -> tuple[float, float]:
        found: dict[str, Any] = await self._page.evaluate("bid => __openenv.locate(bid)", bid)
        if "error" in found:
            raise ActionError(found["error"])
        return found["x"], found["y"]

    async def _prepare(self, bid: str, purpose: str, wanted: list[str] | None = None) -> None:
        refused = await self._page.evaluate(
            "([bid, purpose, wanted]) => __openenv.prepare(bid, purpose, wanted)",
            [bid, purpose, wanted or []],
        )
        if refused is not None:
            raise ActionError(refused)

    async def _have_checked(self, bid: str, wanted: bool) -> None:
        before = await self._checked(bid, wanted)
        if before == wanted:
            return
        await self._click(await self._locate(bid), "left", 1, None)
        if await self._checked(bid, wanted) != wanted:
            raise ActionError(f"element {bid} was clicked and stays as it was")

    async def _checked(self, bid: str, wanted: bool) -> bool:
        found: dict[str, Any] = await self._page.evaluate(
            "([bid, wanted]) => __openenv.checked(bid, wanted)", [bid, wanted]
        )
        if "error" in found:
            raise ActionError(found["error"])
        return bool(found["checked"])

    async def _upload(self, place: tuple[float, float], files: list[FilePayload]) -> None:
        try:
            async with self._page.expect_file_chooser(timeout=_CHOOSER_TIMEOUT) as opened:
                await self._click(place, "left", 1, None)
            chooser = await opened.value
        except TimeoutError as exc:
            raise ActionError("what was clicked asks for no file") from exc
        if len(files) > 1 and not chooser.is_multiple():
            raise ActionError("what was clicked takes one file")
        await chooser.set_files(files, timeout=self._timeout)

    async def _move(self, x: float, y: float, steps: int = 1) -> None:
        self._mouse = (x, y)
        await self._page.mouse.move(x, y, steps=steps)

    async def _click(
        self,
        place: tuple[float, float],
        button: Button,
        count: int,
        modifiers: list[Modifier] | None,
    ) -> None:
        self._mouse = place
        held: list[Modifier] = []
        try:
            for key in modifiers or ():
                await self._page.keyboard.down(key)
                held.append(key)
            await self._page.mouse.click(*place, button=button, click_count=count)
        finally:
            for key in reversed(held):
                await self._page.keyboard.up(key)

    async def _drag(self, from_x: float, from_y: float, to_x: float, to_y: float) -> None:
        await self._move(from_x, from_y)
        await self._page.mouse.down()
        try:
            await self._move(to_x, to_y, steps=_DRAG_STEPS)
        finally:
            await self._page.mouse.up()


def _selector(bid: str) -> str:
    escaped = bid.replace("\\", "\\\\").replace('"', '\\"')
    return f'[bid="{escaped}"]'


ACTIONS: Final[Signatures] = signatures(
    Actor.noop,
    Actor.click,
    Actor.dblclick,
    Actor.hover,
    Actor.fill,
    Actor.clear,
    Actor.select_option,
    Actor.check,
    Actor.uncheck,
    Actor.upload_file,
    Actor.focus,
    Actor.press,
    Actor.drag_and_drop,
    Actor.scroll,
    Actor.scroll_at,
    Actor.mouse_move,
    Actor.mouse_down,
    Actor.mouse_up,
    Actor.mouse_click,
    Actor.mouse_dblclick,
    Actor.mouse_drag_and_drop,
    Actor.mouse_upload_file,
    Actor.keyboard_press,
    Actor.keyboard_down,
    Actor.keyboard_up,
    Actor.keyboard_type,
    Actor.keyboard_insert_text,
    Actor.goto,
    Actor.go_back,
    Actor.go_forward,
    Actor.new_tab,
    Actor.tab_close,
    Actor.tab_focus,
    Actor.send_msg_to_user,
    Actor.report_infeasible,
)
"""The calls that an agent may make, by name."""


def action_failed(exc: Error) -> ActionError:
    """Playwright's refusal as the agent's error: its first line."""
    return ActionError(" ".join(exc.message.split("\n")[0].split())[:300])
