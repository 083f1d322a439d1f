"""Rows of tasks on sites, and what solves them: no browser needed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from browsergym_env.environment import BrowserGymEnvironment
from browsergym_env.site_tasks import grade, load_tasks

from openenv_async.errors import EnvironmentStartFailed, InvalidOption


class FakePage:
    """A page of which grading asks the address and the contents alone."""

    def __init__(self, url: str, content: str = "") -> None:
        self.url = url
        self._content = content
        self.closed = False

    async def content(self) -> str:
        return self._content

    async def evaluate(self, script: str) -> Any:
        return json.loads(script.removeprefix("() => document."))

    async def close(self) -> None:
        self.closed = True


def row(**asked: Any) -> dict[str, Any]:
    return {"id": "one", "goal": "Do it.", "start_url": "index.html", "eval": asked}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(each) for each in rows))
    return path


async def graded(tmp_path: Path, asked: dict[str, Any], answer: str, url: str) -> float:
    task = load_tasks(write(tmp_path / "t.jsonl", row(**asked)), lambda text: text)["one"]
    assert not task.unsupported
    opened: list[FakePage] = []

    async def look(address: str) -> Any:
        opened.append(FakePage(address, f"<p>{address}</p>"))
        return opened[-1]

    page: Any = FakePage(url, "<p>Fish &amp; Chips</p>")
    reward = await grade(task, answer, page, look)
    assert all(other.closed for other in opened)
    assert not page.closed
    return reward


@pytest.mark.parametrize(
    ("wanted", "answer", "reward"),
    [
        ({"exact_match": "Blue Cup"}, " 'blue cup' ", 1.0),
        ({"exact_match": "Blue Cup"}, "a blue cup", 0.0),
        ({"exact_match": "N/A"}, "n/a", 1.0),
        ({"must_include": ["blue", "cup"]}, "The cup is BLUE.", 1.0),
        ({"must_include": ["blue", "cup"]}, "The mug is blue.", 0.0),
        ({"must_include": ["0"]}, "there are 10", 0.0),
        ({"must_include": ["0"]}, "there are 0.", 1.0),
        ({"must_include": ["0"]}, "0.5 of them", 0.0),
        ({"must_include": ["5"]}, "it costs $5", 1.0),
        ({"exact_match": "a", "must_include": ["b"]}, "a", 0.0),
    ],
)
async def test_answers(tmp_path: Path, wanted: Any, answer: str, reward: float) -> None:
    asked = {"eval_types": ["string_match"], "reference_answers": wanted}
    assert await graded(tmp_path, asked, answer, "http://pages/") == reward


@pytest.mark.parametrize(
    ("reference", "url", "reward"),
    [
        ("http://shop/cart", "http://shop/cart/", 1.0),
        ("http://shop/cart", "http://shop/", 0.0),
        ("http://shop/list?sort=price", "http://shop/list?page=2&sort=price", 1.0),
        ("http://shop/list?sort=price", "http://shop/list?sort=name", 0.0),
        ("http://shop/a |OR| http://shop/b", "http://shop/b", 1.0),
        ("http://shop/a?x=1 |OR| http://shop/b?x=2", "http://shop/b?x=1", 1.0),
    ],
)
async def test_addresses(tmp_path: Path, reference: str, url: str, reward: float) -> None:
    asked = {"eval_types": ["url_match"], "reference_url": reference}
    assert await graded(tmp_path, asked, "", url) == reward


@pytest.mark.parametrize(
    ("url", "locator", "contents", "reward"),
    [
        ("last", "", {"must_include": ["fish & chips"]}, 1.0),
        ("last", "", {"must_include": ["fish", "peas"]}, 0.0),
        ("last", "", {"must_include": ["peas |OR| chips"]}, 1.0),
        ("last", 'document."Thanks"', {"exact_match": "thanks"}, 1.0),
        ("last", "document.null", {"exact_match": "None"}, 1.0),
        ("http://pages/orders", "", {"must_include": ["pages/orders"]}, 1.0),
        ("http://pages/orders", "", {"must_include": ["fish"]}, 0.0),
    ],
)
async def test_contents(
    tmp_path: Path, url: str, locator: str, contents: Any, reward: float
) -> None:
    target = {"url": url, "locator": locator, "required_contents": contents}
    asked = {"eval_types": ["program_html"], "program_html": [target]}
    assert await graded(tmp_path, asked, "", "http://pages/") == reward


async def test_every_part_has_to_hold(tmp_path: Path) -> None:
    asked = {
        "eval_types": ["string_match", "url_match"],
        "reference_answers": {"exact_match": "3"},
        "reference_url": "http://pages/a",
    }
    assert await graded(tmp_path, asked, "3", "http://pages/a") == 1.0
    assert await graded(tmp_path, asked, "4", "http://pages/a") == 0.0
    assert await graded(tmp_path, asked, "3", "http://pages/b") == 0.0


def test_rows_of_webarena_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [
        {
            "task_id": 21,
            "sites": ["shopping"],
            "intent": "Buy it",
            "start_url": "__SHOP__/a |AND| __SHOP__/b",
            "storage_state": "./.auth/shop_state.json",
            "eval": {
                "eval_types": ["url_match"],
                "reference_answers": None,
                "reference_url": "__SHOP__/end",
                "program_html": [],
            },
        }
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(rows))
    task = load_tasks(path, lambda text: text.replace("__SHOP__", "http://shop"))["21"]
    assert (task.goal, task.start) == ("Buy it", ("http://shop/a", "http://shop/b"))
    assert task.storage_state == "shop_state.json"
    assert task.asked["reference_url"] == "http://shop/end"


ANSWER = {"eval_types": ["string_match"], "reference_answers": {"exact_match": "3"}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no tasks"),
        ([3], "row 1 is not a task: it must be an object"),
        ([{"id": "a"}], "row 1 has no 'goal'|row 1 has no 'intent'"),
        ([row(**ANSWER), row(**ANSWER)], "row 2 repeats the id 'one'"),
        ([row(eval_types=["smell"])], "eval_types must be some of string_match"),
        ([row(eval_types=["string_match"], reference_answers={})], "needs reference_answers"),
        ([row(eval_types=["url_match"], reference_url="")], "needs reference_url"),
        ([row(eval_types=["program_html"], program_html=[{}])], "row 1 has no 'url'"),
        ([{**row(**ANSWER), "start_url": "http://example.com/"}], "start page.*not of an allowed"),
        (
            [row(eval_types=["string_match"], reference_answers={"must_include": "x"})],
            "must_include must be a list of texts",
        ),
        (
            [row(eval_types=["string_match"], reference_answers={"fuzzy_match": ["x"]})],
            "no tasks that can be played",
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_told(tmp_path: Path, rows: list[Any], message: str) -> None:
    write(tmp_path / "tasks.jsonl", *rows)
    with pytest.raises(InvalidOption, match=message):
        BrowserGymEnvironment(pages=str(tmp_path))


async def test_tasks_are_chosen_and_listed_without_their_answers(tmp_path: Path) -> None:
    fuzzy = row(eval_types=["string_match"], reference_answers={"fuzzy_match": ["x"]})
    other = {**row(**ANSWER), "id": "two", "split": "test"}
    write(tmp_path / "tasks.jsonl", row(**ANSWER), {**fuzzy, "id": "vague"}, other)
    params: dict[str, Any] = {"pages": str(tmp_path)}
    table = BrowserGymEnvironment.tasks_for(**params)
    assert table is not None
    assert (table.splits(), table.count("train")) == (["train", "test"], 1)
    task = table.get("test", 0)
    assert (task.id, dict(task.data)) == ("two", {"task_name": "two", "goal": "Do it."})
    assert not task.private
    assert BrowserGymEnvironment.tasks_for() is None
    assert BrowserGymEnvironment.certification_for(**params) is None
    assert (await BrowserGymEnvironment(task_name="two", **params).state()).task_id == "sites.two"
    for name, message in (("tow", "did you mean two"), ("vague", "needs a language model")):
        with pytest.raises(InvalidOption, match=message):
            BrowserGymEnvironment(task_name=name, **params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmark": "sites"}, "needs tasks_path=FILE"),
        ({"sites": {"shop": "http://127.0.0.1"}}, "needs tasks_path=FILE"),
        ({"benchmark": "sites", "tasks_path": "TASKS"}, "needs pages=FOLDER"),
        ({"sites": "shop", "tasks_path": "TASKS"}, "'' .*|has the address"),
        ({"sites": {"shop": "ftp://x"}, "tasks_path": "TASKS"}, "write http://HOST:PORT"),
        ({"sites": {"shop": "http://*.com"}, "tasks_path": "TASKS"}, "write http://HOST:PORT"),
        ({"sites": {"shop": "http://a,MAP * b"}, "tasks_path": "TASKS"}, "write http://HOST"),
        ({"sites": {"shop": "http://u:p@a"}, "tasks_path": "TASKS"}, "write http://HOST:PORT"),
        ({"sites": {"pages": "http://a"}, "tasks_path": "TASKS"}, "not the name of a site"),
        ({"sites": [3], "tasks_path": "TASKS"}, "addresses by name"),
        ({"pages": "/nowhere/at/all"}, "pages: .* is not a folder"),
        ({"pages": "FOLDER", "logins": "/nowhere"}, "logins: .* is not a folder"),
        ({"pages": "FOLDER", "reset_hook": "json:__name__"}, "is not a function"),
        ({"pages": "FOLDER", "reset_timeout": -1}, "must be a positive number"),
    ],
)
def test_settings_that_make_no_sense_are_told(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "tasks.jsonl", row(**ANSWER))
    stand_ins = {"TASKS": str(path), "FOLDER": str(tmp_path)}
    given: dict[str, Any] = {
        key: stand_ins.get(value, value) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    with pytest.raises(InvalidOption, match=message):
        BrowserGymEnvironment(**given)


async def slow(_: Any) -> None:
    await asyncio.Event().wait()


def wrong(_: Any) -> Any:
    return [3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs the login shop.json: give logins"),
        ({"logins": "empty"}, "has no shop.json"),
        ({"logins": "broken"}, "shop.json is not JSON"),
        ({"reset_hook": "test_site_tasks:wrong"}, "a dict of cookies and origins, got list"),
        ({"reset_hook": "test_site_tasks:slow", "reset_timeout": 0.01}, "longer than 0.01 s"),
    ],
)
async def test_a_site_that_is_not_made_ready_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for folder in ("pages", "empty", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "shop.json").write_text("{")
    write(tmp_path / "pages" / "tasks.jsonl", {**row(**ANSWER), "storage_state": "shop.json"})
    if "logins" in settings:
        settings = {"logins": str(tmp_path / settings["logins"])}
    env = BrowserGymEnvironment(pages=str(tmp_path / "pages"), **settings)
    with pytest.raises(EnvironmentStartFailed, match=message):
        await env.reset()
    await env.close()
