"""Which rewards count as solved: the table against the package's notes and pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from browsergym_env import TASKS
from browsergym_env.environment import BrowserGymEnvironment
from browsergym_env.page import Score
from browsergym_env.solved import TOLERANCES, is_solved
from browsergym_env.tasks import pages_folder

# What the pages can give for a part of a task or for a wrong answer, by their source.
PARTS = {
    "ascending-numbers": [0.2, 0.4, 0.6, 0.8],
    "button-delay": [0.35, 0.6],
    "click-checkboxes": [1 / 3, 0.6, 0.8],
    "click-checkboxes-large": [10 / 12, 0.5],
    "click-checkboxes-soft": [0.2, 2 / 3],
    "click-checkboxes-transfer": [1 / 3, 2 / 3],
    "drag-shapes-2": [1.3 - 2.3 / 5],
    "draw-circle": [0.9, 0.5 * 0.9, 0.1],
    "draw-line": [0.8 * 0.75 + 0.2, 0.8 + 0.2 * 0.75],
    "find-greatest": [0.1],
    "hot-cold": [0.25, 0.5],
    "moving-items": [0.2, 0.8],
    "odd-or-even": [1 / 3],
    "phone-book": [0.7 - 0.3],
}


def notes() -> Iterator[tuple[str, str]]:
    """Every task of the package with the notes in its docstring."""
    tree = ast.parse((pages_folder().parent / "envs" / "miniwob_envs.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
                    yield str(line.value.value), ast.get_docstring(node) or ""


@pytest.mark.parametrize("task", TASKS)
def test_the_whole_reward_solves_every_task_and_a_part_none(task: str) -> None:
    assert is_solved(task, 1)
    assert is_solved(task, 0.7 + 0.3 - 1e-12)
    for part in (-1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, *PARTS.get(task, ())):
        assert not is_solved(task, part), part


def test_tolerances_are_for_pages_whose_notes_ask_for_a_threshold_and_for_measurements() -> None:
    noted = dict(notes())
    assert len(set(TASKS) & set(noted)) == 125  # five tasks have a page and no class
    asked = {task for task, text in noted.items() if "get_thresholded_reward" in text}
    assert len(asked) == 5
    assert asked <= set(TOLERANCES)
    # Two more give a share of an angle or of a time, without such a note.
    assert set(TOLERANCES) - asked == {"right-angle", "chase-circle"}


def test_no_other_page_gives_a_part_of_the_reward() -> None:
    """Every page with a positive reward that is not 1 is a measurement or in ``PARTS``."""
    found = set()
    for task in TASKS:
        source = (pages_folder() / "miniwob" / f"{task}.html").read_text()
        ends = re.findall(r"endEpisode\(([^,)]+)", source)
        plain = {"1", "1.0", "-1", "-1.0"}
        values = re.findall(r"(?:return|reward =|\br =|\br \+=|score =) *(.*?);", source)
        known = all(end in plain for end in ends) or any(
            re.fullmatch(r".*\? *1(\.0)? *: *-1(\.0)?", value) for value in values
        )
        if not known:
            found.add(task)
    partial = set(PARTS) | set(TOLERANCES)
    # Pages that the pattern does not read, each with the reward 1 or a negative one.
    read = {
        "buy-ticket",  # 1, -0.5 or -1
        "click-menu-2",  # 1 or -1, as all below that say nothing else
        "click-shape",
        "click-test-transfer",
        "count-shape",
        "focus-text",  # 1
        "form-sequence-2",
        "hover-shape",  # never ends
        "identify-shape",
        "resize-textarea",
        "tic-tac-toe",  # 1, -0.5 or -0.75
    }
    assert found - partial <= read


def test_the_answers_between_right_and_wrong_of_every_page_are_rewarded_0_by_binary() -> None:
    env = BrowserGymEnvironment()
    env._reward = "binary"
    for task, parts in PARTS.items():
        env._task = task
        for part in parts:
            assert env._rewarded(Score(True, True, part, part, None)) == 0.0, (task, part)
        assert env._rewarded(Score(True, True, 0.4, 1.0, None)) == 1.0
        assert env._rewarded(Score(True, False, 1.0, 1.0, None)) == 0.0
