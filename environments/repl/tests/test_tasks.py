"""The bundled tasks and what counts as right."""

from __future__ import annotations

import pytest
from repl_env.answers import is_right, printed_answer
from repl_env.tasks import TASKS, Split, draw

from openenv_async.errors import InvalidOption


@pytest.mark.parametrize("name", TASKS)
def test_tasks_follow_the_seed(name: str) -> None:
    drawn = draw(3, name, None)
    assert drawn == draw(3, name, None)
    assert drawn.context != draw(4, name, None).context
    assert len(drawn.context.splitlines()) >= 150
    assert drawn.expected_answer
    answers = {draw(seed, name, None).expected_answer for seed in range(20)}
    assert len(answers) > 5


def test_splits_are_by_name() -> None:
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        names = {draw(seed, None, split).name for seed in range(40)}
        assert names == {name for name, (of, _) in TASKS.items() if of == split}
    with pytest.raises(InvalidOption, match="choose one of needle"):
        draw(0, "none", None)
    with pytest.raises(InvalidOption, match="choose train or test"):
        draw(0, None, "none")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("stdout", "answer", "variable"),
    [
        ("FINAL(42)\n", "42", ""),
        ("thinking\n  FINAL( a (b) c )  \nmore", "a (b) c", ""),
        ("FINAL_VAR(x)", "", "x"),
        ("FINAL_VAR('x')", "", "x"),
        ("FINAL(1)\nFINAL(2)", "1", ""),
        ("the text says FINAL(42) somewhere", "", ""),
        ("FINAL(42) said the text", "", ""),
        ("", "", ""),
    ],
)
def test_printed_answers(stdout: str, answer: str, variable: str) -> None:
    assert printed_answer(stdout) == (answer, variable)


def test_what_is_right() -> None:
    assert is_right(" 42\n", "42")
    assert is_right("e\u0301", "é")
    assert is_right("42.0", "42")
    assert is_right("+4.2e1", "42")
    assert is_right("-0.5", "-.5")
    assert not is_right("42.5", "42")
    assert not is_right("-42", "42")
    assert not is_right("007", "7")  # more likely a name than a number
    assert not is_right("nan", "NaN")
    assert not is_right("42.", "42")
    assert not is_right("Corvo", "corvo")
    assert not is_right("", "42")
