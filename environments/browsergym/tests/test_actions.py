"""How the text of an action is read: no browser needed."""

from __future__ import annotations

import contextlib
import time

import pytest
from browsergym_env.acting import ACTIONS
from browsergym_env.actions import MAX_CALLS, MAX_LENGTH, ActionError, Call, parse
from browsergym_env.environment import BrowserGymEnvironment
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("", []),
        ("# only a remark", []),
        ("click('12')", [Call("click", {"bid": "12"})]),
        ("  click(bid='12')  ", [Call("click", {"bid": "12"})]),
        ('fill("7", "it\'s")', [Call("fill", {"bid": "7", "value": "it's"})]),
        ("mouse_click(3, -4.5)", [Call("mouse_click", {"x": 3, "y": -4.5})]),
        (
            "click('1', 'right', ['Shift'])",
            [Call("click", {"bid": "1", "button": "right", "modifiers": ["Shift"]})],
        ),
        ("select_option('1', ['a'])", [Call("select_option", {"bid": "1", "options": ["a"]})]),
        ("noop()\nnoop(5)", [Call("noop", {}), Call("noop", {"wait_ms": 5})]),
        ("clear('1'); focus('2')", [Call("clear", {"bid": "1"}), Call("focus", {"bid": "2"})]),
        ("click(12)", [Call("click", {"bid": "12"})]),
        ("click(\u201cit\u2019s\u201d)", [Call("click", {"bid": "it\u2019s"})]),
        ("click(\u201813\u2019)", [Call("click", {"bid": "13"})]),
        ("fill('7', \u201csay \"a\"\u201d)", [Call("fill", {"bid": "7", "value": 'say "a"'})]),
        ("fill('7', '''a\n  b''')", [Call("fill", {"bid": "7", "value": "a\n  b"})]),
        ("  noop()\n    noop()", [Call("noop", {}), Call("noop", {})]),
        ("fill('7', 'a\nb')", [Call("fill", {"bid": "7", "value": "a\nb"})]),
    ],
)  # fmt: skip
def test_calls_are_read(text: str, calls: list[Call]) -> None:
    assert parse(text, ACTIONS) == calls


NINE, TEN = Call("click", {"bid": "9"}), Call("click", {"bid": "10"})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("I press it.\n```python\nclick('9')\n```\nDone.", [NINE]),
        ("```click('9')```", [NINE]),
        ("```\nclick('9')\nclick('10')\n```", [NINE, TEN]),
        ("```\nclick('10')\n```\nor, better\n```\nclick('9')\n```\n```json\n{}\n```", [NINE]),
        ("click('10')\n```\nclick('9')\n```", [NINE]),
        ("<think>click('10')\n```\nclick('10')\n```</think>click('9')", [NINE]),
        ("<think>first\n</think>\n<action>click('9')</action>", [NINE]),
        ("<action>click('10')</action> no: <action>```\nclick('9')\n```</action>", [NINE]),
        ("Thought: the button.\nAction: click('9')", [NINE]),
        ("**Action:** `click('9')`", [NINE]),
        ("1. click('9')\n2. click('10')\nThat is all.", [NINE, TEN]),
        ("- click('9'); click('10')", [NINE, TEN]),
        ("I could do click('10') here.\nclick('9')  # the button", [NINE]),
        ("So I choose click('9'), since it is the button.", [NINE]),
        ("I do click('9'). Yes, click('9')!", [NINE]),
        ("\"click('9')\"", [NINE]),
        ("action = click('9')", [NINE]),
        ("I focus (as told) and unclick(7), then click('9').", [NINE]),
    ],
)
def test_calls_are_found_in_a_model_s_text(text: str, calls: list[Call]) -> None:
    assert parse(text, ACTIONS) == calls


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("click 12", "no call is in the text"),
        ("12", "no call is in the text '12': reply with calls alone"),
        ("import os", "no call is in the text"),
        ("os.system('true')", "no call is in the text"),
        ("page.click('1')", "no call is in the text"),
        ("click('1').fill()", "no call is in the text"),
        ("(lambda: 1)()", "no call is in the text"),
        ("<think>click('1')", "thoughts alone"),
        ("Either click('1') or click('2').", r"2 calls within sentences.*calls alone, one a line"),
        ("fill('7', 'it's')\nclick('9')", "cannot be read.*backslash before a quote"),
        ("Well: click('9'\nclick('10')", "cannot be read"),
        ("I do tap('9') now", r"there is no action tap\(\); there are: noop, click"),
        ("__import__('os')", "there is no action __import__"),
        ("do(1)", "there is no action do"),
        ("tab_focus(True)", "index cannot be True"),
        ("click(open('x'))", "must be literals"),
        ("click(f'{1}')", "must be literals"),
        ("click('a' * 9)", "must be literals"),
        ("click(*['1'])", "must be literals"),
        ("click(**{'bid': '1'})", "must be literals"),
        ("click()", "missing a required argument: 'bid'"),
        ("click('1', 'left', [], 4)", "too many positional"),
        ("click('1', colour='red')", "unexpected keyword"),
        ("click(True)", "bid cannot be True"),
        ("click(1.5)", "bid cannot be 1.5"),
        ("click('1', 'upper')", "button cannot be 'upper'"),
        ("click('1', modifiers=['Hyper'])", "modifiers cannot be"),
        ("mouse_move('1', 2)", "x cannot be '1'"),
        ("mouse_move(True, 2)", "x cannot be True"),
        ("mouse_move(1e999, 2)", "x cannot be inf"),
        ("mouse_move(10**9, 2)", "must be literals"),
        ("fill('1', None)", "value cannot be None"),
        ("noop()\n" * (MAX_CALLS + 1), f"at most {MAX_CALLS}"),
        ("#" * (MAX_LENGTH + 1), f"at most {MAX_LENGTH}"),
        ("(" * 8000, "no call is in the text"),
        (
            "click(" + "[" * 500 + "]" * 500 + ")",
            "must be literals|cannot",
        ),
        ("click('\0')", "cannot be read"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        parse(text, ACTIONS)


@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        calls = parse(text, ACTIONS)
    except ActionError:
        return
    assert all(call.name in ACTIONS for call in calls)


@pytest.mark.parametrize(
    "text", ["`" * MAX_LENGTH, "x noop() " * 1800, "noop( " * 2700, " " * 16000 + "a noop()"]
)
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ActionError):
        parse(text, ACTIONS)
    assert time.process_time() - began < 1.0


def test_random_policies_draw_calls_that_are_read() -> None:
    drawn = BrowserGymEnvironment.schemas()["action"]["properties"]["action_str"]["x-sample"]
    assert len(drawn["enum"]) > 40
    assert all(len(parse(text, ACTIONS)) == 1 for text in drawn["enum"])
