from __future__ import annotations

from pathlib import Path

import pytest
from browsergym_env import ENVIRONMENT, TASKS, TEST_TASKS, TRAIN_TASKS, BrowserGymAction
from browsergym_env.environment import BrowserGymEnvironment
from browsergym_env.models import BrowserGymObservation
from browsergym_env.policy import RandomClicks, elements, rules
from browsergym_env.tasks import pages_folder, resolve

from openenv_async.errors import EnvironmentStartFailed, InvalidOption
from openenv_async.targets.discovery import find_entry


def test_the_list_has_every_page_of_the_package_once() -> None:
    pages = {path.stem for path in (pages_folder() / "miniwob").glob("*.html")}
    assert set(TASKS) == pages
    assert len(TASKS) == len(TRAIN_TASKS) + len(TEST_TASKS) == 130


def test_the_split_keeps_families_together() -> None:
    for test in TEST_TASKS:
        stem = "-".join(test.split("-")[:2])
        assert not [name for name in TRAIN_TASKS if name == stem or name.startswith(stem + "-")]


def test_names_are_understood() -> None:
    for name in ("click-test", "miniwob.click-test", "browsergym/miniwob.click-test"):
        assert resolve(name) == "click-test"


def test_an_unknown_task_gets_the_nearest() -> None:
    with pytest.raises(InvalidOption, match="did you mean click-test"):
        resolve("click-tset")
    with pytest.raises(InvalidOption, match="lists them all"):
        resolve("xyzzy")


def test_variables_are_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSERGYM_TASK_NAME", "enter-txt")
    with pytest.raises(InvalidOption, match="did you mean enter-text"):
        BrowserGymEnvironment()
    monkeypatch.setenv("BROWSERGYM_TASK_NAME", "enter-text")
    monkeypatch.setenv("BROWSERGYM_VIEWPORT_WIDTH", "wide")
    with pytest.raises(InvalidOption, match="BROWSERGYM_VIEWPORT_WIDTH must be a positive"):
        BrowserGymEnvironment()
    BrowserGymEnvironment(viewport_width=400)
    monkeypatch.setenv("BROWSERGYM_BENCHMARK", "webarena")
    with pytest.raises(InvalidOption, match="choose miniwob, or sites"):
        BrowserGymEnvironment(viewport_width=400)


def test_pages_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = pages_folder.__wrapped__
    usual = read()
    monkeypatch.setenv("MINIWOB_URL", (usual / "miniwob").as_uri() + "/")
    assert read() == usual
    monkeypatch.setenv("MINIWOB_URL", "http://127.0.0.1:1/miniwob/")
    with pytest.raises(EnvironmentStartFailed, match="give file://"):
        read()
    monkeypatch.setenv("MINIWOB_URL", tmp_path.as_uri() + "/miniwob/")
    with pytest.raises(EnvironmentStartFailed, match="no MiniWoB pages"):
        read()


def test_it_is_found_by_name() -> None:
    assert find_entry("browsergym-env") == ENVIRONMENT
    assert ENVIRONMENT.action_class() is BrowserGymAction


def observed(goal: str, *lines: str) -> BrowserGymObservation:
    return BrowserGymObservation(goal, "http://miniwob/", axtree_txt="\n".join(lines))


def test_rules_read_goal_and_tree() -> None:
    seen = observed(
        'Enter "it\'s" into the text field and press Submit.',
        "RootWebArea 'Enter Text Task', focused",
        "\t[2] generic 'Enter \" it\\'s \" into the text field and press Submit.'",
        "\t[6] textbox ''",
        "\t[7] button 'Submit'",
    )
    assert [e.bid for e in elements(seen)] == ["6", "7"]
    assert rules(seen).action_str == "fill('6', \"it's\")\nclick('7')"
    assert rules({"goal": seen.goal, "url": "", "axtree_txt": seen.axtree_txt}) == rules(seen)


def test_random_clicks_are_the_episodes_own() -> None:
    seen = observed("Click.", *(f"[{n}] button 'b{n}'" for n in range(50)))
    policies = [RandomClicks(3).for_episode(index) for index in (0, 0, 1)]
    draws = [[policy(seen).action_str for _ in range(4)] for policy in policies]
    assert draws[0] == draws[1] != draws[2]
    assert RandomClicks(0)(observed("Click.")).action_str == "noop()"
