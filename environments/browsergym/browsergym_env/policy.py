"""Two policies: rules that read the accessibility tree, and random clicks to compare with.

``openenv-async rollout browsergym --policy browsergym_env.policy:rules``. The rules look at goal
and tree alone, never at the task's name, so they also act on tasks that they were not made for.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from browsergym_env.models import BrowserGymAction, BrowserGymObservation

__all__ = ["SOLVED_TASKS", "Element", "RandomClicks", "elements", "random_clicks", "rules"]

SOLVED_TASKS: Final = (
    "choose-list", "click-button", "click-button-sequence", "click-checkboxes",
    "click-checkboxes-large", "click-checkboxes-transfer", "click-dialog", "click-dialog-2",
    "click-link", "click-option", "click-tab", "click-tab-2-easy", "click-test", "click-test-2",
    "click-widget", "enter-password", "enter-text", "enter-text-dynamic", "focus-text",
    "focus-text-2", "login-user", "read-table", "simple-algebra", "simple-arithmetic",
    "unicode-test",
)  # fmt: skip
"""Tasks that the rules were made for."""

_LINE: Final = re.compile(r"^\t*\[(\w+)\] (\w+) ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")(.*)$")
_FIELDS: Final = ("textbox", "searchbox")
_BUTTONS: Final = ("button", "generic", "link")


@dataclass(frozen=True)
class Element:
    """One line of the tree that has a bid."""

    bid: str
    role: str
    name: str
    flags: str


def elements(observation: BrowserGymObservation) -> list[Element]:
    """The elements of the tree in its order, that of the goal left out."""
    goal = _squeezed(observation.goal)
    found = []
    for line in observation.axtree_txt.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        element = Element(match[1], match[2], ast.literal_eval(match[3]), match[4])
        if _squeezed(element.name) != goal:
            found.append(element)
    return found


Observed = BrowserGymObservation | Mapping[str, Any]
"""An observation as the client gives it: typed, or a plain dict without ``BrowserGymEnv``."""


def rules(observation: Observed) -> BrowserGymAction:
    """The calls of the first rule that fits the goal; a click on the only button if none does."""
    observation = _typed(observation)
    page = elements(observation)
    for pattern, rule in _RULES:
        match = re.search(pattern, observation.goal, re.IGNORECASE)
        if match is not None:
            calls = rule(match, page)
            if calls:
                return BrowserGymAction("\n".join(calls))
    return BrowserGymAction("\n".join(_press(page, "submit")))


class RandomClicks:
    """A policy that clicks a random element, or fills a random field with a word of the goal."""

    def __init__(self, seed: int | str | None = None) -> None:
        self._seed = seed
        self._rng = random.Random(seed)

    def for_episode(self, index: int) -> RandomClicks:
        """The policy of one episode, with random choices of its own."""
        return RandomClicks(None if self._seed is None else f"{self._seed}/{index}")

    def __call__(self, observation: Observed) -> BrowserGymAction:
        observation = _typed(observation)
        page = elements(observation)
        if not page:
            return BrowserGymAction("noop()")
        element = self._rng.choice(page)
        if element.role in _FIELDS and self._rng.random() < 0.5:
            words = observation.goal.replace('"', " ").split() or [""]
            return BrowserGymAction(f"fill({element.bid!r}, {self._rng.choice(words)!r})")
        return BrowserGymAction(f"click({element.bid!r})")


random_clicks: Final = RandomClicks(0)

# -- rules --------------------------------------------------------------------------------------

Rule = Callable[[re.Match[str], list[Element]], list[str]]


def _typed(observation: Observed) -> BrowserGymObservation:
    if isinstance(observation, BrowserGymObservation):
        return observation
    return BrowserGymObservation(**observation)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _click(element: Element) -> str:
    return f"click({element.bid!r})"


def _press(page: list[Element], name: str) -> list[str]:
    """A click on the button of that name, in any case; on the only button if none has it."""
    named = [e for e in page if e.role in _BUTTONS and e.name.lower() == name.lower()]
    if not named:
        named = [e for e in page if e.role == "button"][-1:]
    return [_click(named[0])] if named else []


def _fill(page: list[Element], *values: str) -> list[str]:
    fields = [e for e in page if e.role in _FIELDS]
    return [f"fill({e.bid!r}, {v!r})" for e, v in zip(fields, values, strict=False)]


def _named(match: re.Match[str], page: list[Element]) -> list[str]:
    """Find what the goal quotes; behind a tab that is not open yet if it is not there."""
    wanted = match[1].strip().lower()
    exact = [e for e in page if e.name.strip(" .,").lower() == wanted.strip(" .,")]
    if not exact and wanted == "x":
        exact = [e for e in page if e.role == "button" and e.name == "Close"]
    exact.sort(key=lambda e: e.role != "button")
    if exact:
        return [_click(exact[0])]
    tabs = [e for e in page if e.role == "tab"]
    opened = next((i for i, e in enumerate(tabs) if "expanded=true" in e.flags), -1)
    return [_click(tabs[(opened + 1) % len(tabs)])] if tabs else []


def _widget(match: re.Match[str], page: list[Element]) -> list[str]:
    # A textarea and an input have one role; the tree does not tell them apart.
    role = {"text": "textbox", "textarea": "textbox"}.get(match[1], match[1])
    return [_click(e) for e in page if e.role == role]


def _sequence(match: re.Match[str], page: list[Element]) -> list[str]:
    return _press(page, match[1]) + _press(page, match[2])


def _options(match: re.Match[str], page: list[Element]) -> list[str]:
    wanted = {name.strip() for name in match[1].split(",")} - {"nothing"}
    boxes = [e for e in page if e.role in ("checkbox", "radio")]
    wrong = [e for e in boxes if (e.name in wanted) != ("checked=true" in e.flags)]
    chosen = [e for e in wrong if e.role == "checkbox" or e.name in wanted]
    return [_click(e) for e in chosen[:12]] + ([] if chosen[12:] else _press(page, "submit"))


def _listed(match: re.Match[str], page: list[Element]) -> list[str]:
    boxes = [e for e in page if e.role == "combobox"]
    chosen = [f"select_option({e.bid!r}, {match[1]!r})" for e in boxes[:1]]
    return chosen + _press(page, "submit")


def _focus(match: re.Match[str], page: list[Element]) -> list[str]:
    number = int(match[1] or 1) - 1
    return [_click(e) for e in page if e.role in _FIELDS][number : number + 1]


def _enter(match: re.Match[str], page: list[Element]) -> list[str]:
    return _fill(page, match[1]) + _press(page, "submit")


def _password(match: re.Match[str], page: list[Element]) -> list[str]:
    return _fill(page, match[1], match[1]) + _press(page, "submit")


def _login(match: re.Match[str], page: list[Element]) -> list[str]:
    return _fill(page, match[1], match[2]) + _press(page, "login")


def _cell(match: re.Match[str], page: list[Element]) -> list[str]:
    cells = [e for e in page if "cell" in e.role or "header" in e.role]
    names = [e.name for e in cells]
    if match[1] not in names[:-1]:
        return []
    return _fill(page, names[names.index(match[1]) + 1]) + _press(page, "submit")


_SUM: Final = re.compile(r"^(-?\d+) ([-+x×*]) (-?\d+) =$")
_EQUATION: Final = re.compile(r"^(x|-?\d+) ([-+]) (x|-?\d+) = (-?\d+)$")


def _arithmetic(match: re.Match[str], page: list[Element]) -> list[str]:
    for element in page:
        found = _SUM.match(element.name)
        if found is not None:
            left, right = int(found[1]), int(found[3])
            results = {"+": left + right, "-": left - right}
            return _fill(page, str(results.get(found[2], left * right))) + _press(page, "submit")
    return []


def _algebra(match: re.Match[str], page: list[Element]) -> list[str]:
    for element in page:
        found = _EQUATION.match(element.name)
        if found is None:
            continue
        plus, total = found[2] == "+", int(found[4])
        if found[1] == "x":
            x = total - int(found[3]) if plus else total + int(found[3])
        else:
            x = total - int(found[1]) if plus else int(found[1]) - total
        return _fill(page, str(x)) + _press(page, "submit")
    return []


_RULES: Final[tuple[tuple[str, Rule], ...]] = (
    (r'username "([^"]*)" and the password "([^"]*)"', _login),
    (r'enter the password "([^"]*)" into both', _password),
    (r'^enter "([^"]*)" into the text field', _enter),
    (r"^enter the value of (.+?) into the text field", _cell),
    (r"^solve the math problem", _arithmetic),
    (r"^solve for x", _algebra),
    (r"click button (\w+), then click button (\w+)", _sequence),
    (r'click on a "([^"]*)" widget', _widget),
    (r"focus into the (?:(\d+)\w\w input )?textbox", _focus),
    (r"^select (.+) from the list and click submit", _listed),
    (r"^select (.+) and click submit", _options),
    (r"click (?:on )?(?:button )?(tab #\d+|ONE|TWO)\b", _named),
    (r'"([^"]*)"', _named),
)
