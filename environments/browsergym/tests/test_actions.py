"""How the text of an action is read: no browser needed."""

from __future__ import annotations

import pytest
from browsergym_env.acting import ACTIONS
from browsergym_env.actions import MAX_CALLS, MAX_LENGTH, ActionError, Call, parse
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
    ],
)  # fmt: skip
def test_calls_are_read(text: str, calls: list[Call]) -> None:
    assert parse(text, ACTIONS) == calls


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("click 12", "not a call such as click"),
        ("12", "not a call such as click"),
        ("x = click('1')", "not a call such as click"),
        ("import os", "not a call such as click"),
        ("os.system('true')", "not a call such as click"),
        ("click('1').fill()", "not a call such as click"),
        ("(lambda: 1)()", "not a call such as click"),
        ("__import__('os')", "there is no action __import__"),
        ("do(1)", "there is no action do"),
        ("goto('file:///etc/passwd')", "there is no action goto"),
        ("click(open('x'))", "must be literals"),
        ("click(f'{1}')", "must be literals"),
        ("click('a' * 9)", "must be literals"),
        ("click(*['1'])", "must be literals"),
        ("click(**{'bid': '1'})", "must be literals"),
        ("click()", "missing a required argument: 'bid'"),
        ("click('1', 'left', [], 4)", "too many positional"),
        ("click('1', colour='red')", "unexpected keyword"),
        ("click(12)", "bid cannot be 12"),
        ("click('1', 'upper')", "button cannot be 'upper'"),
        ("click('1', modifiers=['Hyper'])", "modifiers cannot be"),
        ("mouse_move('1', 2)", "x cannot be '1'"),
        ("mouse_move(True, 2)", "x cannot be True"),
        ("mouse_move(1e999, 2)", "x cannot be inf"),
        ("mouse_move(10**9, 2)", "must be literals"),
        ("fill('1', None)", "value cannot be None"),
        ("noop()\n" * (MAX_CALLS + 1), f"at most {MAX_CALLS}"),
        ("#" * (MAX_LENGTH + 1), f"at most {MAX_LENGTH}"),
        ("(" * 8000, "not a call such as click"),
        (
            "click(" + "[" * 500 + "]" * 500 + ")",
            "not a call such as click|must be literals|cannot",
        ),
        ("click('\0')", "not a call such as click"),
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
